"""Arming GRUB on a real disk: what it writes, what GRUB sees, and that all of it can be undone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.privileged.boot.disk.extents import extents_of
from holdfast.privileged.boot.disk.freeze import settle
from holdfast.privileged.boot.models import OUTCOME_BYTES, StagedImage, StatusServer
from holdfast.privileged.client import Helper
from holdfast.privileged.writes import Refused
from tests.support.daemon.harness import dying_with_parent
from tests.support.disks.bootdisk import NONCE, BootDisk, boot_disk, run
from tests.support.disks.initramfs import unpacked
from tests.support.machine.loops import MIB, attach
from tests.support.machine.mounts import mounted
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(params=["ext4", "xfs", "ext4 with /boot on ext2"])
def disk(request: pytest.FixtureRequest, disk_dir: Path) -> Iterator[BootDisk]:
    separate = " " in request.param
    kind = "ext2" if separate else request.param
    with boot_disk(disk_dir, kind, separate=separate) as found:
        yield found


@pytest.fixture
def simple(disk_dir: Path) -> Iterator[BootDisk]:
    with boot_disk(disk_dir) as found:
        yield found


def test_a_dry_run_tells_what_arming_writes_and_writes_nothing(disk: BootDisk) -> None:
    before = disk.state()
    planned = disk.arming.arm(disk.request(dry_run=True))
    assert disk.state() == before
    assert not disk.arming.outcome().armed
    with pytest.raises(Refused, match="arm it first"):
        disk.arming.reboot(NONCE, dry_run=True)

    done = disk.arming.arm(disk.request())

    assert planned.entry == done.entry
    assert [one.path for one in planned.files] == [one.path for one in done.files]
    sizes = {one.path: one.size_bytes or 0 for one in done.files}
    known = {one.path: one.size_bytes for one in planned.files if one.size_bytes is not None}
    # The job in the initramfs has a number that is only known once the record is written.
    about = known.pop("/boot/holdfast/initramfs.img") - sizes["/boot/holdfast/initramfs.img"]
    assert 0 <= about <= 32
    assert known == {path: sizes[path] for path in known}
    assert len(known) == 2
    assert (planned.target, planned.modules, planned.notes) == (
        done.target,
        done.modules,
        done.notes,
    )
    with pytest.raises(Refused, match="not run by systemd"):
        disk.arming.reboot(NONCE, dry_run=True)


def test_it_is_on_the_disk_as_grub_sees_it_and_undone_byte_for_byte(
    disk: BootDisk, disk_dir: Path
) -> None:
    custom = disk.grub / "custom.cfg"
    custom.write_text("# mine, without an end of line")
    custom.chmod(0o640)
    os.chown(custom, 7, 9)
    before = disk.state()
    report = disk.arming.arm(disk.request())

    assert report.seen_by_grub is True
    for file in report.files:
        assert disk.seen_by_grub(file.path) == (disk.root / file.path.lstrip("/")).read_bytes()
    run("grub-script-check", custom)
    listed = run("grub-editenv", disk.grub / "grubenv", "list")
    assert "next_entry=holdfast-imager" in listed
    assert custom.read_text().startswith("# mine, without an end of line\n### BEGIN holdfast")
    assert stat.S_IMODE((disk.boot / "holdfast").stat().st_mode) == 0o700
    found = disk.arming.outcome()
    assert (found.armed, found.entry, found.problem) == (True, True, None)
    assert found.record is not None
    assert (found.record.nonce, found.record.state) == (NONCE, "armed")

    undone = disk.arming.disarm()

    assert sorted(undone.restored) == ["/boot/grub/custom.cfg", "/boot/grub/grubenv"]
    assert disk.state() == before
    assert disk.seen_by_grub("/boot/grub/custom.cfg") == custom.read_bytes()
    assert disk.seen_by_grub("/boot/holdfast/vmlinuz") is None
    again = disk.arming.disarm()
    assert (again.restored, again.edited, again.removed) == ([], [], [])
    assert disk.arming.outcome().record is None


def test_without_a_custom_cfg_there_is_none_again(simple: BootDisk) -> None:
    before = simple.state()
    simple.arming.arm(simple.request())
    assert (simple.grub / "custom.cfg").exists()
    simple.arming.disarm()
    assert simple.state() == before


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_grub_sees_a_new_file_only_after_a_freeze(kind: str, disk_dir: Path) -> None:
    with boot_disk(disk_dir, kind) as disk:
        new = disk.boot / "new"
        with new.open("wb") as file:
            file.write(b"new" * 100)
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(disk.boot, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        assert disk.seen_by_grub("/boot/new") is None, "the freeze would not be needed"
        settle(disk.boot)
        assert disk.seen_by_grub("/boot/new") == b"new" * 100


def test_what_is_in_the_initramfs(simple: BootDisk, disk_dir: Path) -> None:
    for name, content in (("c.pem", "-----BEGIN C"), ("k.pem", "-----BEGIN K")):
        (simple.root / name).write_text(content)
    (simple.root / "t.json").write_text('{"version": 1, "tokens": []}')
    (simple.root / "ca.pem").write_text("-----BEGIN CA")
    status = StatusServer(
        listen="0.0.0.0:9918", certificate="/c.pem", key="/k.pem", tokens="/t.json"
    )
    boot = simple.allowing(files=frozenset({"/c.pem", "/k.pem", "/t.json", "/ca.pem"}))
    report = boot.arm(simple.request(status=status, ca="/ca.pem"))
    tree = unpacked(simple, disk_dir / "unpacked")

    job = json.loads((tree / "holdfast/job.json").read_text())
    assert (job["format"], job["version"], job["nonce"]) == ("holdfast-job", 1, NONCE)
    assert job["source"] == {"kind": "network", "url": "http://10.0.2.2/disk.raw"}
    assert job["status"] == {
        "listen": "0.0.0.0:9918",
        "tls": True,
        "tokens": True,
        "client_ca": False,
    }
    assert set(job["state_dir"]) == {"uid", "dev", "ino", "file_system_uuid"}
    assert job["target"] == report.target.model_dump()
    assert (tree / "holdfast/descriptor.json").read_bytes() == simple.descriptor.read_bytes()
    assert (tree / "init").read_bytes() == (disk_dir / "imager").read_bytes()
    assert stat.S_IMODE((tree / "init").stat().st_mode) == 0o755
    console = (tree / "dev/console").stat()
    assert stat.S_ISCHR(console.st_mode)
    assert console.st_rdev == os.makedev(5, 1)
    assert (tree / "holdfast/tls/key.pem").read_text() == "-----BEGIN K"
    assert (tree / "holdfast/ca.pem").read_text().endswith("-----BEGIN CA")
    assert (tree / "holdfast/tokens.json").exists()

    # The record is where the job places it, on the disk as a whole.
    with simple.image.open("rb") as disk:
        disk.seek(job["outcome"]["offset_bytes"])
        record = disk.read(job["outcome"]["length_bytes"])
        disk.seek(0)
        head = disk.read(job["target"]["head_bytes"])
    assert len(record) == OUTCOME_BYTES
    assert json.loads(record)["nonce"] == NONCE
    assert record == (simple.boot / "holdfast/outcome").read_bytes()
    assert hashlib.sha256(head).hexdigest() == job["target"]["head_sha256"]


def test_identity_is_collected_and_links_are_not_followed(simple: BootDisk, disk_dir: Path) -> None:
    (simple.root / "etc/shadow").write_text("secret")
    (simple.root / "etc/holdfast/link").symlink_to("/etc/shadow")
    (simple.root / "etc/holdfast/dir").symlink_to("/etc")
    os.mkfifo(simple.root / "etc/holdfast/pipe")
    report = simple.arming.arm(simple.request())
    tree = unpacked(simple, disk_dir / "unpacked")
    text = (tree / "holdfast/identity.json").read_text()
    identity = json.loads(text)
    paths = {one["path"]: one for one in identity["files"]}
    assert set(paths) == {
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/etc/machine-id",
        "/etc/hostname",
        "/etc/holdfast/holdfast.toml",
        "/etc/holdfast/profiles.d/mine.toml",
    }
    key = paths["/etc/ssh/ssh_host_ed25519_key"]
    assert (key["mode"], key["uid"], key["user"]) == (0o600, 0, "root")
    assert identity["remove"] == ["/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub"]
    assert [one["path"] for one in identity["directories"]] == [
        "/etc/holdfast",
        "/etc/holdfast/profiles.d",
    ]
    problems = " ".join(next(one for one in report.identity if one.name == "holdfast").problems)
    for name in ("link", "dir", "pipe"):
        assert f"/etc/holdfast/{name} is not a regular file" in problems


def test_a_record_in_pieces_is_written_elsewhere_or_refused(disk_dir: Path) -> None:
    """An allocator without extents fills gaps; how many blocks it asks for at once is set here."""
    options = ("-b", "1024", "-m", "0")
    with boot_disk(disk_dir, "ext2", separate=True, boot_mib=64, options=options) as disk:
        at_once = Path(f"/sys/fs/ext4/{Path(disk.device).name}p2/mb_group_prealloc")
        if not at_once.exists():
            pytest.skip("this kernel has an ext2 of its own")
        ordinary = at_once.read_text()
        at_once.write_text("8")
        small = disk.boot / "small"
        small.mkdir()
        files = [small / str(number) for number in range(64 * MIB // 8192)]
        with suppress(OSError):  # it is full before all are written
            for file in files:
                file.write_bytes(bytes(8192))
        file.unlink()
        os.sync()
        on_disk = sorted((extents_of(file)[0].place, file) for file in files if file.exists())
        for _, file in on_disk[::5]:
            file.unlink()
        os.sync()
        before = disk.state()
        with pytest.raises(Refused, match=r"/boot is in pieces too small .* remove files"):
            disk.arming.arm(disk.request())
        assert disk.state() == before

        for _, file in on_disk[1::5]:
            file.unlink()
        os.sync()
        with ThreadPoolExecutor() as executor:
            arming = executor.submit(disk.arming.arm, disk.request())
            second = disk.boot / "holdfast/outcome.1"
            until(lambda: second.exists() or arming.done(), what="a second try", interval=0.001)
            at_once.write_text(ordinary)
            arming.result()
        assert len(extents_of(disk.boot / "holdfast/outcome")) == 1
        assert not list(disk.boot.glob("holdfast/outcome.*"))
        disk.arming.disarm()


def test_what_somebody_else_changed_meanwhile_stays(simple: BootDisk) -> None:
    custom = simple.grub / "custom.cfg"
    custom.write_text("# before\n")
    simple.arming.arm(simple.request())
    with custom.open("a") as file:
        file.write("# after\n")
    run("grub-editenv", simple.grub / "grubenv", "set", "saved_entry=other")
    undone = simple.arming.disarm()
    assert sorted(undone.edited) == ["/boot/grub/custom.cfg", "/boot/grub/grubenv"]
    assert custom.read_text() == "# before\n# after\n"
    assert run("grub-editenv", simple.grub / "grubenv", "list") == "saved_entry=other\n"


def test_after_grub_has_booted_it_the_environment_is_as_before(simple: BootDisk) -> None:
    before = (simple.grub / "grubenv").read_bytes()
    simple.arming.arm(simple.request())
    # As GRUB's save_env leaves it.
    run("grub-editenv", simple.grub / "grubenv", "set", "next_entry=")
    assert not simple.arming.outcome().armed
    with pytest.raises(Refused, match="next boot is not the imager's"):
        simple.arming.reboot(NONCE)
    simple.arming.disarm()
    assert (simple.grub / "grubenv").read_bytes() == before


def test_a_reboot_needs_the_nonce_and_what_was_written(simple: BootDisk) -> None:
    with pytest.raises(Refused, match="arm it first"):
        simple.arming.reboot(NONCE)
    simple.arming.arm(simple.request())
    with pytest.raises(Refused, match="arm it first"):
        simple.arming.reboot("0" * 32)
    with pytest.raises(Refused, match="not run by systemd"):
        simple.arming.reboot(NONCE)
    (simple.boot / "holdfast/vmlinuz").unlink()
    with pytest.raises(OSError, match="vmlinuz"):
        simple.arming.reboot(NONCE)


@pytest.mark.parametrize("level", [None, "raid0"])
def test_a_staged_image_is_found_by_its_file_system_and_array(
    simple: BootDisk, disk_dir: Path, level: str | None
) -> None:
    loops = [attach(disk_dir / f"data{number}", 320 * MIB) for number in range(2)]
    array = "/dev/md/holdfast-test" if level else None
    try:
        top = loops[0].device
        if level is not None:
            if not Path("/proc/mdstat").exists():
                pytest.skip("this kernel has no md")
            top = str(array)
            run("mdadm", "--create", top, "--run", f"--level={level}", "--raid-devices=2",
                *(one.device for one in loops))  # fmt: skip
        run("mkfs.xfs", "-q", "-f", top)
        (simple.root / "mnt").mkdir()
        simple.request()  # which has a descriptor staged
        with mounted(simple.root / "mnt/data", top) as data:
            (data / "images").mkdir()
            (data / "images/image").write_bytes(b"x")
            shutil.copy(simple.descriptor, data)
            boot = simple.allowing(state_dir="/mnt/data")
            source = StagedImage(path="/mnt/data/images/image")
            place = f"previous/{NONCE}"
            wishes = {
                "descriptor_path": "/mnt/data/descriptor.json",
                "grow_root": True,
                "save_previous": f"/mnt/data/{place}",
            }
            report = boot.arm(simple.request(source=source, **wishes))
            job = json.loads((unpacked(simple, disk_dir / "un") / "holdfast/job.json").read_text())
            expected = run("blkid", "-p", "-o", "value", "-s", "UUID", top).strip()
            assert job["source"]["uuid"] == expected
            assert str(uuid.UUID(expected)) == expected
            assert (job["source"]["path"], job["source"]["file_system"]) == ("images/image", "xfs")
            kept = job["options"].pop("save_previous")
            assert job["options"] == {"grow_root": True}
            same = {name: job["source"][name] for name in ("file_system", "uuid", "array")}
            assert kept == same | {"directory": place}
            assert [one["size_bytes"] for one in job["data_disks"]] == [320 * MIB] * (
                2 if level else 1
            )
            if level is None:
                assert job["source"]["array"] is None
            else:
                shown = run("mdadm", "--detail", top)
                assert job["source"]["array"]["uuid"] in shown
                assert (job["source"]["array"]["level"], job["source"]["array"]["devices"]) == (
                    level,
                    2,
                )
            assert report.seen_by_grub
    finally:
        if array is not None:
            subprocess.run(["mdadm", "--stop", array], capture_output=True, check=False)
        for one in loops:
            one.detach()


SERVE = """
import sys
from pathlib import Path
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.arming import Boot
from tests.support.disks.bootdisk import POLICY
from holdfast.privileged.helper import HelperServer, listen
from holdfast.privileged.executor import LocalExecutor
from holdfast.tuning.changes.ledger import Ledger
from holdfast.tuning.profile.named import allow_list
root, proc, kernel, imager, socket = sys.argv[1:]
machine = MachineFiles(Path(root), proc=Path(proc), kernel=kernel, loop_disks=True)
executor = LocalExecutor(lambda: Boot(machine, Path(imager), lambda: POLICY))
with listen(Path(socket), "nobody") as listener:
    allowed = allow_list(Path("/nowhere"), {0})
    ledger = Ledger(Path(socket).with_name("journal"), executor, allowed)
    users = frozenset({0})
    HelperServer(listener, users, 0, executor=executor, changes=ledger, allowed=allowed).run()
"""


def test_the_helper_does_it_for_a_daemon(simple: BootDisk, disk_dir: Path) -> None:
    socket = disk_dir / "socket"
    before = simple.state()
    machine = simple.machine
    command = [sys.executable, "-c", SERVE, str(machine.root), str(machine.proc), machine.kernel]
    command += [str(simple.arming.imager), str(socket)]
    with subprocess.Popen(dying_with_parent(command)) as server:
        until(lambda: socket.exists() and socket.stat().st_mode & 0o777 == 0o600, what="the socket")
        helper = Helper(socket)
        report = helper.arm(simple.request())
        assert (report.nonce, report.seen_by_grub) == (NONCE, True)
        with pytest.raises(Refused, match="disarm first"):
            helper.arm(simple.request())
        assert helper.boot_outcome().armed
        with pytest.raises(Refused, match="not run by systemd"):
            helper.reboot(NONCE)
        assert helper.disarm().removed == ["/boot/holdfast"]
        assert not helper.boot_outcome().armed
        server.terminate()
    assert simple.state() == before


ARM = """
import json, sys
from pathlib import Path
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.arming import Boot
from holdfast.privileged.boot.models import ArmRequest
from tests.support.disks.bootdisk import POLICY
root, proc, kernel, imager, request = sys.argv[1:]
machine = MachineFiles(Path(root), proc=Path(proc), kernel=kernel, loop_disks=True)
Boot(machine, Path(imager), lambda: POLICY).arm(ArmRequest.model_validate_json(request))
"""


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir", "linkat", "pwrite64", "ioctl"])
def test_killed_at_any_step_the_old_system_boots_and_all_can_be_undone(
    simple: BootDisk, disk_dir: Path, call: str
) -> None:
    (simple.grub / "custom.cfg").write_text("# before\n")
    request = simple.request().model_dump_json()
    machine = simple.machine
    before = simple.state()
    armed = kills = 0
    # Of all ioctls, the freezes and thaws: those of where the file system is mounted.
    places = (simple.root,) if call == "ioctl" else ()
    only = [word for place in places for word in ("-P", str(place))]
    for number in range(1, 60):
        command = [
            "strace", "-qq", "-o", "/dev/null", *only, "-e", f"trace={call}",
            "-e", f"inject={call}:signal=SIGKILL:when={number}",
            sys.executable, "-c", ARM, str(machine.root), str(machine.proc), machine.kernel,
            str(disk_dir / "imager"), request,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        environment = simple.seen_by_grub("/boot/grub/grubenv") or b""
        if b"next_entry" in environment:
            # It may be booted: then everything that it needs is there.
            armed += 1
            for name in ("holdfast/vmlinuz", "holdfast/initramfs.img", "grub/custom.cfg"):
                on_disk = simple.seen_by_grub(f"/boot/{name}")
                assert on_disk == (simple.boot / name).read_bytes(), (name, number)
        # Not frozen: this would wait for ever.
        run("timeout", "30", "touch", simple.root / "thawed")
        simple.arming.disarm()
        assert simple.state() == before, f"{call} {number}"
        if done.returncode == 0:
            break
        assert done.returncode in (-9, 137), done.stderr
        kills += 1
    else:
        pytest.fail("it never ended by itself")
    assert kills > 0
    assert armed > 0
