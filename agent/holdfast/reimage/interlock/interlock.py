"""Asks the gates before this machine goes down, in order, for every way of rebooting it.

Each answer is kept with the attempt. The first refusal ends it, and the machine stays up; what was
taken before is released. With `force` each is asked as well, and none is heeded.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.operations.model import RequestError, ShuttingDown, Slug, format_time, now
from holdfast.privileged import Privileged, Refused
from holdfast.reimage.after_boot.commands import run_command
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.interlock.fleet_lock import Verdict
from holdfast.reimage.interlock.lock_keeper import LockKeeper, Record
from holdfast.reimage.interlock.models import Gate, GateReport, HeldError, InterlockReport
from holdfast.reimage.interlock.window import Windows
from holdfast.reimage.states import ReimageState
from holdfast.reimage.store import Job
from holdfast.text.wording import sentence_of

_PAUSE_SECONDS = 5.0
_RETRY_SECONDS = 60
"""When to come back after a refusal without a time."""
_ASKING_SECONDS = 1
"""When to come back while another call asks."""


@dataclass(frozen=True)
class Rules:
    """What the settings ask for before a reboot."""

    windows: Windows = field(default_factory=lambda: Windows([]))
    lock_seconds: float = 60.0
    """How long one call asks for the lock."""
    command: Sequence[str] = ()
    command_seconds: float = 300.0
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added for the command."""


class Interlock:
    """The gates of this node. Methods may be called from any thread."""

    def __init__(
        self,
        attempt: Attempt,
        privileged: Privileged,
        keeper: LockKeeper,
        rules: Rules,
        *,
        record: Record,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._attempt = attempt
        self._privileged = privileged
        self._keeper = keeper
        self._rules = rules
        self._record = record
        self._clock = clock
        self._turn = threading.Lock()
        self._asking: Gate | None = None
        self._stopping = threading.Event()
        self.refusals: Counter[Gate] = Counter(dict.fromkeys(Gate, 0))
        """How often each gate refused."""

    def stop(self) -> None:
        """End what is being asked."""
        self._stopping.set()

    def report(self, job: Job | None) -> InterlockReport:
        """Return the last answers, and what is open and held now."""
        at = self._clock()
        windows = self._rules.windows
        closes = windows.closes(at)
        changes = None
        if windows.windows:
            changes = windows.opens(at) if closes is None else closes
        return InterlockReport(
            asking=self._asking,
            gates=[] if job is None else job.gates,
            fleet_lock=self._keeper.report(),
            window_open=closes is not None,
            window_changes=changes,
        )

    def figures(self) -> tuple[bool, bool, Mapping[str, int]]:
        """Return whether the lock is held and a window is open, and how often each gate refused."""
        is_open = self._rules.windows.closes(self._clock()) is not None
        counts = {gate.value: self.refusals[gate] for gate in Gate}
        return self._keeper.held, is_open, counts

    def rehearse(self) -> None:
        """Ask what can be asked without a trace. Raises `HeldError`."""
        self._check_window()
        self._check_inhibitors()

    @contextmanager
    def passing(self, job: Job, *, force: bool) -> Iterator[Callable[[], None]]:
        """Ask all gates of an attempt that is armed; reboot it within the block.

        Yields what has to be called right before the order: it raises `HeldError` if a window has
        closed meanwhile. Raises `HeldError` for a no, `RequestError` if another call is asking, if
        the attempt changed, or if an answer cannot be kept.
        """
        if not self._turn.acquire(blocking=False):
            busy = RequestError(
                Slug.CONFLICT,
                f"Another call asks already whether this machine may go down, at "
                f"`{self._asking or Gate.WINDOW}`; wait for its answer.",
            )
            # That call may be this caller's own, whose connection broke meanwhile.
            busy.retry_after = _ASKING_SECONDS
            raise busy
        try:
            self._attempt.update(gates=[])
            self._gate(job, Gate.WINDOW, self._check_window, force=force)
            if self._keeper.configured or self._keeper.damage is not None:
                self._gate(job, Gate.FLEET_LOCK, lambda: self._take_lock(job, force), force=force)
            # Before as well: nothing is drained for a reboot that is held back anyway.
            self._ask(Gate.INHIBITORS, self._check_inhibitors, force=force)
            if self._rules.command:
                self._gate(job, Gate.BEFORE_REBOOT, lambda: self._drain(job), force=force)
            self._gate(job, Gate.INHIBITORS, self._check_inhibitors, force=force)

            def last_look() -> None:
                if not force:
                    self._check_window()
                self._keeper.ordered(job.operation)

            yield last_look
        except HeldError as error:
            self._refuse(job, error)
            raise
        except OSError as error:
            raise RequestError(Slug.IO_ERROR, sentence_of(error)) from error
        finally:
            self._asking = None
            self._keeper.settle()
            self._turn.release()

    def _refuse(self, job: Job, error: HeldError) -> None:
        self.refusals[error.gate] += 1
        report = GateReport(gate=error.gate, passed=False, detail=error.detail, at=now())
        self._keep(job, report)

    def _gate(self, job: Job, gate: Gate, ask: Callable[[], str], *, force: bool) -> None:
        said, overridden = self._ask(gate, ask, force=force)
        report = GateReport(
            gate=gate, passed=not overridden, overridden=overridden, detail=said, at=now()
        )
        self._keep(job, report)

    def _ask(self, gate: Gate, ask: Callable[[], str], *, force: bool) -> tuple[str, bool]:
        """Ask one gate; return its answer, and whether that was a refusal which is overridden."""
        self._asking = gate
        self._look()
        try:
            return ask(), False
        except HeldError as error:
            if not force:
                raise
            return error.detail, True

    def _keep(self, job: Job, report: GateReport) -> None:
        self._record(
            {"event": "gate", "operation": job.operation, **report.model_dump(mode="json")}
        )
        with self._attempt.lock:
            present = self._attempt.job
            if present is not None and present.nonce == job.nonce:
                others = [each for each in present.gates if each.gate is not report.gate]
                self._attempt.update(gates=[*others, report])

    def _check_window(self) -> str:
        windows, at = self._rules.windows, self._clock()
        if not windows.windows:
            return "There is no maintenance window to keep to."
        closes = windows.closes(at)
        if closes is not None:
            return f"The maintenance window is open until {format_time(closes)}."
        opens = windows.opens(at)
        named = ", ".join(f"`{window.text}`" for window in windows.windows)
        if opens is None:
            raise HeldError(Gate.WINDOW, f"No maintenance window ({named}) opens within years.")
        raise HeldError(
            Gate.WINDOW,
            f"The maintenance window ({named}) is closed, and opens at {format_time(opens)}.",
            max(1, int((opens - at).total_seconds()) + 1),
        )

    def _take_lock(self, job: Job, force: bool) -> str:
        """Ask for the lock until it is granted, for so long, not at the same moments as others."""
        if self._keeper.damage is not None:
            raise HeldError(Gate.FLEET_LOCK, self._keeper.damage)
        deadline = time.monotonic() + self._rules.lock_seconds
        while True:
            answer = self._keeper.acquire(job.operation)
            if answer.verdict is Verdict.YES:
                return answer.detail
            pause = max(_PAUSE_SECONDS, answer.retry_after or 0) * random.uniform(1.0, 1.3)  # noqa: S311
            if force or time.monotonic() + pause > deadline:
                raise HeldError(
                    Gate.FLEET_LOCK, answer.detail, answer.retry_after or _RETRY_SECONDS
                )
            self._pause(pause)
            self._check_window_of(force=force)

    def _check_window_of(self, *, force: bool) -> None:
        if not force:
            self._check_window()

    def _drain(self, job: Job) -> str:
        rules = self._rules
        environment = {**rules.environment, "REIMAGE_OPERATION": job.operation}
        ended = run_command(rules.command, rules.command_seconds, self._look, environment)
        if not ended.passed:
            raise HeldError(
                Gate.BEFORE_REBOOT,
                f"The command before a reboot failed: {ended.sentence}",
                _RETRY_SECONDS,
            )
        return ended.sentence

    def _check_inhibitors(self) -> str:
        try:
            found = self._privileged.inhibitors()
        except (Refused, OSError) as error:
            raise HeldError(
                Gate.INHIBITORS,
                f"Whether anything inhibits a shutdown cannot be determined: {sentence_of(error)}",
                _RETRY_SECONDS,
            ) from error
        if found:
            named = "; ".join(f"{each.who} (process {each.pid}): {each.why}" for each in found[:5])
            raise HeldError(Gate.INHIBITORS, f"A shutdown is inhibited by {named}.", _RETRY_SECONDS)
        return "Nothing inhibits a shutdown."

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._look()
            self._attempt.wait(min(0.5, left))

    def _look(self) -> None:
        """Raise if there is no use in asking any more."""
        if self._stopping.is_set():
            raise ShuttingDown
        state = self._attempt.state
        if state is not ReimageState.ARMED:
            raise RequestError(
                Slug.CONFLICT,
                f"The state is `{state}` by now, so the machine is not rebooted.",
                state=state.value,
            )


def no_record(_entry: Mapping[str, Any]) -> None:
    """Write nothing to an audit log."""
