"""The machine itself, before anything is done to it: what the other tests stand on."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.vm.reimage.conftest import FILE_MIB, Start
from tests.vm.reimage.controller import boot_id
from tests.vm.reimage.images import OLD_IMAGE, OLD_MACHINE_ID
from tests.vm.reimage.node import BOOT_SECONDS, Node
from tests.vm.reimage.telling import tell
from tests.waiting import until


def first_pass(node: Node) -> dict[str, Any]:
    """Wait for the datastore's first pass over its hot set, and answer what it cost."""

    def told() -> dict[str, Any] | None:
        done = node.guest.call("/bin/cat", "/run/datastore.json")
        found: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
        return found

    found = until(told, seconds=240, what="the datastore's first pass", interval=0.5)
    assert found["hot_bytes"] == FILE_MIB << 19
    return found


def test_it_boots_from_its_own_disk_and_data_survive(start: Start) -> None:
    with start() as node:
        began = time.monotonic()
        first = node.control.answers(BOOT_SECONDS)
        tell(f"switched on; answers over HTTPS after {time.monotonic() - began:.0f} s")
        assert "GRUB" in node.console
        assert first["image_id"] == OLD_IMAGE
        assert first["machine_id"] == OLD_MACHINE_ID
        assert first["hostname"] == "node-7"
        manifest = node.control.succeeded("/v1/manifests", {"root": "/mnt/data"})["manifest"]
        node.settled()
        shown = node.guest.sh("findmnt --noheadings --output SOURCE,FSTYPE /mnt/data")
        assert shown.split() == ["/dev/md127", "xfs"], shown
        assert "raid0 nvme" in node.guest.run("/bin/cat", "/proc/mdstat")
        assert not node.guest.run("/bin/systemctl", "--failed", "--quiet", "--no-legend")
        first_pass(node)

        tell("rebooting")
        began = time.monotonic()
        node.guest.tell("guest-shutdown", {"mode": "reboot"})
        second = node.control.answers(BOOT_SECONDS, not_boot=boot_id(first))
        tell(f"answers over HTTPS again after {time.monotonic() - began:.0f} s")

        assert second["image_id"] == OLD_IMAGE
        done = node.control.succeeded(f"/v1/manifests/{manifest}/verifications", {})
        assert done["ok"], done
        node.settled()
        warm = first_pass(node)
        assert warm["read_bytes"] <= 0.01 * warm["hot_bytes"], warm
