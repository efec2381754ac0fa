"""A machine becomes another image, and its data stay: seen by a controller, over HTTPS."""

from __future__ import annotations

import time

import pytest

from tests.vm.reimage.conftest import Start
from tests.vm.reimage.controller import boot_id
from tests.vm.reimage.images import NEW_IMAGE, OLD_IMAGE, OLD_MACHINE_ID
from tests.vm.reimage.node import BOOT_SECONDS
from tests.vm.reimage.published import Published
from tests.vm.reimage.story import Watched, arm, identity, stage, watch_imager
from tests.vm.reimage.telling import tell
from tests.vm.reimage.test_node import first_pass


@pytest.mark.parametrize("mode", ["staged", "network"])
def test_a_machine_becomes_another_image(start: Start, published: Published, mode: str) -> None:
    with start() as node:
        control = node.control
        old = control.answers(BOOT_SECONDS)
        assert old["image_id"] == OLD_IMAGE
        node.settled()
        first_pass(node)
        kept = identity(node)
        manifest = control.succeeded("/v1/manifests", {"root": "/mnt/data"})["manifest"]
        tell(f"manifest {manifest} of /mnt/data is built")
        control.succeeded("/v1/pagecache/dumps", {"root": "/mnt/data"})
        request = published.request(mode=mode, manifest=manifest)
        plan = control.post("/v1/reimage/plan", request)
        assert plan["ok"], plan["blocked"]
        operation = stage(control, request)
        arm(control)

        node.hold_at_resets()
        ordered = time.monotonic()
        assert control.post("/v1/reimage/reboot")["state"] == "rebooting"
        node.held(BOOT_SECONDS)
        down, before = time.monotonic(), node.disks.data_digests()
        tell(f"the old system is down after {down - ordered:.0f} s")
        watched = Watched()
        node.go_on()
        watch_imager(node, watched)
        written = time.monotonic()
        after = node.disks.data_digests()
        tell(f"the imager is done after {written - down:.0f} s; it was {watched.phases}")
        assert after == before, "the imager wrote to a data disk"
        assert {"verifying", "writing"} <= set(watched.phases)
        assert watched.status["operation"] == operation
        assert 'holdfast_reimage_state{state="imaging"} 1' in watched.metrics
        node.go_on(hold=False)

        new = control.answers(BOOT_SECONDS, not_boot=boot_id(old))
        tell(f"the new system answers {time.monotonic() - written:.0f} s later")
        done = control.finished(operation, 600)
        tell(f"confirmed {time.monotonic() - ordered:.0f} s after the order to reboot")
        assert done["state"] == "succeeded", done
        assert done["kind"] == "reimage"
        assert new["image_id"] == NEW_IMAGE
        assert new["hostname"] == "node-7"
        assert new["machine_id"] == OLD_MACHINE_ID
        found = control.get("/v1/reimage")
        assert found["state"] == "confirmed", found
        assert all(check["passed"] for check in found["checks"]), found["checks"]
        assert {"image", "identity", "data", "manifest"} <= {
            check["name"] for check in found["checks"]
        }
        assert [one["id"] for one in control.get("/v1/operations?kind=reimage")["operations"]] == [
            operation
        ]
        node.settled()
        assert identity(node) == kept
        warm = first_pass(node)
        assert warm["read_bytes"] <= 0.01 * warm["hot_bytes"], "the cache was cold"
        report = found["imager"]
        tell(
            f"the imager: {report['bytes_written']} bytes written of "
            f"{report['bytes_mapped']} mapped, at most {report['memory_peak_bytes'] >> 20} MiB "
            f"of memory; {report['phases']}"
        )
        assert report["memory_peak_bytes"] <= 128 << 20
