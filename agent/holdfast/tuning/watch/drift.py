"""Whether settings still are as applied, and what is done about those that are not."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from holdfast.operations.model import now
from holdfast.tuning.changes.store import Active, InForce, StoredKnob
from holdfast.tuning.changes.transaction import Failure, Panel
from holdfast.tuning.events import Events
from holdfast.tuning.models import DriftedSetting
from holdfast.tuning.planning.knobs import Knob, Observed

ENFORCE_LIMIT = 3
"""A setting is written back at most this many times..."""
ENFORCE_SECONDS = 3600.0
"""...within this many seconds; after that it is contested, and only reported."""


@dataclass(frozen=True)
class _Off:
    """A setting that is not as applied."""

    knob: Knob
    setting: InForce
    seen: Observed


class Drift:
    """What has drifted since when, and how often it was written back.

    Used by one thread at a time, with the settings locked; `drifted` may be read by others.
    """

    def __init__(
        self,
        panel: Panel,
        events: Events,
        write_back: Callable[[Sequence[InForce]], Sequence[Failure]],
    ) -> None:
        """`write_back` restores the values of settings, and returns those that it could not."""
        self._panel = panel
        self._events = events
        self._write_back = write_back
        self._since: dict[Knob, datetime] = {}
        self._corrected: dict[Knob, deque[float]] = {}
        self._contested: set[Knob] = set()
        self.drifted: Sequence[DriftedSetting] = ()
        self.checked_at: datetime | None = None

    def forget(self) -> None:
        """Begin anew, after settings were applied or rolled back."""
        self._since.clear()
        self._corrected.clear()
        self._contested.clear()
        self.drifted = ()

    def inspect(self, active: Active) -> list[DriftedSetting]:
        """Return what currently differs, and change nothing."""
        return [self._described(drift) for drift in self._off(active.settings)]

    def check(self, active: Active) -> None:
        """Check every setting in force, report what changed, and enforce if that is the policy."""
        off = self._off(active.settings)
        fresh = [drift for drift in off if drift.knob not in self._since]
        if fresh:
            self._events.add(
                "drifted",
                f"{_count(fresh)} drifted from profile {active.profile}: "
                + "; ".join(_summary(drift) for drift in fresh[:5]),
                profile=active.profile,
                settings=[str(drift.knob) for drift in fresh],
            )
        if active.policy == "enforce":
            self._enforce(active, off)
            off = self._off(active.settings)
        self._settle(active, {drift.knob for drift in off})
        moment = now()
        self._since = {drift.knob: self._since.get(drift.knob, moment) for drift in off}
        self.drifted = [self._described(drift) for drift in off]
        self.checked_at = moment

    def _off(self, settings: Sequence[InForce]) -> list[_Off]:
        seen = self._panel.observe(setting.knob for setting in settings)
        return [
            _Off(setting.knob, setting, seen[setting.knob])
            for setting in settings
            if not self._panel.same(setting.knob, setting.value, seen[setting.knob])
            # What is gone has not drifted.
            and not self._panel.gone(setting)
        ]

    def _enforce(self, active: Active, off: Sequence[_Off]) -> None:
        moment = time.monotonic()
        allowed = []
        for drift in off:
            times = self._corrected.setdefault(drift.knob, deque())
            while times and moment - times[0] > ENFORCE_SECONDS:
                times.popleft()
            if len(times) < ENFORCE_LIMIT:
                self._contested.discard(drift.knob)
                times.append(moment)
                allowed.append(drift)
            elif drift.knob not in self._contested:
                self._contested.add(drift.knob)
                self._events.add(
                    "contested",
                    f"{drift.knob} was written back {ENFORCE_LIMIT} times and changed again: "
                    "another program sets it, so it is only reported for a while",
                    profile=active.profile,
                    settings=[str(drift.knob)],
                )
        if not allowed:
            return
        failures = self._write_back([drift.setting for drift in allowed])
        failed = {failure.knob for failure in failures}
        done = [drift for drift in allowed if drift.knob not in failed]
        if done:
            self._events.add(
                "enforced",
                f"{_count(done)} of profile {active.profile} written back: "
                + ", ".join(str(drift.knob) for drift in done[:5]),
                profile=active.profile,
                settings=[str(drift.knob) for drift in done],
            )
        for failure in failures:
            self._events.add(
                "failed",
                f"{failure.knob} could not be written back: it {failure.reason}",
                profile=active.profile,
                settings=[str(failure.knob)],
            )

    def _settle(self, active: Active, off: set[Knob]) -> None:
        settled = [knob for knob in self._since if knob not in off]
        if settled:
            self._events.add(
                "settled",
                f"as profile {active.profile} wants it again: "
                + ", ".join(str(knob) for knob in settled[:5]),
                profile=active.profile,
                settings=[str(knob) for knob in settled],
            )

    def _described(self, drift: _Off) -> DriftedSetting:
        return DriftedSetting(
            name=drift.knob.name,
            subsystem=drift.knob.subsystem,
            target=drift.knob.target,
            desired=drift.setting.value if drift.knob.subsystem != "persistence" else "as applied",
            observed=drift.seen.value if drift.knob.subsystem != "persistence" else "changed",
            since=self._since.get(drift.knob) or now(),
            contested=drift.knob in self._contested,
            note=drift.seen.problem,
        )


def counts(settings: Iterable[StoredKnob]) -> Mapping[str, int]:
    """Count settings by subsystem."""
    found: dict[str, int] = {}
    for setting in settings:
        found[setting.subsystem] = found.get(setting.subsystem, 0) + 1
    return found


def _summary(drift: _Off) -> str:
    if drift.knob.subsystem == "persistence":
        return f"{drift.knob.target} was changed"
    seen = drift.seen
    is_now = seen.value if seen.value is not None else f"gone ({seen.problem})"
    return f"{drift.knob} is {is_now} instead of {drift.setting.value}"


def _count(some: Sequence[object]) -> str:
    return f"{len(some)} setting{'s' if len(some) != 1 else ''}"
