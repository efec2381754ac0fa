"""Puts settings in force on devices that appear, and forgets those of devices that went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from holdfast.operations.ids import new_id
from holdfast.tuning.changes.requests import TuneChange
from holdfast.tuning.changes.store import Active, InForce, State, Valued
from holdfast.tuning.changes.transaction import ChangeFailed, Panel
from holdfast.tuning.events import Events
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.planning.planner import Planner
from holdfast.tuning.planning.resolve import Wanted

_DEVICES = frozenset({"block", "network"})
_APPEAR = _DEVICES | {"sysctl", "modules"}
"""What may not be there yet: devices, and what comes with a module or an interface."""
_VALUED = set(Valued.model_fields)


class Hotplug:
    """Follows the devices of this machine. Used with the settings locked."""

    def __init__(
        self,
        planner: Planner,
        panel: Panel,
        change: Callable[[TuneChange], None],
        events: Events,
    ) -> None:
        """`change` makes a change of settings. It raises `ChangeFailed`."""
        self._planner = planner
        self._panel = panel
        self._change = change
        self._events = events
        # Devices on which a setting failed: not tried again until they appear anew.
        self._refused: set[tuple[Knob, str]] = set()
        # Sysctls and parameters that were not there when the profile was last looked up.
        self._absent: set[Knob] = set()

    def forget(self) -> None:
        """Try again what failed, after settings were applied or rolled back."""
        self._refused.clear()

    def follow(self, state: State, active: Active) -> None:
        """Check all devices.

        Raises `RequestError` and `ProfileError` if the profile cannot be read any more.
        """
        kept = [setting for setting in active.settings if not self._panel.gone(setting)]
        fresh = list(self._fresh(active, {setting.knob for setting in kept}))
        if not fresh and len(kept) == len(active.settings):
            return
        seen = self._panel.observe(setting.knob for setting in fresh)
        off = [
            setting
            for setting in fresh
            if not self._panel.same(setting.knob, setting.value, seen[setting.knob])
        ]
        change = TuneChange(
            how="follow",
            operation=f"hotplug-{new_id()}",
            based_on=state.revision,
            active=active.model_copy(update={"settings": [*kept, *fresh]}),
            goal=[Valued(**setting.model_dump(include=_VALUED)) for setting in off],
        )
        try:
            self._change(change)
        except ChangeFailed as error:
            self._refused |= {(setting.knob, setting.identity) for setting in fresh}
            self._tell(
                "failed",
                f"settings of a device that appeared were reverted: {error.failure}",
                active,
                [error.failure.knob],
            )
            return
        if off:
            targets = ", ".join(sorted({setting.target or setting.name for setting in off}))
            self._tell(
                "hotplugged",
                f"{targets} appeared: {len(off)} settings of profile {active.profile} written and "
                "read back",
                active,
                [setting.knob for setting in off],
            )

    def _fresh(self, active: Active, known: set[Knob]) -> Iterator[InForce]:
        resolved, _ = self._planner.resolve(active.profile)
        unchanged = resolved.digest == active.digest
        absent, self._absent = self._absent, set()
        for setting in resolved.wanted:
            if setting.knob in known or setting.knob.subsystem not in _APPEAR:
                continue
            identity = self._panel.identity(setting.knob)
            if setting.knob.subsystem not in _DEVICES:
                if self._panel.observe([setting.knob])[setting.knob].gone:
                    self._absent.add(setting.knob)
                    continue
                if not unchanged or not (identity or setting.knob in absent):
                    continue
            if (setting.knob, identity) in self._refused or self._impossible(
                setting, identity, active
            ):
                continue
            yield InForce(
                subsystem=setting.knob.subsystem,
                target=setting.knob.target,
                name=setting.knob.name,
                identity=identity,
                value=setting.value,
                source=setting.spot.comment,
                profile=setting.profile,
                defined_at=setting.spot.place,
            )

    def _impossible(self, setting: Wanted, identity: str, active: Active) -> bool:
        observed = self._panel.observe([setting.knob])[setting.knob]
        problem = self._panel.problem(setting.knob, setting.value, observed)
        if problem is None:
            return False
        self._refused.add((setting.knob, identity))
        if not setting.only_if_present:
            self._tell(
                "failed",
                f"{setting.knob} cannot be set on a device that appeared: it {problem}",
                active,
                [setting.knob],
            )
        return True

    def _tell(self, kind: str, message: str, active: Active, knobs: Sequence[Knob]) -> None:
        self._events.add(
            kind, message, profile=active.profile, settings=[str(knob) for knob in knobs]
        )
