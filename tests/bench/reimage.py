"""Re-imaging a whole machine, in emulation: how long it is away, and how fast it writes."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.bench.context import Context
from tests.bench.figures import Section, at_least, below
from tests.vm.image import CACHE
from tests.vm.reimage.controller import Controller, boot_id
from tests.vm.reimage.images import Systems
from tests.vm.reimage.installation import installed_disks, made_systems
from tests.vm.reimage.node import BOOT_SECONDS, Disks, Node, running
from tests.vm.reimage.published import Published, publishing
from tests.vm.reimage.story import IMAGE_SECONDS, arm, stage
from tests.vm.service import first_pass

BEYOND_SECONDS = 60.0
"""What a re-imaging may take beyond two plain reboots of the same machine."""
LIFEBOAT_SHARE = 1.05
"""How long a re-imaging with a lifeboat may take, as a share of one without."""
LIFEBOAT_MIB = 64
WRITE_SHARE = 0.9
MEMORY_MIB = 128
_SLOW_DISK_BYTES = 24 << 20
"""A second, of a disk that is slower than an emulated processor can unpack."""
_PROBE_MIB = 192

# Writes past the page cache, to the root disk, and prints how fast it was.
_PROBE = f"""
dd if=/dev/zero of=/var/tmp/probe bs=1M count={_PROBE_MIB} oflag=direct conv=fsync 2>&1
rm /var/tmp/probe
"""


# A partition in what the machine's disk has behind the image; the kernel alone knows it.
_FILL_THE_TAIL = r"""
set -e
end=0
for part in /sys/block/vda/vda*; do
    this=$(($(cat $part/start) + $(cat $part/size)))
    if [ $this -gt $end ]; then end=$this; fi
done
addpart /dev/vda 9 $end $(($(cat /sys/block/vda/size) - end - 2048))
"""


@dataclass
class _Story:
    """One re-imaging, in seconds on the controller's clock from the order to reboot."""

    arming: float = 0.0
    """From the order to arm to its answer, before that."""
    lifeboat: dict[str, Any] = field(default_factory=dict)
    """Where it is, as the machine reports it once armed."""
    down: float = 0.0
    """When the old system stopped answering."""
    phases: dict[str, float] = field(default_factory=dict)
    """When each phase of the imager was first seen."""
    answers: float = 0.0
    confirmed: float = 0.0
    report: dict[str, Any] = field(default_factory=dict)


def benchmark(context: Context) -> Iterator[Section]:
    """Re-image a machine that is emulated, beside its plain reboots."""
    made = made_systems()
    installed = installed_disks(made)
    directory = CACHE / "bench-reimage"
    disks = directory / "disks"
    try:
        with publishing(made.packed) as published:
            away = Section(
                "A machine becomes another image",
                "The machine of the tests (QEMU without hardware virtualisation, 2 processors, "
                "1.25 GiB, image ABC of 2 GiB staged on RAID0 with XFS), seen by a controller over "
                "HTTPS. A plain reboot counts from the order to the daemon's next answer; the "
                "re-imaging from the order to `confirmed`, with the manifest of the data verified.",
                "seconds",
            )
            reboots: list[float] = []
            stories: list[_Story] = []
            for _ in range(context.rounds):
                with running(made, installed.copy(disks), directory / "run") as node:
                    _up(node)
                    reboots += [_reboot(node), _reboot(node)]
                    stories.append(_reimage(node, published))
            yield _away(away, reboots, stories)
            yield _write(made, installed.copy(disks), directory, published)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _away(section: Section, reboots: list[float], stories: list[_Story]) -> Section:
    plain = section.add("a plain reboot", reboots)
    whole = section.add("order to confirmed", [story.confirmed for story in stories])
    section.add("until the old system is down", [story.down for story in stories])
    section.add(
        "until the imager answers",
        [min(story.phases.values(), default=story.answers) - story.down for story in stories],
        "GRUB, kernel, disks",
    )
    for number, phase in enumerate(("verifying", "writing", "reading_back", "identity")):
        section.add(
            f"imager: {phase}",
            [story.report["phases"][number]["seconds"] for story in stories],
            "by its own clock",
        )
    section.add(
        "the new system's first answer, after the imager's last word",
        [story.answers - max(story.phases.values(), default=0.0) for story in stories],
    )
    section.add("then its checks", [story.confirmed - story.answers for story in stories])
    beyond = whole.median - 2 * plain.median
    memory = max(story.report["memory_peak_bytes"] for story in stories) / (1 << 20)
    section.verdicts += [
        below("beyond two plain reboots", beyond, BEYOND_SECONDS, "s"),
        below("the imager's memory", memory, MEMORY_MIB, "MiB"),
    ]
    report = stories[-1].report
    section.notes.append(
        f"{report['bytes_written']} bytes written of {report['bytes_mapped']} mapped; what is not "
        "mapped is zeroed by the device."
    )
    return section


def lifeboat(context: Context) -> Iterator[Section]:
    """Re-image a machine with a lifeboat and without one, in turns."""
    made = made_systems()
    installed = installed_disks(made)
    directory = CACHE / "bench-lifeboat"
    found: dict[bool, list[_Story]] = {True: [], False: []}
    sizes: list[int] = []
    try:
        with publishing(made.packed) as published:
            for turn in range(2 * context.rounds):
                protected = (turn + turn // 2) % 2 == 0
                disks = installed.copy(directory / "disks")
                with running(made, disks, directory / "run") as node:
                    _up(node)
                    if not protected:
                        node.guest.sh(_FILL_THE_TAIL)
                    story = _reimage(node, published, allow_unprotected=not protected)
                    place = story.lifeboat
                    assert (place["kind"] != "none") == protected, place
                    if protected:
                        sizes.append(place["length_bytes"])
                    found[protected].append(story)
        yield _cost(found[True], found[False], max(sizes))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _cost(protected: list[_Story], bare: list[_Story], size: int) -> Section:
    section = Section(
        "What a lifeboat costs",
        "The machine of `reimage`, whose disk has 1 GiB behind the image: free, or taken by a "
        "partition, so that there is no place for a lifeboat. In turns.",
        "seconds",
    )
    medians = []
    for stories, what in ((protected, "with a lifeboat"), (bare, "without one")):
        whole = section.add(
            f"arming to confirmed, {what}", [story.arming + story.confirmed for story in stories]
        )
        medians.append(whole.median)
        section.add(f"arming, {what}", [story.arming for story in stories])
        section.add(f"order to confirmed, {what}", [story.confirmed for story in stories])
        section.add(
            f"the imager's phases, {what}",
            [sum(phase["seconds"] for phase in story.report["phases"]) for story in stories],
            "by its own clock",
        )
    section.verdicts += [
        below("with a lifeboat", medians[0] / medians[1], LIFEBOAT_SHARE, "times without"),
        below("its place on the disk", size / (1 << 20), LIFEBOAT_MIB + 0.001, "MiB"),
    ]
    return section


def _write(made: Systems, disks: Disks, directory: Path, published: Published) -> Section:
    section = Section(
        "The imager's write, on a disk that is the bottleneck",
        f"The root disk is held at {_SLOW_DISK_BYTES >> 20} MiB/s by QEMU, since an emulated "
        "processor unpacks and digests more slowly than an ordinary disk writes. The peer is "
        f"`dd oflag=direct bs=1M` of {_PROBE_MIB} MiB to a file on it.",
        "MiB/s",
    )
    drive = (
        f"file={disks.root},format=qcow2,if=none,id=root,throttling.bps-write={_SLOW_DISK_BYTES}"
    )
    with running(made, disks, directory / "run", ("-drive", drive)) as node:
        _up(node)
        said = node.guest.sh(_PROBE, seconds=IMAGE_SECONDS)
        match = re.search(r"(\d+) bytes .* copied, ([0-9.]+) s", said)
        assert match, said
        disk = section.add("dd", [int(match[1]) / float(match[2]) / (1 << 20)])
        phase = _reimage(node, published).report["phases"][1]
    imager = section.add("imager", [phase["bytes"] / phase["seconds"] / (1 << 20)])
    section.verdicts.append(
        at_least("writing", imager.median / disk.median, WRITE_SHARE, of="the disk's speed")
    )
    return section


def _up(node: Node) -> None:
    node.control.answers(BOOT_SECONDS)
    node.settled()
    first_pass(node.guest)


def _reboot(node: Node) -> float:
    old = boot_id(node.control.answers(BOOT_SECONDS))
    began = time.monotonic()
    node.guest.tell("guest-shutdown", {"mode": "reboot"})
    node.control.answers(BOOT_SECONDS, not_boot=old)
    took = time.monotonic() - began
    _up(node)
    return took


def _reimage(node: Node, published: Published, **more: Any) -> _Story:
    control, story = node.control, _Story()
    manifest = control.succeeded("/v1/manifests", {"root": "/mnt/data"})["manifest"]
    operation = stage(control, published.request(manifest=manifest, **more))
    began = time.monotonic()
    story.lifeboat = arm(control)["lifeboat"]
    story.arming = time.monotonic() - began
    began = time.monotonic()
    control.post("/v1/reimage/reboot")
    while story.down == 0.0 or not story.answers:
        found = _asked(control)
        now = time.monotonic() - began
        assert now < IMAGE_SECONDS, story
        if found is None:
            story.down = story.down or now
        elif found["state"] == "imaging":
            story.phases.setdefault(found["progress"]["phase"], now)
        elif story.down:
            story.answers = now
    ended = control.finished(operation, IMAGE_SECONDS)
    story.confirmed = time.monotonic() - began
    assert ended["state"] == "succeeded", ended
    story.report = control.get("/v1/reimage")["imager"]
    return story


def _asked(control: Controller) -> Any:
    """Ask for the state every tenth of a second; None where nobody answers."""
    time.sleep(0.1)
    try:
        return control.get("/v1/reimage")
    except httpx.TransportError:
        return None
