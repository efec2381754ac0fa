"""What goes wrong before the first write: the old system again, with the reason to be read there.

One machine is armed and switched off; each test boots the imager on a copy of its disks.
"""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from tests.support.waiting import until
from tests.vm.image import CACHE
from tests.vm.reimage.conftest import Start
from tests.vm.reimage.images import OLD_IMAGE, Systems
from tests.vm.reimage.node import BOOT_SECONDS, Disks, Node, running
from tests.vm.reimage.published import Published
from tests.vm.reimage.story import STARTED, arm, back_in_the_old_system, boot_files, stage
from tests.vm.reimage.telling import tell


@dataclass(frozen=True)
class Armed:
    """The disks of a machine whose next boot is the imager's."""

    disks: Disks
    operation: str
    boot_files: str
    """As they were before the arming."""


@pytest.fixture(scope="module")
def armed(made: Systems, installed: Disks, published: Published) -> Armed:
    disks = installed.copy(CACHE / "armed")
    with running(made, disks, CACHE / "run-armed") as node:
        node.control.answers(BOOT_SECONDS)
        node.settled()
        before = boot_files(node)
        operation = stage(node.control, published.request())
        arm(node.control)
        assert boot_files(node) != before
        node.power_off()
    return Armed(disks, operation, before)


def _as_before(node: Node, armed: Armed) -> None:
    node.settled()
    assert node.control.answers(BOOT_SECONDS)["image_id"] == OLD_IMAGE
    assert boot_files(node) == armed.boot_files
    assert node.guest.call("/usr/bin/test", "-e", "/boot/holdfast").returncode == 1


def test_the_target_is_another_disk(start: Start, armed: Armed) -> None:
    disks = replace(armed.disks.copy(CACHE / "refusal"), root_serial="root-0002")
    with start(disks=disks) as node:
        node.on_console(STARTED, BOOT_SECONDS)
        found = back_in_the_old_system(node, armed.operation)
        assert found["state"] == "failed"
        assert "root-0001" in found["reason"], found["reason"]
        _as_before(node, armed)


def test_the_staged_image_was_damaged(start: Start, armed: Armed, published: Published) -> None:
    disks = armed.disks.copy(CACHE / "refusal")
    # Bits flip on the medium: nothing in the machine reports it.
    content = (published.server.directory / published.name.removesuffix(".json")).read_bytes()
    needle = content[len(content) // 2 :][: 64 << 10]
    flipped = sum(_flip(path, needle[at : at + 4096]) for path in disks.data for at in (0, 8192))
    assert flipped
    tell(f"flipped bits of the staged image in {flipped} places")
    with start(disks=disks) as node:
        node.on_console(STARTED, BOOT_SECONDS)
        found = back_in_the_old_system(node, armed.operation)
        assert found["state"] == "failed"
        assert "verif" in found["reason"], found["reason"]
        _as_before(node, armed)


def test_reset_before_the_first_write(start: Start, armed: Armed) -> None:
    with start(disks=armed.disks.copy(CACHE / "refusal")) as node:

        def verifying() -> bool:
            found = node.control.get("/v1/reimage")
            return bool(found["state"] == "imaging" and found["progress"]["phase"] == "verifying")

        node.control.patiently(verifying, BOOT_SECONDS, "the imager's verification")
        tell("resetting the machine while the imager verifies")
        node.qmp.ask("system_reset")
        found = back_in_the_old_system(node, armed.operation)
        assert found["state"] == "failed"
        assert "before its first write" in found["reason"], found["reason"]
        _as_before(node, armed)


def test_taken_back_before_the_reboot(start: Start, published: Published) -> None:
    with start() as node:
        control = node.control
        control.answers(BOOT_SECONDS)
        node.settled()
        before = boot_files(node)
        operation = stage(control, published.request())
        arm(control)
        assert control.post("/v1/reimage/disarm")["state"] == "staged"
        assert boot_files(node) == before

        tell("killing the daemon while it arms")
        _killed_while_arming(node)
        assert control.get("/v1/reimage")["state"] == "staged"
        assert boot_files(node) == before
        assert node.guest.call("/usr/bin/test", "-e", "/boot/holdfast").returncode == 1

        tell("cancelling while it is armed")
        arm(control)
        control.post(f"/v1/operations/{operation}/cancel", code=202)
        assert control.finished(operation)["state"] == "cancelled"
        assert control.get("/v1/reimage")["state"] == "idle"
        assert boot_files(node) == before
        tell("rebooting, to see that nothing is left")
        node.guest.tell("guest-shutdown", {"mode": "reboot"})
        node.hold_at_resets()
        node.held(BOOT_SECONDS)
        printed = len(node.console)
        node.go_on(hold=False)
        assert control.answers(BOOT_SECONDS)["image_id"] == OLD_IMAGE
        assert STARTED not in node.console[printed:]


_KILL_WHILE_ARMING = """
main() { systemctl show --property=MainPID --value holdfast; }
before=$(main)
while ! test -d /boot/holdfast; do :; done
kill -9 "$before"
while now=$(main); test "$now" = 0 || test "$now" = "$before"; do sleep 0.2; done
"""


def _killed_while_arming(node: Node) -> None:
    """Ask it to arm, and kill the daemon as soon as something of that is on the disk."""

    def ask() -> None:
        with pytest.raises(httpx.TransportError):
            node.control.post("/v1/reimage/arm")

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        node.guest.sh(_KILL_WHILE_ARMING)
        asked.result()
    node.control.answers(BOOT_SECONDS)
    gone = ("/usr/bin/test", "!", "-e", "/boot/holdfast")
    until(
        lambda: node.guest.call(*gone).returncode == 0,
        seconds=BOOT_SECONDS,
        what="the end of what the killed daemon began",
        interval=0.5,
    )


def _flip(path: Path, needle: bytes) -> int:
    """Flip a bit wherever a disk has these bytes at a sector's start, and return how often."""
    count = 0
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as disk:
        at = disk.find(needle)
        while at >= 0:
            disk[at] ^= 1
            count += 1
            at = disk.find(needle, at + 1)
    return count
