"""Arming with a lifeboat: it is on the disk as the job says, and disarming leaves nothing of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.privileged.boot.disk.freeze import settle
from holdfast.privileged.boot.lifeboat import region
from holdfast.privileged.boot.lifeboat.parts import PARTS_AT, Region
from holdfast.privileged.boot.lifeboat.place import FILES
from holdfast.privileged.boot.models import ArmReport, ExplainRequest
from holdfast.privileged.writes import Refused
from tests.support.disks.bootdisk import DESCRIPTOR, NONCE, BootDisk, boot_disk, run
from tests.support.disks.initramfs import unpacked
from tests.support.machine.loops import MIB

pytestmark = pytest.mark.slow
DISK = 768 * MIB


@pytest.fixture
def disk(disk_dir: Path) -> Iterator[BootDisk]:
    with boot_disk(disk_dir) as found:
        yield found


def cover_tail(disk: BootDisk) -> None:
    """Make a partition of what no partition has."""
    command = ["sfdisk", "--quiet", "--no-reread", "--append", disk.device]
    subprocess.run(command, input="type=83\n", text=True, check=True, capture_output=True)


def stage(disk: BootDisk, **changes: object) -> None:
    disk.descriptor.parent.mkdir(parents=True, exist_ok=True)
    disk.descriptor.write_text(json.dumps(DESCRIPTOR | changes))


def placed(report: ArmReport) -> Region:
    found = report.lifeboat
    assert found is not None
    assert found.offset_bytes is not None
    assert found.length_bytes is not None
    return Region(found.offset_bytes, found.length_bytes)


def on_disk(disk: BootDisk, place: Region) -> bytes:
    os.sync()
    with disk.image.open("rb") as file:
        file.seek(place.offset_bytes)
        return file.read(place.length_bytes)


def explained(disk: BootDisk, **changes: object) -> ExplainRequest:
    fields = {
        "roots": ["/mnt/data"],
        "image_bytes": 64 * MIB,
        "image": json.dumps(DESCRIPTOR),
        "boot_modes": ["bios"],
    }
    return ExplainRequest.model_validate(fields | changes)


@pytest.mark.parametrize("kind", ["tail", "file"])
def test_it_is_where_the_job_says_and_gone_after_disarming(
    disk: BootDisk, disk_dir: Path, kind: str
) -> None:
    if kind == "file":
        cover_tail(disk)
    before = disk.state()
    planned = disk.arming.explain(explained(disk))
    assert planned.lifeboat is not None
    assert planned.lifeboat.kind == kind
    rehearsed = disk.arming.arm(disk.request(dry_run=True))
    assert disk.state() == before
    assert not any(disk.machine.path(path).exists() for path in FILES)
    assert rehearsed.lifeboat is not None
    assert rehearsed.lifeboat.kind == kind

    report = disk.arming.arm(disk.request(grow_root=True))

    assert report.lifeboat is not None
    assert report.lifeboat.kind == kind
    place = placed(report)
    job = json.loads((unpacked(disk, disk_dir / "un") / "holdfast/job.json").read_text())
    assert job["lifeboat"] == {
        "offset_bytes": place.offset_bytes,
        "length_bytes": place.length_bytes,
    }
    assert "allow_unprotected" not in job["options"]
    assert place.offset_bytes >= 64 * MIB
    assert place.end_bytes <= DISK - MIB
    content = on_disk(disk, place)
    header = json.loads(content.partition(b"\n")[0])
    assert header["nonce"] == NONCE
    parts = {part["name"]: part for part in header["parts"]}
    assert set(parts) == {"core", "kernel", "initramfs"}
    for part in parts.values():
        stored = content[part["offset_bytes"] :][: part["length_bytes"]]
        assert hashlib.sha256(stored).hexdigest() == part["sha256"]
    for name, path in (("kernel", "vmlinuz"), ("initramfs", "initramfs.img")):
        whole = (disk.boot / "holdfast" / path).read_bytes()
        assert content[parts[name]["offset_bytes"] :].startswith(whole)
    # Nothing of the disk's own first sector has changed, and the switch has its table.
    first = on_disk(disk, Region(0, 512))
    switch = content[header["switch"]["offset_bytes"] :][:512]
    assert (switch[440:], switch[:440] == first[:440]) == (first[440:], False)
    with pytest.raises(Refused, match="not run by systemd"):
        disk.arming.reboot(NONCE, dry_run=True)
    with Path(disk.device).open("rb+") as file:
        file.seek(place.offset_bytes + PARTS_AT + 5000)
        file.write(b"!")
        file.flush()
        os.fsync(file.fileno())
    with pytest.raises(OSError, match="does not have what was written"):
        disk.arming.reboot(NONCE, dry_run=True)

    undone = disk.arming.disarm()

    assert undone.notes == []
    assert disk.state() == before
    assert not any(disk.machine.path(path).exists() for path in FILES)
    if kind == "tail":
        assert on_disk(disk, place) == bytes(place.length_bytes)
    assert disk.arming.disarm().removed == []


def _removed(file: Path) -> None:
    file.unlink()


def _truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - MIB)


def _moved(file: Path) -> None:
    copy = file.with_name("copy")
    shutil.copy(file, copy)
    copy.replace(file)


@pytest.mark.parametrize("change", [_removed, _truncated, _moved])
def test_blocks_that_its_file_does_not_hold_any_more_are_noticed(
    disk: BootDisk, change: Callable[[Path], None]
) -> None:
    cover_tail(disk)
    place = placed(disk.arming.arm(disk.request()))
    file = next(path for path in map(disk.machine.path, FILES) if path.exists())
    # As it is no program gets at them.
    subprocess.run(("e4defrag", file), capture_output=True, check=False)
    with pytest.raises(PermissionError):
        change(file)
    with pytest.raises(Refused, match="not run by systemd"):
        disk.arming.reboot(NONCE, dry_run=True)
    content = on_disk(disk, place)

    run("chattr", "-i", file)
    change(file)

    settle(disk.root)
    assert on_disk(disk, place) == content, "the bytes are still there"
    with pytest.raises(OSError, match="no file holds the blocks of the lifeboat any more"):
        disk.arming.reboot(NONCE, dry_run=True)
    disk.arming.disarm()
    assert not any(disk.machine.path(path).exists() for path in FILES)


def test_without_a_place_it_is_refused_unless_that_is_allowed(
    disk: BootDisk, disk_dir: Path
) -> None:
    stage(disk, size_bytes=DISK - 2 * MIB)
    before = disk.state()
    with pytest.raises(Refused, match=r"no place for a lifeboat.*ask for `allow_unprotected`"):
        disk.arming.arm(disk.request())
    forbidding = disk.allowing(require_lifeboat=True)
    with pytest.raises(Refused, match=r"`reimage\.require_lifeboat` of the settings forbids"):
        forbidding.arm(disk.request(allow_unprotected=True))
    assert disk.state() == before
    large = explained(disk, image_bytes=DISK - 2 * MIB)
    (refusal,) = disk.arming.explain(large).refusals
    assert "leaves a disk that does not boot" in refusal
    allowed = disk.arming.explain(large.model_copy(update={"allow_unprotected": True}))
    assert (allowed.refusals, allowed.lifeboat and allowed.lifeboat.kind) == ([], "none")

    report = disk.arming.arm(disk.request(allow_unprotected=True))

    assert report.lifeboat is not None
    assert report.lifeboat.kind == "none"
    assert any("no place for a lifeboat" in note for note in report.notes)
    job = json.loads((unpacked(disk, disk_dir / "un") / "holdfast/job.json").read_text())
    assert (job["lifeboat"], job["options"]["allow_unprotected"]) == (None, True)
    disk.arming.disarm()
    assert disk.state() == before


def test_with_uefi_an_image_without_a_gpt_has_no_switch(disk: BootDisk) -> None:
    machine = disk.with_firmware(SecureBoot_8be4df61_93ca_11d2_aa0d_00e098032b8c=b"\0").arming
    for table in (None, {"kind": "dos", "partitions": []}):
        image = json.dumps(DESCRIPTOR | {"partition_table": table})
        found = machine.explain(explained(disk, image=image, boot_modes=["uefi"]))
        assert found.lifeboat is not None
        assert found.lifeboat.kind == "none"
        assert "no GPT" in (found.lifeboat.reason or "")
        assert any("no place for a lifeboat" in one for one in found.refusals)


def test_with_uefi_and_no_system_partition_there_is_none(disk: BootDisk) -> None:
    machine = disk.with_firmware(SecureBoot_8be4df61_93ca_11d2_aa0d_00e098032b8c=b"\0").arming
    found = machine.explain(explained(disk, boot_modes=["uefi"])).lifeboat
    assert found is not None
    assert found.kind == "none"
    assert "No EFI system partition" in (found.reason or "")


def test_a_partition_that_was_made_over_it_meanwhile_is_not_wiped(disk: BootDisk) -> None:
    report = disk.arming.arm(disk.request())
    place = placed(report)
    content = on_disk(disk, place)
    cover_tail(disk)
    undone = disk.arming.disarm()
    (note,) = undone.notes
    assert "was not wiped: a partition is there now" in note
    assert on_disk(disk, place) == content
    assert undone.removed == ["/boot/holdfast"]


def test_what_the_imager_left_of_it_is_wiped_in_the_new_system(disk: BootDisk) -> None:
    place = placed(disk.arming.arm(disk.request()))
    content = on_disk(disk, place)
    marker = disk.root / "etc/holdfast/reimaged.json"

    def left(nonce: str, offset: int = place.offset_bytes) -> list[str]:
        where = {"offset_bytes": offset, "length_bytes": place.length_bytes}
        marker.write_text(json.dumps({"nonce": nonce, "identity": {}, "lifeboat": where}))
        marker.chmod(0o600)
        return disk.arming.forget_lifeboat().notes

    assert disk.arming.forget_lifeboat().notes == []
    # Another one's, or elsewhere, or what was never one: nothing is touched.
    assert left("f" * 32) == []
    assert left(NONCE, 8 * MIB) == []
    assert left(NONCE, DISK) == []
    assert on_disk(disk, place) == content
    cover_tail(disk)
    (note,) = left(NONCE)
    assert "a partition is there now" in note
    assert on_disk(disk, place) == content
    run("sfdisk", "--quiet", "--no-reread", "--delete", disk.device, "2")
    assert left(NONCE) == []
    assert on_disk(disk, place) == bytes(place.length_bytes)
    assert region.nonce_in(Path(disk.device), place) is None
    marker.chmod(0o666)
    with pytest.raises(OSError, match="not believed"):
        disk.arming.forget_lifeboat()


ARM = """
import sys
from pathlib import Path
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.arming import Boot
from holdfast.privileged.boot.models import ArmRequest
from tests.support.disks.bootdisk import POLICY
root, proc, kernel, imager, request = sys.argv[1:]
machine = MachineFiles(Path(root), proc=Path(proc), kernel=kernel, loop_disks=True)
Boot(machine, Path(imager), lambda: POLICY).arm(ArmRequest.model_validate_json(request))
"""


def test_killed_while_a_file_is_held_all_of_it_can_be_undone(disk: BootDisk) -> None:
    cover_tail(disk)
    call = "fallocate"
    machine, before = disk.machine, disk.state()
    request = disk.request().model_dump_json()
    free = os.statvfs(disk.root).f_bfree
    kills = 0
    for number in range(1, 10):
        command = [
            "strace", "-qq", "-f", "-o", "/dev/null", "-e", f"trace={call}",
            "-e", f"inject={call}:signal=SIGKILL:when={number}",
            sys.executable, "-c", ARM, str(machine.root), str(machine.proc), machine.kernel,
            str(disk.arming.imager), request,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        disk.arming.disarm()
        assert disk.state() == before, f"{call} {number}"
        assert not any(machine.path(path).exists() for path in FILES)
        os.sync()
        # But for the directory that it is in.
        assert free - os.statvfs(disk.root).f_bfree < 16
        if done.returncode == 0:
            break
        assert done.returncode in (-9, 137), done.stderr
        kills += 1
    assert kills > 0
