"""The steps of a re-imaging as a controller takes them, over HTTPS and nothing else."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.waiting import until
from tests.vm.pace import patience
from tests.vm.reimage.controller import Controller, boot_id
from tests.vm.reimage.images import NEW_IMAGE, OLD_IMAGE, OLD_MACHINE_ID
from tests.vm.reimage.node import BOOT_SECONDS, Node
from tests.vm.reimage.published import Published
from tests.vm.reimage.telling import tell
from tests.vm.service import first_pass, moments, started_at

STARTED = "holdfast-imager:"
"""What each line of the imager on the console begins with."""

IMAGE_SECONDS = 900.0
"""Far above what it takes: the machine is emulated, and may share its cores."""
POLL_SECONDS = 5.0
"""For one answer of the imager. A machine that is held answers nothing, and has no other end."""


@dataclass
class Watched:
    """What the imager reported while it worked."""

    phases: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """When each phase was first seen, on the controller's clock."""
    metrics: str = ""
    status: dict[str, Any] = field(default_factory=dict)


def state(control: Controller) -> str:
    """The state that the machine reports."""
    found: str = control.get("/v1/reimage")["state"]
    return found


def stage(control: Controller, request: dict[str, Any]) -> str:
    """Stage an image, wait until it is staged, and return the operation's id."""
    tell(f"staging: {request}")
    operation: str = control.post("/v1/reimage/stage", request, 202)["id"]

    def staged() -> bool:
        found = control.get("/v1/reimage")
        if found["operation"] != operation:  # it has not started yet
            return False
        assert found["state"] in ("staging", "staged"), found["reason"]
        return bool(found["state"] == "staged")

    until(staged, seconds=patience(IMAGE_SECONDS), what="the staged image", interval=0.5)
    tell("staged")
    return operation


def arm(control: Controller) -> dict[str, Any]:
    """Arm, and return what the machine then reports."""
    found: dict[str, Any] = control.post("/v1/reimage/arm")
    assert found["state"] == "armed", found
    tell(f"armed: {found['boot']['loader']} boots the imager next time")
    return found


def watch_imager(node: Node, watched: Watched, seconds: float = IMAGE_SECONDS) -> None:
    """Follow the imager over HTTPS until it reboots the machine, which is then held."""
    deadline = time.monotonic() + patience(seconds)
    while time.monotonic() < deadline:
        try:
            node.held(0.2)
        except TimeoutError:
            pass
        else:
            return
        try:
            found = node.control.get("/v1/reimage", seconds=patience(POLL_SECONDS))
            if found["state"] != "imaging":
                continue
            phase = found["progress"]["phase"]
            if phase not in watched.seconds:
                tell(f"the imager is {phase}")
                watched.phases.append(phase)
                watched.seconds[phase] = time.monotonic()
                watched.metrics = node.control.text("/metrics", seconds=patience(POLL_SECONDS))
            watched.status = found
        except (httpx.TransportError, KeyError):
            continue  # not there yet, or gone already
    raise TimeoutError(f"the imager did not end: {watched.status}\n{node.console[-4000:]}")


@dataclass(frozen=True)
class Journey:
    """What a controller saw from the order to reboot to the end of the operation."""

    watched: Watched
    new: dict[str, Any]
    """The node, as the new system reports it."""
    ended: dict[str, Any]
    """The operation."""


def travel(node: Node, operation: str) -> Journey:
    """Reboot an armed machine into the imager and on into the new system; digests its data disks.

    Fails if the imager wrote a byte to one of them.
    """
    control, watched = node.control, Watched()
    old = control.get("/v1/node")
    node.hold_at_resets()
    ordered = time.monotonic()
    assert control.post("/v1/reimage/reboot")["state"] == "rebooting"
    node.held(BOOT_SECONDS)
    down, before = time.monotonic(), node.disks.data_digests()
    tell(f"the old system is down after {down - ordered:.0f} s")
    node.go_on()
    watch_imager(node, watched)
    written = time.monotonic()
    assert node.disks.data_digests() == before, "the imager wrote to a data disk"
    tell(f"the imager is done after {written - down:.0f} s; it was {watched.phases}")
    node.go_on(hold=False)
    new = control.answers(BOOT_SECONDS, not_boot=boot_id(old))
    tell(f"the new system answers {time.monotonic() - written:.0f} s later")
    # The last check waits for the boot to settle.
    ended = control.finished(operation, IMAGE_SECONDS)
    tell(f"{ended['state']} {time.monotonic() - ordered:.0f} s after the order to reboot")
    return Journey(watched, new, ended)


def back_in_the_old_system(node: Node, operation: str, *, outcome: str = "failed") -> Any:
    """Wait for the old system, and for the operation's end in it; return the status."""
    node.control.answers(BOOT_SECONDS)
    done = node.control.finished(operation)
    assert done["state"] == outcome, done
    found = node.control.get("/v1/reimage")
    tell(f"the old system again: {found['state']}: {found['reason']}")
    return found


# Everything below /boot, and the environment that GRUB reads: what arming touches.
_BOOT_FILES = r"""
cd /boot && find . -type f ! -path ./holdfast/\* | sort | xargs sha256sum
"""


def boot_files(node: Node) -> str:
    """Digests of all that the boot loader reads, holdfast's own directory apart."""
    return node.guest.sh(_BOOT_FILES)


def identity(node: Node) -> dict[str, str]:
    """What of a machine has to be the same in its new system."""
    script = (
        "import glob,hashlib,json;"
        "names=[*glob.glob('/etc/ssh/ssh_host_*'),'/etc/hostname','/etc/machine-id',"
        "*glob.glob('/etc/holdfast/tls/*'),'/etc/holdfast/tokens.json',"
        "'/etc/holdfast/holdfast.toml'];"
        "print(json.dumps({n:hashlib.sha256(open(n,'rb').read()).hexdigest() for n in names}))"
    )
    found: dict[str, str] = json.loads(node.guest.run("/usr/bin/python3", "-c", script))
    return found


def prepared(node: Node, published: Published, mode: str) -> dict[str, Any]:
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


def is_the_new_system(node: Node, journey: Journey, operation: str) -> None:
    """Check that the image was written, that the node is the same one, and what the imager said."""
    assert {"verifying", "writing"} <= set(journey.watched.phases)
    assert journey.watched.status["operation"] == operation
    assert 'holdfast_reimage_state{state="imaging"} 1' in journey.watched.metrics
    assert journey.ended["kind"] == "reimage"
    assert journey.new["image_id"] == NEW_IMAGE
    assert journey.new["hostname"] == "node-7"
    assert journey.new["machine_id"] == OLD_MACHINE_ID
    known = node.control.get("/v1/operations?kind=reimage")["operations"]
    assert [listed["id"] for listed in known] == [operation]


def started_warm(node: Node) -> None:
    """The cache was loaded before the datastore was started, and so its first pass is free."""
    node.settled()
    warm = first_pass(node.guest)
    assert warm["read_bytes"] <= 0.01 * warm["hot_bytes"], "the cache was cold"
    loaded = moments(node.guest, "holdfast-warm.service", "ExecMainExitTimestampMonotonic")[0] / 1e6
    assert 0 < loaded <= started_at(node.guest)
