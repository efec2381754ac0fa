"""The new root is tried before anything is written: mounted, and given an identity, as a copy."""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from holdfast.privileged.boot.arming import Boot
from holdfast.privileged.boot.models import TryRequest
from holdfast.privileged.boot.policy import Policy
from holdfast.privileged.trial.models import TrialRow
from tests.support.disks.images import MIB, FileSystem, make_disk, run
from tests.support.disks.trials import (
    IMAGER,
    STATE,
    SYSTEM,
    Node,
    ext4_disk,
    loops,
    make_tree,
    node,
)
from tests.support.promptness import promptly
from tests.support.waiting import until

__all__ = ["node"]

VERITY = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
CASTAGNOLI = 0x82F63B78


def xfs_disk(directory: Path) -> Path:
    tree = make_tree(directory / "tree", SYSTEM)
    prototype = directory / "prototype"
    prototype.write_text(
        "/\n0 0\nd--755 0 0\netc d--755 0 0\n"
        f"os-release ---644 0 0 {tree / 'etc/os-release'}\n$\n$\n"
    )
    table = "label: gpt\nstart=1MiB, size=310MiB, type=linux\n"
    make = ("mkfs.xfs", "-q", "-p", str(prototype))
    return make_disk(directory / "a.raw", 320, table, [FileSystem(1, 310, make)])


def crc32c(data: bytes | bytearray) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def set_xfs_feature(disk: Path, offset: int, bit: int) -> None:
    """Set a bit of the features in all superblocks of an XFS at 1 MiB, with right checksums."""
    with disk.open("r+b") as file:
        file.seek(MIB)
        first = file.read(512)
        block_bytes, blocks, groups = (
            *struct.unpack_from(">I", first, 4),
            *struct.unpack_from(">II", first, 84),
        )
        for group in range(groups):
            place = MIB + group * blocks * block_bytes
            file.seek(place)
            sector = bytearray(file.read(512))
            (features,) = struct.unpack_from(">I", sector, offset)
            struct.pack_into(">I", sector, offset, features | bit)
            sector[224:228] = bytes(4)
            sector[224:228] = struct.pack("<I", crc32c(sector))
            file.seek(place)
            file.write(sector)


def outcomes(rows: Mapping[str, TrialRow], *but: str) -> set[str]:
    return {row.outcome for check, row in rows.items() if check not in but}


@pytest.mark.parametrize("pack", [None, "zst"])
def test_a_root_that_can_be_mounted_and_written_passes(node: Node, pack: str | None) -> None:
    node.stage(ext4_disk(node.directory), pack=pack)
    rows = node.rows()
    assert outcomes(rows) == {"passed"}, rows
    assert "5 of 5 files" in rows["identity"].detail
    assert {"copy", "mount", "write", "system", "owners", "space", "marker"} < set(rows)


def test_an_xfs_and_a_subvolume_of_btrfs_pass(node: Node) -> None:
    node.stage(xfs_disk(node.directory))
    rows = node.rows()
    assert outcomes(rows, "owners") == {"passed"}, rows
    # A root without /etc/passwd knows nobody; numbers are carried over.
    assert (rows["owners"].outcome, "user root" in rows["owners"].detail) == ("warning", True)

    part = node.directory / "btrfs"
    with part.open("wb") as file:
        file.truncate(130 * MIB)
    run("mkfs.btrfs", "-q", part)
    tree, top = make_tree(node.directory / "system", SYSTEM), node.directory / "mnt"
    top.mkdir()
    # In a namespace of its own, so that no other one holds the mount.
    fill = 'mount -o loop "$1" "$2" && btrfs -q subvolume create "$2/@" && cp -a "$3/." "$2/@"'
    run("unshare", "--mount", "sh", "-ec", f'{fill} && umount "$2"', "sh", part, top, tree)
    table = "label: gpt\nstart=1MiB, size=130MiB, type=linux\n"
    disk = make_disk(node.directory / "b.raw", 140, table, [])
    run("dd", f"if={part}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
    descriptor = node.stage(disk)
    rows = node.rows()
    assert outcomes(rows) == {"passed"}, rows
    assert "subvolume @" in rows["mount"].detail
    lost = json.loads(json.dumps(descriptor))
    lost["root"]["subvolume"] = "@gone"
    node.redescribe(lost)
    assert node.rows()["mount"].outcome == "failed"


@pytest.mark.parametrize(
    ("offset", "fails"),
    [
        (216, "mount"),  # of the features without which nothing can be read
        (212, "write"),  # of those without which nothing can be written
    ],
)
def test_a_feature_of_xfs_that_the_kernel_does_not_know_fails(
    node: Node, offset: int, fails: str
) -> None:
    disk = xfs_disk(node.directory)
    set_xfs_feature(disk, offset, 0x4000_0000)
    node.stage(disk, root=1)
    row = node.rows()[fails]
    assert row.outcome == "failed"
    assert "does not mount the xfs" in row.detail
    if os.access("/dev/kmsg", os.R_OK):
        assert "unknown" in row.detail, row


def test_a_feature_of_ext4_with_which_it_may_only_be_read_fails(node: Node) -> None:
    disk = ext4_disk(node.directory, options=("-O", "^metadata_csum,^orphan_file"))
    with disk.open("r+b") as file:
        file.seek(MIB + 1024 + 100)
        (features,) = struct.unpack("<I", file.read(4))
        file.seek(MIB + 1024 + 100)
        file.write(struct.pack("<I", features | 0x4000_0000))
    node.stage(disk)
    rows = node.rows()
    assert rows["mount"].outcome == "passed"
    assert (rows["write"].outcome, "for writing" in rows["write"].detail) == ("failed", True)
    # With nothing to carry over it is recognised by the UUID of its root.
    assert node.rows(identity=[])["write"].outcome == "warning"


def test_a_full_root_fails_unless_it_is_extended(node: Node) -> None:
    disk = ext4_disk(node.directory, options=("-b", "1024", "-m", "0"), size_mib=30)
    filler = node.directory / "filler"
    filler.write_bytes(b"x" * (28 * MIB))
    subprocess.run(
        ["debugfs", "-w", "-R", f"write {filler} filler", f"{disk}?offset={MIB}"],
        capture_output=True,
        check=True,
    )
    node.stage(disk)
    rows = node.rows()
    assert (rows["identity"].outcome, rows["space"].outcome) == ("failed", "warning"), rows
    assert "grow_root" in (rows["identity"].advice or "")
    assert rows["marker"].outcome == "failed"


def test_what_would_be_missing_is_named(node: Node) -> None:
    files = {name: text for name, text in SYSTEM.items() if name != "etc/passwd"}
    node.stage(ext4_disk(node.directory, files | {"etc/passwd": "root:x:0:0::/root:/bin/sh\n"}))
    file = node.boot.machine.path("/etc/holdfast/holdfast.toml")
    os.chown(file, 12345, -1)
    rows = node.rows()
    assert (rows["owners"].outcome, "user 12345" in rows["owners"].detail) == ("warning", True)
    assert rows["identity"].outcome == "passed"


def test_what_is_not_the_root_of_a_system_fails(node: Node) -> None:
    disk = ext4_disk(node.directory, {"log/messages": "x"})
    node.stage(disk)
    descriptor = json.loads(node.image.with_name("descriptor.json").read_bytes())
    descriptor |= {"root_partition": 1, "root": None}
    node.redescribe(descriptor)
    rows = node.rows()
    assert (rows["system"].outcome, "os-release" in rows["system"].detail) == ("failed", True)
    assert "write" not in rows or rows["write"].outcome != "failed"


def test_a_file_that_cannot_be_replaced_fails(node: Node) -> None:
    disk = ext4_disk(node.directory)
    # Extents, and immutable. Not by a mount: where another namespace holds it, it writes later.
    immutable = "set_inode_field /etc/hostname flags 0x80010"
    run("debugfs", "-w", "-R", immutable, f"{disk}?offset={MIB}")
    node.stage(disk)
    row = node.rows()["identity"]
    assert row.outcome == "failed"
    assert "/etc/hostname cannot be carried over: Operation not permitted" in row.detail


def test_ostree_cloud_init_and_labels_are_seen(node: Node) -> None:
    place = "ostree/deploy/fcos/deploy/abc.0"
    files = {f"{place}/{name}": text for name, text in SYSTEM.items()}
    files |= {
        f"{place}/etc/cloud/cloud.cfg": "",
        f"{place}/etc/selinux/config": "SELINUX=enforcing\n",
    }
    node.stage(ext4_disk(node.directory, files))
    rows = node.rows()
    assert f"/{place}" in rows["system"].detail
    assert "99-holdfast.cfg" in rows["cloud_init"].detail
    assert rows["selinux"].outcome == (
        "not_tried" if Path("/sys/fs/selinux/enforce").exists() else "warning"
    )
    assert outcomes(rows, "selinux") == {"passed"}, rows


def test_a_root_protected_by_verity_is_mounted_and_not_touched(node: Node) -> None:
    second = f"start=62MiB, size=8MiB, type={VERITY}\n"
    node.stage(ext4_disk(node.directory, second=second))
    rows = node.rows(identity=[])
    assert rows["mount"].outcome == "passed"
    assert (rows["identity"].outcome, "not touched" in rows["identity"].detail) == (
        "not_tried",
        True,
    )
    assert "write" not in rows


def test_what_was_changed_since_it_was_described_is_not_mounted(node: Node) -> None:
    node.stage(ext4_disk(node.directory))
    with node.image.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"changed")
    rows = node.rows()
    assert rows["copy"].outcome == "failed"
    assert "mount" not in rows


@pytest.mark.parametrize("lie", ["kind", "place", "beyond"])
def test_a_descriptor_that_lies_is_found_out(node: Node, lie: str) -> None:
    descriptor = json.loads(json.dumps(node.stage(ext4_disk(node.directory))))
    partition = descriptor["partition_table"]["partitions"][0]
    match lie:
        case "kind":
            partition["file_system"] = descriptor["root"]["file_system"] = "xfs"
        case "place":
            partition["start_bytes"] += 8 * MIB
            partition["size_bytes"] -= 8 * MIB
        case _:
            partition["size_bytes"] *= 1000
    node.redescribe(descriptor)
    rows = node.rows()
    assert outcomes(rows) <= {"passed", "failed", "not_tried", "warning"}
    assert "passed" not in {row.outcome for check, row in rows.items() if check == "mount"}
    if lie == "beyond":
        assert "leads out of the image" in rows["mount"].detail
    else:
        assert rows["mount"].outcome == "failed"


def test_without_room_for_the_copy_it_is_not_tried(node: Node) -> None:
    node.stage(ext4_disk(node.directory))
    policy = Policy(roots=["/mnt/data"], state_dir=STATE, free_space_floor="1000000 GiB")
    row = Node(node.directory, Boot(node.boot.machine, IMAGER, lambda: policy)).rows()["copy"]
    assert (row.outcome, "stay free" in row.detail) == ("not_tried", True)


def test_nothing_is_left_of_a_trial_that_is_killed(node: Node) -> None:
    node.stage(ext4_disk(node.directory))
    file: dict[str, object] = {"mode": 0o600, "uid": 0, "gid": 0, "user": "root", "group": "root"}
    file["content"] = base64.b64encode(bytes(64)).decode()
    identity = {"files": [{"path": f"/etc/ssh/{number}", **file} for number in range(2000)]}
    document = {
        "descriptor": node.image.with_name("descriptor.json").read_text(),
        "image": str(node.image),
        "scratch": str(node.image.parent),
        "floor_bytes": 0,
        "identity": identity,
    }
    with subprocess.Popen(
        [IMAGER, "try"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(document) + "\n")
        process.stdin.close()
        while json.loads(process.stdout.readline()).get("step") != "write":
            pass

        def in_the_middle() -> bool:
            process.send_signal(signal.SIGSTOP)
            mounts = Path(f"/proc/{process.pid}/mountinfo").read_text()
            if any(f" ext4 {device} " in mounts for device in loops(node.image.parent)):
                return True
            process.send_signal(signal.SIGCONT)
            assert process.poll() is None
            return False

        try:
            until(in_the_middle, what="the mount of the trial")
            (taken,) = loops(node.image.parent)
            assert f"{taken} " not in Path("/proc/self/mountinfo").read_text()
        finally:
            process.kill()
    until(lambda: not loops(node.image.parent), what="the end of the loop device")
    assert sorted(path.name for path in node.image.parent.iterdir()) == ["descriptor.json", "image"]


def program(node: Node, script: str) -> Boot:
    """Return what tries with a program in place of the imager."""
    path = node.directory / "imager"
    path.write_text(f"#!/bin/sh\necho $$ > {path}.pid\n{script}\n")
    path.chmod(0o755)
    return Boot(node.boot.machine, path, node.boot.policy, trial_silent_seconds=0.5)


@pytest.mark.parametrize(
    ("script", "check", "outcome", "detail"),
    [
        ('echo \'{"step": "write"}\'; exec sleep 600', "write", "failed", "not done with `write`"),
        ('echo \'{"step": "copy"}\'; exec sleep 600', "mount", "not_tried", "was at `copy`"),
        ("echo nonsense; exec sleep 600", "mount", "not_tried", "something unknown"),
        ("echo why >&2; exit 4", "mount", "not_tried", "code 4: why"),
        ("kill -9 $$", "mount", "not_tried", "signal 9"),
        ("yes 1234567 | tr -d '\\n'", "mount", "not_tried", "too much"),
    ],
)
def test_a_trial_that_hangs_or_fails_is_bounded(
    node: Node, script: str, check: str, outcome: str, detail: str
) -> None:
    node.stage(ext4_disk(node.directory))
    boot = program(node, script)
    with promptly(20):
        [*_, row] = boot.try_image(TryRequest(arming=node.arming())).rows
    assert (row.check, row.outcome, detail in row.detail) == (check, outcome, True), row
    pid = int((node.directory / "imager.pid").read_text())
    until(lambda: not Path(f"/proc/{pid}/cwd").exists(), what="the end of the trial's process")


def test_secrets_are_not_given_to_the_trial(node: Node) -> None:
    node.stage(ext4_disk(node.directory))
    boot = program(node, f"cat > {node.directory}/request; echo '{{\"rows\": []}}'")
    boot.try_image(TryRequest(arming=node.arming()))
    request = json.loads((node.directory / "request").read_text())
    contents = {
        file["path"]: base64.b64decode(file["content"]) for file in request["identity"]["files"]
    }
    assert contents["/etc/ssh/ssh_host_ed25519_key"] == bytes(len("PRIVATE"))
    assert contents["/etc/hostname"] == b"node-7\n"
