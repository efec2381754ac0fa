"""The machine itself, before anything is done to it: what the other tests stand on."""

from __future__ import annotations

import time

from tests.vm.reimage.conftest import Start
from tests.vm.reimage.controller import boot_id
from tests.vm.reimage.images import OLD_IMAGE, OLD_MACHINE_ID
from tests.vm.reimage.node import BOOT_SECONDS
from tests.vm.reimage.telling import tell
from tests.vm.service import first_pass


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
        first_pass(node.guest)

        tell("rebooting")
        began = time.monotonic()
        node.guest.tell("guest-shutdown", {"mode": "reboot"})
        second = node.control.answers(BOOT_SECONDS, not_boot=boot_id(first))
        tell(f"answers over HTTPS again after {time.monotonic() - began:.0f} s")

        assert second["image_id"] == OLD_IMAGE
        done = node.control.succeeded(f"/v1/manifests/{manifest}/verifications", {})
        assert done["ok"], done
        node.settled()
        warm = first_pass(node.guest)
        assert warm["read_bytes"] <= 0.01 * warm["hot_bytes"], warm
