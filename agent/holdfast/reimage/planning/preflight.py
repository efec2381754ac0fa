"""What is in the way of re-imaging this machine, and what it would do: for plans and status."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.engine.image_rules import ImageQuestion, ImageWishes, judge
from holdfast.node.models import Disk
from holdfast.privileged.boot.models import BootReport, ExplainRequest, NetworkImage, StagedImage
from holdfast.reimage.models import Boot, ImageSummary, Machine, SpaceReport, StageRequest
from holdfast.storage.space import floor_of

_UNRECOGNISED = (
    "boot the new system, without a marker that proves it (state `unknown`), "
    "and wait for `confirm`."
)
STEPS = {
    "staged": "Copy the image to the data volume and verify all of it.",
    "network": "Leave the image where it is: the imager fetches it, twice.",
}


def describe(
    roots: Sequence[Path],
    imager: Path,
    *,
    image: ImageSummary | None = None,
    source: str | None = None,
    allow_kexec: bool = False,
    allow_unprotected: bool = False,
    require_lifeboat: bool = False,
) -> Machine:
    """Inspect the machine, for a certain image where one is known. Changes nothing.

    `source` is the path that the staged image has or will have, or the URL of one that stays on the
    network. Never raises: what cannot be determined blocks.
    """
    try:
        asked = _request(roots, image, source)
        wishes = {
            "allow_kexec": allow_kexec,
            "allow_unprotected": allow_unprotected,
            "require_lifeboat": require_lifeboat,
        }
        report = explain(asked.model_copy(update=wishes), imager)
    except (OSError, ValueError) as error:
        return Machine(
            target=None,
            disks=[],
            boot=None,
            loses=[],
            unknown=[],
            space=[],
            blocked=[f"This machine cannot be inspected: {error}."],
        )
    return Machine(
        target=report.target,
        disks=report.disks,
        boot=_boot(report),
        loses=report.loses,
        unknown=report.unknown,
        space=[],
        blocked=report.refusals,
        lifeboat=report.lifeboat,
    )


def explain(request: ExplainRequest, imager: Path) -> BootReport:
    """Return what arming would do here, and why it would be refused; needs no rights.

    `imager` is the program that would run. Raises `OSError` without /proc.
    """
    # Half of what the daemon would import at its start, and for plans alone.
    from holdfast.privileged.boot.arming import Boot as BootOfMachine  # noqa: PLC0415

    return BootOfMachine(imager=imager).explain(request)


def on_the_network(url: str) -> bool:
    """Whether the imager can fetch from there."""
    return url.startswith(("http://", "https://"))


def image_problems(image: ImageSummary, request: StageRequest, content: str) -> list[str]:
    """Return sentences on why an image cannot be written as asked, whatever the machine."""
    refusals = []
    if image.facts is not None:
        wishes = ImageWishes(identity=bool(request.identity), grow_root=request.grow_root)
        question = ImageQuestion(image=json.loads(image.facts), wishes=wishes)
        refusals += judge(question).refusals
    if not refusals and image.root_is_mounted is False and request.rollback == "automatic":
        refusals.append(
            f"The imager can leave no marker in the root of {image.name} by which the new system "
            "could be recognised and put back; leave out `rollback`."
        )
    if request.mode == "network" and not on_the_network(content):
        refusals.append(f"{content} cannot be fetched over the network; stage the image instead.")
    return refusals


def image_notes(image: ImageSummary) -> list[str]:
    """Return sentences on what is unknown of an image, or missing in it, and blocks nothing."""
    if image.facts is None:
        return []
    facts = json.loads(image.facts)
    notes = judge(ImageQuestion(image=facts)).notes
    if image.system is not None and image.holdfast is None:
        notes.append(
            f"No holdfast was found in {image.name}: without it nobody checks the new system, and "
            "nobody confirms it."
        )
    notes += facts["notes"]
    return notes


def staging_space(image: ImageSummary, state_dir: Path, present_bytes: int) -> SpaceReport:
    """Return the space that a staged copy needs beside what of it is there already.

    That includes the floor of free space. Raises `OSError`.
    """
    found = os.statvfs(state_dir)
    return SpaceReport(
        what=f"the image, in {state_dir}",
        needed_bytes=max(0, image.content_bytes - present_bytes) + floor_of(state_dir),
        available_bytes=found.f_frsize * found.f_bavail,
    )


def space_problems(space: Sequence[SpaceReport]) -> list[str]:
    """Return sentences on where there is too little space."""
    return [
        f"There is not enough space for {need.what}: {need.needed_bytes} bytes are needed, and "
        f"{need.available_bytes} are free."
        for need in space
        if need.needed_bytes > need.available_bytes
    ]


def steps(machine: Machine, image: ImageSummary | None, request: StageRequest) -> list[str]:
    """Return, for a person, what would happen, in order."""
    where = "the disk of the running system" if machine.target is None else _text(machine.target)
    name = "the image" if image is None else f"{image.name} {image.image_version}"
    kept = ", ".join(request.identity) or "nothing"
    recognised = image is None or (
        image.root_partition is not None and image.root_is_mounted is not False
    )
    return [
        f"stage: {STEPS[request.mode]}",
        "arm: Add a one-time entry to the boot loader; the present system stays the default.",
        "reboot: The imager verifies the image again; whatever is wrong ends in this system.",
        *_saving(request),
        f"write: {name} replaces everything on {where}; no other disk is written.",
        *_growing(image, request),
        *_cut(machine),
        f"carry over: {kept}.",
        _judging(request) if recognised else _UNRECOGNISED,
    ]


def _judging(request: StageRequest) -> str:
    manifest = f", verify manifest {request.manifest}" if request.manifest else ""
    end = "and confirm." if request.confirm == "auto" else "and wait for `confirm`."
    return f"boot the new system, check the data{manifest}, {end}"


def _saving(request: StageRequest) -> list[str]:
    if not request.save_previous:
        return []
    kept = "keep: The imager packs the old disk into an image on the data volume, and reads it back"
    late = (
        f" Unless the new system is confirmed within {request.confirm_seconds} s, it is put back."
        if request.rollback == "automatic"
        else ""
    )
    return [f"{kept}; if it cannot, nothing is written.{late}"]


def _cut(machine: Machine) -> list[str]:
    found = machine.lifeboat
    if found is None:
        return []
    if found.kind == "none":
        return ["after a power cut: The disk may not boot, since there is no lifeboat."]
    return [
        "after a power cut: The firmware boots the lifeboat, which resumes the write; it takes "
        f"{found.length_bytes} bytes of the disk until then."
    ]


def _growing(image: ImageSummary | None, request: StageRequest) -> list[str]:
    if not request.grow_root or image is None:
        return []
    if image.root_is_mounted is False and image.root_partition is not None:
        return ["grow: The imager cannot mount the root, so nothing is extended."]
    if image.root_partition is None:
        return ["grow: No root partition was found in the image, so nothing is extended."]
    if not image.root_is_last:
        return [
            f"grow: Partition {image.root_partition} is not the last one, so it is left as it is."
        ]
    if image.root_volume is not None:
        return [
            f"grow: Partition {image.root_partition} and the physical volume (LVM) on it are "
            f"extended to the end of the disk or to the lifeboat; {image.root_volume} and its "
            f"{image.root_file_system} as well, unless another volume is behind it."
        ]
    return [
        f"grow: Partition {image.root_partition} and its {image.root_file_system} are extended to "
        "the end of the disk, or to where the lifeboat begins."
    ]


def _text(disk: Disk) -> str:
    known = ", ".join(
        part
        for part in (disk.model, f"serial {disk.serial}" if disk.serial else None)
        if part is not None
    )
    return f"{disk.path} ({known or 'no serial number'}, {disk.size_bytes} bytes)"


def _request(
    roots: Sequence[Path],
    image: ImageSummary | None,
    source: str | None,
) -> ExplainRequest:
    place: StagedImage | NetworkImage | None = None
    if source is not None:
        place = StagedImage(path=source) if source.startswith("/") else NetworkImage(url=source)
    modes = [mode for mode in ("bios", "uefi") if image is not None and mode in image.boot_modes]
    return ExplainRequest.model_validate(
        {
            "roots": [str(root) for root in roots],
            "image_name": image.name if image else "NAME",
            "image_bytes": image.size_bytes if image else None,
            "boot_modes": modes if image else None,
            "image": image.facts if image else None,
            "source": place,
        }
    )


def _boot(report: BootReport) -> Boot:
    return Boot(
        mode=report.mode,
        loader=report.loader,
        kernel=report.kernel,
        entry=report.entry,
        files=report.files,
    )
