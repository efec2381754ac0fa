"""A machine becomes another image, and its data stay: seen by a controller, over HTTPS."""

from __future__ import annotations

import pytest

from tests.vm.reimage.conftest import Start
from tests.vm.reimage.node import Node
from tests.vm.reimage.published import Published
from tests.vm.reimage.story import (
    arm,
    boot_files,
    identity,
    is_the_new_system,
    prepared,
    stage,
    started_warm,
    travel,
)
from tests.vm.reimage.telling import tell

pytestmark = pytest.mark.long


def _rehearsed(node: Node) -> None:
    """What arming would write is reported, and nothing is written."""
    before = boot_files(node)
    found = node.control.post("/v1/reimage/arm", {"dry_run": True})
    assert found["state"] == "staged"
    reported = [file["path"] for file in found["boot"]["files"]]
    assert reported[-2:] == ["/boot/grub/custom.cfg", "/boot/grub/grubenv"]
    assert f"holdfast.nonce={found['nonce']}" in found["boot"]["entry"]
    assert {item["name"] for item in found["carried"]} == {
        "ssh_host_keys",
        "machine_id",
        "hostname",
        "holdfast",
    }
    shown = node.guest.run("/usr/bin/holdfast", "reimage", "arm", "--dry-run")
    assert "/boot/holdfast/initramfs.img" in shown
    assert boot_files(node) == before
    assert node.guest.call("/usr/bin/test", "-e", "/boot/holdfast").returncode == 1


def test_a_machine_becomes_another_image(start: Start, published: Published) -> None:
    with start() as node:
        request = prepared(node, published, "staged")
        kept = identity(node)
        operation = stage(node.control, request)
        _rehearsed(node)
        arm(node.control)

        journey = travel(node, operation)

        assert journey.ended["state"] == "succeeded", journey.ended
        is_the_new_system(node, journey, operation)
        found = node.control.get("/v1/reimage")
        assert found["state"] == "confirmed", found
        assert all(check["passed"] for check in found["checks"]), found["checks"]
        names = {check["name"] for check in found["checks"]}
        assert {"image", "identity", "data", "manifest"} <= names
        assert identity(node) == kept
        started_warm(node)
        report = found["imager"]
        tell(
            f"the imager: {report['bytes_written']} bytes written of "
            f"{report['bytes_mapped']} mapped, at most {report['memory_peak_bytes'] >> 20} MiB "
            f"of memory; {report['phases']}"
        )
        assert report["memory_peak_bytes"] <= 128 << 20
