"""A hostile daemon speaks to the helper: it arms only what root's own settings and keys allow."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.signing.keys import read_private
from holdfast.signing.trust import sign
from tests.support.daemon.harness import dying_with_parent, run_cli
from tests.support.daemon.helper import Helper
from tests.support.disks.bootdisk import DESCRIPTOR, STATE, BootDisk, boot_disk
from tests.support.disks.initramfs import unpacked
from tests.support.waiting import until

pytestmark = pytest.mark.slow

SETTINGS = """
roots = ["/mnt/data"]
state_dir = "{state}"
[reimage]
require_signature = true
trusted_keys_dir = "{keys}"
"""
SERVE = """
import sys
from pathlib import Path
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.arming import Boot
from holdfast.privileged.helper import HelperServer, listen
from holdfast.privileged.executor import LocalExecutor
from holdfast.tuning.changes.ledger import Ledger
from holdfast.tuning.profile.named import allow_list
from holdfast.reimage.policy import policy_of_root
root, proc, kernel, imager, socket, config = sys.argv[1:]
machine = MachineFiles(Path(root), proc=Path(proc), kernel=kernel, loop_disks=True)
executor = LocalExecutor(
    lambda: Boot(machine, Path(imager), lambda: policy_of_root(Path(config)))
)
with listen(Path(socket), "nobody") as listener:
    allowed = allow_list(Path("/nowhere"), {0})
    ledger = Ledger(Path(socket).with_name("journal"), executor, allowed)
    users = frozenset({0})
    HelperServer(listener, users, 0, executor=executor, changes=ledger, allowed=allowed).run()
"""


@dataclass
class Hostile:
    """The daemon, taken over by an attacker."""

    disk: BootDisk
    helper: Helper
    config: Path
    keys: Path

    def ours(self, content: bytes) -> bytes:
        """Sign with the key that root trusts."""
        return sign(read_private(self.config.with_name("release.key")), content)

    def theirs(self, content: bytes) -> bytes:
        """Sign with another."""
        return sign(read_private(self.config.with_name("theirs.key")), content)

    @property
    def state(self) -> Path:
        return self.disk.root / STATE.lstrip("/")

    def stage(self, file: str = "descriptor.json", /, **changes: object) -> bytes:
        """Put a descriptor into the state directory."""
        content = json.dumps(DESCRIPTOR | changes).encode()
        (self.state / file).write_bytes(content)
        return content

    def ask(self, content: bytes, signatures: bytes = b"", **changes: object) -> dict[str, Any]:
        """Ask to arm for a descriptor with this content; nothing stays armed."""
        request = {
            "do": "arm",
            "nonce": "0" * 32,
            "operation": "x",
            "descriptor_path": f"{STATE}/descriptor.json",
            "descriptor_sha256": hashlib.sha256(content).hexdigest(),
            "signatures": signatures.hex(),
            "source": {"kind": "network", "url": "http://10.0.2.2/theirs.raw"},
        }
        return self.helper.ask(request | changes)

    def refused(self, why: str, content: bytes, signatures: bytes = b"", **changes: object) -> str:
        """The request is refused with this reason, and the machine is as it was."""
        before = self.disk.state()
        answer = self.ask(content, signatures, **changes)
        assert why in answer.get("refused", answer.get("reason", "")), answer
        assert self.disk.state() == before
        assert not self.disk.arming.outcome().armed
        return json.dumps(answer)

    def armed(self, content: bytes, signatures: bytes = b"", **changes: object) -> None:
        """The request is done, and reverted again."""
        answer = self.ask(content, signatures, **changes)
        assert "arm" in answer, answer
        self.helper.ask({"do": "disarm"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    directory = tmp_path_factory.mktemp("hostile")
    with boot_disk(directory) as disk:
        keys = directory / "keys"
        keys.mkdir()
        for name in ("release", "theirs"):
            assert run_cli("image", "keygen", directory / name).returncode == 0
        shutil.copy(directory / "release.pem", keys)
        (disk.root / STATE.lstrip("/")).mkdir(parents=True)
        config = directory / "holdfast.toml"
        socket = directory / "socket"
        machine = disk.machine
        command = [sys.executable, "-c", SERVE, str(machine.root), str(machine.proc)]
        command += [machine.kernel, str(disk.arming.imager), str(socket), str(config)]
        with subprocess.Popen(dying_with_parent(command)) as server:
            until(
                lambda: socket.exists() and socket.stat().st_mode & 0o777 == 0o600,
                what="the helper's socket",
            )
            yield Hostile(disk, Helper(server, socket), config, keys)
            server.terminate()


@pytest.fixture
def hostile(place: Hostile) -> Iterator[Hostile]:
    place.config.write_text(SETTINGS.format(state=STATE, keys=place.keys))
    yield place
    for path in (place.state / "descriptor.json", place.disk.root / "etc/holdfast/reimaged.json"):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)


def test_what_a_trusted_key_has_signed_is_armed_and_nothing_else(hostile: Hostile) -> None:
    content = hostile.stage()
    hostile.refused("has no signature", content)
    hostile.refused(
        "signed by none of the trusted keys (release)", content, hostile.theirs(content)
    )
    other = hostile.stage("other.json", name="other")
    hostile.refused("signed by none", content, hostile.ours(other))
    hostile.refused("signed by none", content, b"\0" * 64)
    hostile.armed(content, hostile.ours(content))
    hostile.armed(content, hostile.theirs(content) + hostile.ours(content))


def test_what_was_signed_is_what_is_armed_whatever_happens_to_the_file(
    hostile: Hostile, disk_dir: Path
) -> None:
    content = hostile.stage()
    theirs = hostile.stage("theirs.json", name="theirs")
    over, path = threading.Event(), hostile.state / "descriptor.json"

    def swap() -> None:
        while not over.is_set():
            for bad in (theirs, content):
                (hostile.state / "partial").write_bytes(bad)
                (hostile.state / "partial").rename(path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(12):
            answer = hostile.ask(content, hostile.ours(content))
            if "refused" in answer:
                assert "another SHA-256" in answer["refused"]
                continue
            tree = unpacked(hostile.disk, disk_dir / str(number))
            assert (tree / "holdfast/descriptor.json").read_bytes() == content
            hostile.helper.ask({"do": "disarm"})
            break
        else:
            pytest.fail("the signed descriptor was never there when it was read")
    finally:
        over.set()
        swapping.join()


def test_the_daemon_names_neither_roots_nor_ways_to_boot(hostile: Hostile) -> None:
    content = hostile.stage()
    good = hostile.ours(content)
    hostile.refused("malformed: arm.roots", content, good, roots=["/nowhere"])
    hostile.refused("malformed: arm.allow_kexec", content, good, allow_kexec=True)
    data = hostile.disk.root / "mnt/data"
    data.mkdir(parents=True)
    try:
        hostile.refused("The root /mnt/data is on", content, good)
    finally:
        data.rmdir()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        f"{STATE}/../../../etc/shadow",
        f"{STATE}/link",
        f"{STATE}/directory/shadow",
        f"{STATE}/fifo",
        f"{STATE}/real",
        STATE,
        f"{STATE}x/descriptor.json",
        "/dev/zero",
    ],
)
def test_no_file_of_roots_is_read_for_the_daemon(hostile: Hostile, path: str) -> None:
    """Neither its digest nor a part of it is in the answer, and it cannot be guessed at."""
    secret = b"root:$6$secret"
    (hostile.disk.root / "etc/shadow").write_bytes(secret)
    for name, target in (("link", "/etc/shadow"), ("directory", hostile.disk.root / "etc")):
        (hostile.state / name).unlink(missing_ok=True)
        (hostile.state / name).symlink_to(target)
    if not (hostile.state / "fifo").exists():
        os.mkfifo(hostile.state / "fifo")
    (hostile.state / "real").mkdir(exist_ok=True)
    digest = hashlib.sha256(secret).hexdigest()
    reported = {hostile.refused("", guess, descriptor_path=path) for guess in (b"guess", secret)}
    assert len(reported) == 1, "a right guess is distinguished from a wrong one"
    assert digest not in reported.pop()
    # Nor by the stated place of an image.
    content = hostile.stage()
    source = {"kind": "staged", "path": path}
    hostile.refused("", content, hostile.ours(content), source=source)


def test_a_descriptor_with_another_digest_does_not_tell_its_own(hostile: Hostile) -> None:
    content = hostile.stage()
    reported = hostile.refused("another SHA-256", b"another", hostile.ours(content))
    assert hashlib.sha256(content).hexdigest() not in reported


@pytest.mark.parametrize("name", ["certificate", "key", "tokens"])
def test_only_roots_files_for_the_imager_are_packed(hostile: Hostile, name: str) -> None:
    key = hostile.disk.root / "etc/ssl/private/mail.key"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_text('-----BEGIN "tokens"')
    content = hostile.stage()
    status = {"listen": "127.0.0.1:9918"} | {
        one: f"/etc/ssl/private/{'mail.key' if one == name else 'none'}"
        for one in ("certificate", "key", "tokens")
    }
    hostile.refused("is none of the files", content, hostile.ours(content), status=status)
    ca = "/etc/ssl/private/mail.key"
    hostile.refused("is none of the files", content, hostile.ours(content), ca=ca)


def test_a_kept_system_is_known_by_roots_own_file_only(hostile: Hostile) -> None:
    content = hostile.stage(name="previous-node-7")
    previous = hostile.state / "previous" / ("ab" * 16)
    previous.mkdir(parents=True, exist_ok=True)
    (previous / "descriptor.json").write_bytes(content)
    path = f"{STATE}/previous/{previous.name}/descriptor.json"
    hostile.refused("has no signature", content, descriptor_path=path)

    digest = hashlib.sha256(content).hexdigest()
    marker = hostile.disk.root / "etc/holdfast/reimaged.json"
    for document in (
        {"previous": None},
        {"previous": {"descriptor_sha256": "0" * 64}},
        {"previous": {"descriptor_sha256": digest.upper()}},
        {"image": {"descriptor_sha256": digest}},
        [digest],
    ):
        marker.write_text(json.dumps(document))
        hostile.refused("has no signature", content, descriptor_path=path)
    marker.write_text(json.dumps({"previous": {"descriptor_sha256": digest}}))
    marker.chmod(0o666)
    hostile.refused("can be written by others", content, descriptor_path=path)
    marker.chmod(0o600)
    os.chown(marker, 65534, 65534)
    hostile.refused("belongs to user 65534", content, descriptor_path=path)
    marker.unlink()
    (hostile.state / "mine").write_text(json.dumps({"previous": {"descriptor_sha256": digest}}))
    marker.symlink_to(hostile.state / "mine")
    hostile.refused("reimaged.json cannot be read", content, descriptor_path=path)
    marker.unlink()
    marker.write_text(json.dumps({"previous": {"descriptor_sha256": digest}}))
    hostile.armed(content, descriptor_path=path)


class TestRootsOwnFiles:
    def test_settings_that_others_can_write_are_not_believed(self, hostile: Hostile) -> None:
        content = hostile.stage()
        good = hostile.ours(content)
        hostile.config.chmod(0o664)
        hostile.refused("can be written by others than its owner", content, good)
        hostile.config.chmod(0o644)
        os.chown(hostile.config, 65534, 65534)
        hostile.refused("belongs to user 65534", content, good)
        os.chown(hostile.config, 0, 0)
        hostile.config.parent.chmod(0o777)
        hostile.refused("can be written by others than its owner", content, good)
        hostile.config.parent.chmod(0o700)
        hostile.armed(content, good)

    def test_settings_that_are_wrong_arm_nothing(self, hostile: Hostile) -> None:
        content = hostile.stage()
        hostile.config.write_text("[reimage]\nrequire_signatures = true\n")
        hostile.refused("The settings are wrong", content, hostile.ours(content))

    def test_keys_that_others_can_write_are_not_believed(self, hostile: Hostile) -> None:
        content = hostile.stage()
        good = hostile.ours(content)
        key = hostile.keys / "release.pem"
        for path, user, mode in (
            (key, 65534, 0o644),
            (key, 0, 0o666),
            (hostile.keys, 65534, 0o755),
        ):
            was = path.stat().st_mode & 0o777
            os.chown(path, user, user)
            path.chmod(mode)
            hostile.refused("There is no trusted key", content, good)
            os.chown(path, 0, 0)
            path.chmod(was)
        hostile.armed(content, good)

    def test_without_a_demand_what_is_signed_is_checked_all_the_same(
        self, hostile: Hostile
    ) -> None:
        settings = hostile.config.read_text().replace("true", "false")
        hostile.config.write_text(settings)
        content = hostile.stage()
        hostile.refused("signed by none", content, hostile.theirs(content))
        hostile.armed(content)
