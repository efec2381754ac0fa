"""After a boot: which system is this, and if it is the old one, why.

The new system is recognised by the marker that the imager left in it, or by the UUID of the root
of its image or of that one's partition; the old one by the signs that were noted when it was armed.
What has the signs of neither is left alone: what is deleted by a wrong guess may be the only way
back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.privileged import Privileged
from holdfast.privileged.boot.models import OutcomeReport
from holdfast.privileged.writes import Refused
from holdfast.reimage.after_boot.marker import Marker, read_marker
from holdfast.reimage.store import Job
from holdfast.text.wording import sentence_of

_HELPER_SECONDS = 60.0
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Arrived:
    """The new system runs: it has the marker of this attempt, with its secret."""

    marker: Marker
    took_back: bool = False
    """It had itself been kept while it was armed, and that arming is undone now."""


@dataclass(frozen=True)
class Recognised:
    """The new system runs, though it has no marker: its root is the image's."""

    why: str


@dataclass(frozen=True)
class Returned:
    """The old system runs, though the imager was to be booted: it has all signs of it."""

    why: str
    armed_still: str | None = None
    """Why the boot loader could not be put back; None if it was."""


@dataclass(frozen=True)
class Unknown:
    """Nothing proves which system runs. Nothing was changed."""

    why: str


@dataclass(frozen=True)
class Untouched:
    """There was no boot since, or none that had anything to do with it."""


Found = Arrived | Recognised | Returned | Unknown | Untouched


def detect(job: Job, boot_id: str, privileged: Privileged, pause: Callable[[float], None]) -> Found:
    """Determine the outcome of an attempt. Undoes what is left of an arming in the old system.

    `pause` sleeps, and raises `CancelledError` if there is no time for it. Raises `OSError` or
    `Refused` if the boot loader of the new system cannot be asked or put right.
    """
    marker, unreadable = None, None
    try:
        marker = read_marker()
    except (ValueError, OSError) as error:
        unreadable = f"What the imager may have left cannot be read: {sentence_of(error)}"
    if marker is not None and (marker.nonce, marker.secret) == (job.nonce, job.secret):
        return Arrived(marker, took_back=job.restores and _take_back(privileged, pause))
    if job.boot_id in (None, boot_id):
        return Untouched()
    if unreadable is not None:
        return Unknown(unreadable)
    return _old_or_unknown(job, marker, privileged, pause)


def _old_or_unknown(
    job: Job, marker: Marker | None, privileged: Privileged, pause: Callable[[float], None]
) -> Recognised | Returned | Unknown:
    try:
        report = _ask(privileged, pause)
    except (Refused, OSError) as error:
        return Unknown(f"The signs of this system cannot be read: {sentence_of(error)}")
    missing = missing_signs(job, report)
    if marker is not None and marker.nonce == job.nonce:
        missing.append("there is a marker that names this attempt, without its proof")
    if missing and (new := _image_sign(job, report)) is not None:
        if job.restores:
            _take_back(privileged, pause)
        return Recognised(new)
    if missing:
        return Unknown(
            "This may be the new system without its marker, or another one: it has no marker of "
            f"this attempt, and for the old system, {'; '.join(missing)}."
        )
    why = _why(job, report)
    try:
        privileged.disarm()
    except (Refused, OSError) as error:
        return Returned(why, armed_still=sentence_of(error))
    return Returned(why)


def missing_signs(job: Job, report: OutcomeReport) -> list[str]:
    """Return, in clauses, which of the old system's signs the running system lacks; none proves it.

    The file system and the machine's number may be those of the image too, which can be built from
    the same one and has the number carried over. What only the old system has is what the arming
    wrote into /boot.
    """
    noted, found = job.old_system, report.system
    if noted is None or found is None:
        return ["no signs were noted"]
    missing = []
    if noted.root_uuid is None or found.root_uuid != noted.root_uuid:
        missing.append(
            f"its root has the UUID {found.root_uuid or 'none'} instead of "
            f"{noted.root_uuid or 'one that was noted'}"
        )
    # Signs that an older version did not record prove nothing.
    partition = noted.partition_uuid
    if None not in (partition, found.partition_uuid) and found.partition_uuid != partition:
        missing.append(f"its root is on the partition {found.partition_uuid}, not {partition}")
    if found.machine_id != noted.machine_id:
        missing.append("its machine-id is another")
    record = report.record is not None and report.record.nonce == job.nonce
    if not record and job.nonce not in report.entry_nonces:
        detail = f" ({report.problem})" if report.problem else ""
        missing.append(f"nothing of the arming is in its /boot{detail}")
    return missing


def _image_sign(job: Job, report: OutcomeReport) -> str | None:
    """Return the sign that the image runs, as a sentence; None without one that proves it.

    The UUID of the root, or of its partition, proves it only where the old system had another one,
    and where nothing of the arming is in /boot, which would have been written over.
    """
    noted, found = job.old_system, report.system
    if noted is None or found is None:
        return None
    kept = report.record is not None and report.record.nonce == job.nonce
    if kept or job.nonce in report.entry_nonces:
        return None
    partition = [] if job.image_root_partition is None else [job.image_root_partition]
    for what, here, before, of_image in (
        ("has the UUID", found.root_uuid, noted.root_uuid, job.image_file_systems),
        ("is on the partition", found.partition_uuid, noted.partition_uuid, partition),
    ):
        if here is not None and before not in (None, here) and here in of_image:
            return (
                f"its root {what} {here} of the image instead of the old system's {before}, and "
                "nothing of the arming is in its /boot."
            )
    return None


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
        detail = f" ({report.problem})" if report.problem else ""
        return (
            "The old system was booted, and the imager's outcome is not where it should be"
            f"{detail}: something else wrote to /boot in between."
        )
    if record.state == "refused":
        phase = f" while {record.phase}" if record.phase else ""
        return f"The imager changed nothing{phase}: {record.reason or 'it did not report why'}"
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
