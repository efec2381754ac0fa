"""A machine becomes another image, and its data stay: seen by a controller, over HTTPS."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vm.reimage.conftest import Start
from tests.vm.reimage.images import NEW_IMAGE, OLD_IMAGE, OLD_MACHINE_ID
from tests.vm.reimage.node import BOOT_SECONDS, Node
from tests.vm.reimage.published import Published
from tests.vm.reimage.story import Journey, arm, boot_files, identity, stage, travel
from tests.vm.reimage.telling import tell
from tests.vm.service import first_pass, moments, started_at

pytestmark = pytest.mark.alone

# The operator's own check of a new system: here it passes once the operator has fixed something.
_CHECK = """
cat >>/etc/holdfast/holdfast.toml <<'END'
[reimage]
check_command = ["/usr/bin/test", "-e", "/etc/holdfast/mended"]
END
systemctl restart holdfast
"""


def _prepared(node: Node, published: Published, mode: str) -> dict[str, Any]:
    """Wait for the old system, prove its data, record its cache, and return what to stage."""
    control = node.control
    assert control.answers(BOOT_SECONDS)["image_id"] == OLD_IMAGE
    node.settled()
    first_pass(node.guest)
    manifest = control.succeeded("/v1/manifests", {"root": "/mnt/data"})["manifest"]
    tell(f"manifest {manifest} of /mnt/data is built")
    control.succeeded("/v1/pagecache/dumps", {"root": "/mnt/data"})
    request = published.request(mode=mode, manifest=manifest)
    plan = control.post("/v1/reimage/plan", request)
    assert plan["ok"], plan["blocked"]
    return request


def _rehearsed(node: Node) -> None:
    """What arming would write is reported, and nothing is written."""
    before = boot_files(node)
    found = node.control.post("/v1/reimage/arm", {"dry_run": True})
    assert found["state"] == "staged"
    told = [file["path"] for file in found["boot"]["files"]]
    assert told[-2:] == ["/boot/grub/custom.cfg", "/boot/grub/grubenv"]
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


def _is_the_new_system(node: Node, journey: Journey, operation: str) -> None:
    assert {"verifying", "writing"} <= set(journey.watched.phases)
    assert journey.watched.status["operation"] == operation
    assert 'holdfast_reimage_state{state="imaging"} 1' in journey.watched.metrics
    assert journey.ended["kind"] == "reimage"
    assert journey.new["image_id"] == NEW_IMAGE
    assert journey.new["hostname"] == "node-7"
    assert journey.new["machine_id"] == OLD_MACHINE_ID
    known = node.control.get("/v1/operations?kind=reimage")["operations"]
    assert [listed["id"] for listed in known] == [operation]


def _started_warm(node: Node) -> None:
    """The cache was loaded before the datastore was started, and so its first pass is free."""
    node.settled()
    warm = first_pass(node.guest)
    assert warm["read_bytes"] <= 0.01 * warm["hot_bytes"], "the cache was cold"
    loaded = moments(node.guest, "holdfast-warm.service", "ExecMainExitTimestampMonotonic")[0] / 1e6
    assert 0 < loaded <= started_at(node.guest)


def test_a_machine_becomes_another_image(start: Start, published: Published) -> None:
    with start() as node:
        request = _prepared(node, published, "staged")
        kept = identity(node)
        operation = stage(node.control, request)
        _rehearsed(node)
        arm(node.control)

        journey = travel(node, operation)

        assert journey.ended["state"] == "succeeded", journey.ended
        _is_the_new_system(node, journey, operation)
        found = node.control.get("/v1/reimage")
        assert found["state"] == "confirmed", found
        assert all(check["passed"] for check in found["checks"]), found["checks"]
        names = {check["name"] for check in found["checks"]}
        assert {"image", "identity", "data", "manifest"} <= names
        assert identity(node) == kept
        _started_warm(node)
        report = found["imager"]
        tell(
            f"the imager: {report['bytes_written']} bytes written of "
            f"{report['bytes_mapped']} mapped, at most {report['memory_peak_bytes'] >> 20} MiB "
            f"of memory; {report['phases']}"
        )
        assert report["memory_peak_bytes"] <= 128 << 20


def test_over_the_network_and_not_confirmed_at_first(start: Start, published: Published) -> None:
    with start() as node:
        control = node.control
        request = _prepared(node, published, "network")
        node.guest.sh(_CHECK)
        control.answers(BOOT_SECONDS)
        operation = stage(control, request)
        arm(control)

        journey = travel(node, operation)

        _is_the_new_system(node, journey, operation)
        assert journey.ended["state"] == "failed"
        assert journey.ended["error"]["type"].endswith("not-confirmed"), journey.ended
        found = control.get("/v1/reimage")
        assert found["state"] == "unconfirmed", found
        assert "/usr/bin/test" in found["reason"]
        assert [check["name"] for check in found["checks"] if not check["passed"]] == ["command"]
        assert 'holdfast_reimage_state{state="unconfirmed"} 1' in control.text("/metrics")
        _started_warm(node)
        assert "NOT CONFIRMED" in node.guest.run("/usr/bin/journalctl", "-u", "holdfast", "-b")

        tell("checking again, before and after it is mended")
        again = control.finished(control.post("/v1/reimage/confirm", code=202)["id"])
        assert (again["kind"], again["state"]) == ("reimage.check", "failed")
        assert control.get("/v1/reimage")["state"] == "unconfirmed"
        node.guest.sh("touch /etc/holdfast/mended")
        again = control.finished(control.post("/v1/reimage/confirm", code=202)["id"])
        assert again["state"] == "succeeded", again
        assert control.get("/v1/reimage")["state"] == "confirmed"
