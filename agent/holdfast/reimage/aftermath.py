"""After a boot: which system is this, and if it is not the new one, why."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.privileged import Privileged
from holdfast.privileged.boot.models import OutcomeReport
from holdfast.reimage.marker import Marker, read_marker
from holdfast.reimage.store import Job

_HELPER_SECONDS = 60.0
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Arrived:
    """The new system runs."""

    marker: Marker
    took_back: bool = False
    """It had itself been kept while it was armed, and that arming is undone now."""


@dataclass(frozen=True)
class Returned:
    """The old system runs, though the imager was to be booted."""

    why: str


@dataclass(frozen=True)
class Untouched:
    """There was no boot since, or none that had anything to do with it."""


Found = Arrived | Returned | Untouched


def look(job: Job, boot_id: str, privileged: Privileged, pause: Callable[[float], None]) -> Found:
    """Find out what became of an attempt. Undoes what is left of an arming in the old system.

    `pause` sleeps, and raises `CancelledError` if there is no time for it. Raises `OSError` or
    `Refused` if the boot loader cannot be asked or put right.
    """
    try:
        marker = read_marker()
    except ValueError as error:
        return Returned(f"What the imager left cannot be understood: {error}.")
    if marker is not None and marker.nonce == job.nonce:
        return Arrived(marker, took_back=job.restores and _take_back(privileged, pause))
    if job.boot_id is None or job.boot_id == boot_id:
        return Untouched()
    report = _ask(privileged, pause)
    why = _why(job, report)
    privileged.disarm()
    return Returned(why)


def _take_back(privileged: Privileged, pause: Callable[[float], None]) -> bool:
    """Undo the arming that a system was kept with, since it was at the moment of its end."""
    report = _ask(privileged, pause)
    if not report.entry and report.record is None and report.problem is None:
        return False
    privileged.disarm()
    return True


def _ask(privileged: Privileged, pause: Callable[[float], None]) -> OutcomeReport:
    """Ask the helper, which may start a little later than the daemon."""
    deadline = time.monotonic() + _HELPER_SECONDS
    while True:
        try:
            return privileged.boot_outcome()
        except OSError:
            if time.monotonic() > deadline:
                raise
            pause(_AGAIN_SECONDS)


def _why(job: Job, report: OutcomeReport) -> str:
    record = report.record
    if record is None or record.nonce != job.nonce:
        told = f" ({report.problem})" if report.problem else ""
        return (
            "The old system was booted, and what the imager has to say is not where it should "
            f"be{told}: something else wrote to /boot in between."
        )
    if record.state == "refused":
        phase = f" while {record.phase}" if record.phase else ""
        return f"The imager changed nothing{phase}: {record.reason or 'it did not say why'}"
    if record.started:
        phase = f" while {record.phase}" if record.phase else ""
        return (
            f"The imager was started and cut off{phase} before its first write, as by a reset or a "
            "power cut; nothing was changed."
        )
    return (
        "The old system was booted and the imager left no word: the machine was reset before the "
        "boot loader took its entry, another entry was chosen, the boot loader could not load it, "
        "or the imager did not find this disk; nothing was changed."
    )
