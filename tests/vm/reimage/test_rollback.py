"""The old system is kept, and comes back: by itself, where the new one is not confirmed in time."""

from __future__ import annotations

import json
import time

from tests.vm.reimage.conftest import Start
from tests.vm.reimage.controller import boot_id
from tests.vm.reimage.images import NEW_IMAGE, OLD_IMAGE, OLD_MACHINE_ID
from tests.vm.reimage.node import BOOT_SECONDS, Node
from tests.vm.reimage.published import Published
from tests.vm.reimage.story import (
    IMAGE_SECONDS,
    Watched,
    arm,
    back_in_the_old_system,
    boot_files,
    identity,
    stage,
    watch_imager,
)
from tests.vm.reimage.telling import tell

CONFIRM_SECONDS = 60
"""The least that there may be."""

# Carried over to the new system, which is not what it asks for.
_CHECK = f"""
cat >>/etc/holdfast/holdfast.toml <<'END'
[reimage]
check_command = ["/bin/grep", "-q", "{OLD_IMAGE}", "/etc/holdfast/image-id"]
END
systemctl restart holdfast
"""


def _root_bytes(node: Node) -> int:
    """How large the root file system is."""
    shown = node.guest.run("/usr/bin/stat", "-f", "-c", "%b %S", "/")
    blocks, size = map(int, shown.split())
    return blocks * size


def test_what_is_not_confirmed_is_rolled_back(start: Start, published: Published) -> None:
    with start() as node:
        control = node.control
        control.answers(BOOT_SECONDS)
        node.settled()
        node.guest.sh(_CHECK)
        old = control.answers(BOOT_SECONDS)
        node.settled()
        kept, before, room = identity(node), boot_files(node), _root_bytes(node)
        manifest = control.succeeded("/v1/manifests", {"root": "/mnt/data"})["manifest"]
        request = published.request(
            manifest=manifest,
            grow_root=True,
            save_previous=True,
            rollback="automatic",
            confirm_seconds=CONFIRM_SECONDS,
        )
        plan = control.post("/v1/reimage/plan", request)
        assert plan["ok"], plan["blocked"]
        assert [need["what"].partition(",")[0] for need in plan["space"]] == [
            "the image",
            "the old system",
        ]
        assert any(step.startswith("grow: Partition 2 and its ext4") for step in plan["steps"])
        assert any(step.startswith("keep: ") for step in plan["steps"])
        first = stage(control, request)
        arm(control)

        node.hold_at_resets()
        assert control.post("/v1/reimage/reboot")["state"] == "rebooting"
        node.held(BOOT_SECONDS)
        watched = Watched()
        node.go_on()
        watch_imager(node, watched)
        assert {"saving", "verifying_saved", "writing"} <= set(watched.phases), watched.phases
        node.go_on(hold=False)

        new = control.answers(BOOT_SECONDS, not_boot=boot_id(old))
        assert new["image_id"] == NEW_IMAGE
        done = control.finished(first, 600)
        assert (done["state"], done["error"]["type"]) == ("failed", "/problems/not-confirmed"), done
        found = control.get("/v1/reimage")
        assert found["state"] == "unconfirmed", found
        assert [check["name"] for check in found["checks"] if not check["passed"]] == ["command"]
        assert found["rollback_at"] is not None
        saved = found["previous"]
        tell(f"the new system is not confirmed; kept: {saved}")
        reported = found["imager"]
        tell(f"{reported['notes']}, at most {reported['memory_peak_bytes'] >> 20} MiB")
        assert reported["memory_peak_bytes"] <= 128 << 20
        assert any("the root file system (ext4) was grown" in note for note in reported["notes"])
        grown = _grown(node)
        # Up to the lifeboat, which is behind it.
        assert grown["end"] > (3 << 30) - (66 << 20), grown
        assert grown["root"] > room * 5 // 4, (grown, room)

        tell("waiting for it to be rolled back by itself")
        waited = time.monotonic()
        back = control.answers(IMAGE_SECONDS * 2, not_boot=boot_id(new))
        tell(f"the old system answers {time.monotonic() - waited:.0f} s later")
        assert back["image_id"] == OLD_IMAGE
        assert back["machine_id"] == OLD_MACHINE_ID
        operations = control.get("/v1/operations?kind=reimage")["operations"]
        second = operations[0]["id"]
        assert [operation["id"] for operation in operations] == [second, first]
        done = control.finished(second, 600)
        assert done["state"] == "succeeded", done
        assert done["actor"] == "rollback", done
        found = control.get("/v1/reimage")
        assert (found["state"], found["rollback_of"]) == ("confirmed", first), found
        assert {"data", "manifest", "command"} <= {
            check["name"] for check in found["checks"] if check["passed"]
        }
        arrival = next(step["why"] for step in found["history"] if step["state"] == "booted")
        assert "runs again" in arrival
        assert "reverted" in arrival
        assert found["previous"] == saved
        node.settled()
        assert identity(node) == kept
        assert boot_files(node) == before
        assert node.guest.call("/usr/bin/test", "-e", "/boot/holdfast").returncode == 1

        node.guest.run("/usr/bin/holdfast", "reimage", "forget-previous", "--yes")
        assert control.get("/v1/reimage")["previous"] is None


def test_without_room_for_the_old_system_nothing_is_written(
    start: Start, published: Published
) -> None:
    with start() as node:
        control = node.control
        old = control.answers(BOOT_SECONDS)
        node.settled()
        before = boot_files(node)
        request = published.request(save_previous=True)
        operation = stage(control, request)
        # Only now: what is clearly too little is refused by the plan already.
        node.guest.sh(
            "set -- $(stat -f -c '%a %S' /mnt/data); "
            "fallocate -l $(($1 * $2 - (100 << 20))) /mnt/data/db/filler; sync"
        )
        plan = control.post("/v1/reimage/plan", request)
        assert not plan["ok"]
        blocked = plan["blocked"]
        assert any("not enough space for the old system" in why for why in blocked), blocked
        arm(control)
        assert control.post("/v1/reimage/reboot")["state"] == "rebooting"
        control.answers(IMAGE_SECONDS, not_boot=boot_id(old))
        found = back_in_the_old_system(node, operation)
        assert found["state"] == "failed"
        assert "the old disk cannot be kept" in found["reason"], found["reason"]
        assert "No space left" in found["reason"], found["reason"]
        assert found["previous"] is None
        node.settled()
        assert boot_files(node) == before
        assert control.answers(BOOT_SECONDS)["image_id"] == OLD_IMAGE
        left = node.guest.sh("find /mnt/data/.holdfast/previous -mindepth 1")
        assert left == "", left


def _grown(node: Node) -> dict[str, int]:
    """Where the root partition ends, and how large the file system on it is."""
    shown = node.guest.run("/bin/lsblk", "--json", "--bytes", "--output", "NAME,START,SIZE")
    disks = json.loads(shown)["blockdevices"]
    root = next(disk for disk in disks if disk["name"] == "vda")["children"][-1]
    return {"end": root["start"] * 512 + root["size"], "root": _root_bytes(node)}
