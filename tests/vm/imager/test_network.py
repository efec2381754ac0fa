"""Servers that fail, and networks that do, when the imager fetches the image by itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fileserver import Behaviour, serving
from tests.vm.imager.arming import DHCP, FIXED
from tests.vm.imager.conftest import NewRig
from tests.vm.imager.images import Image
from tests.vm.imager.machine import HURRIED
from tests.vm.imager.rig import Rig

HOST = "10.0.2.2"
"""This machine's loopback, as QEMU's user network shows it."""


def behaviour(image: Image, **how: Any) -> Behaviour:
    """A server of an image that does something wrong."""
    return Behaviour({"/image": image.content.read_bytes()}, {"/image": '"1"'}, **how)


@contextmanager
def served(machine: Rig, does: Behaviour) -> Iterator[dict[str, Any]]:
    """Serve the image; give what a machine is armed with."""
    with serving(does) as url:
        url = url.replace("127.0.0.1", HOST)
        yield {"source": {"kind": "network", "url": f"{url}/image"}, "network": DHCP}


def begun_at(does: Behaviour) -> list[int]:
    """Where the requests so far began."""
    return [int((one.range or "bytes=0-")[6:-1]) for one in does.asked]


@pytest.mark.parametrize(("status", "reason"), [(404, "answers 404"), (403, "answers 403")])
def test_the_server_refuses(rig: NewRig, status: int, reason: str) -> None:
    machine = rig()
    does = behaviour(machine.image, statuses=[status])
    with served(machine, does) as how:
        machine.refused(machine.run(machine.arm(**how), network=""), reason)
    assert len(does.asked) == 1


def test_the_server_has_troubles_and_cuts_connections(rig: NewRig) -> None:
    machine = rig()
    does = behaviour(machine.image, statuses=[500, 503], cut_after=3 << 20)
    with served(machine, does) as how:
        machine.written(machine.run(machine.arm(**how), network=""))
    begun = begun_at(does)
    # Each pass went on where it was cut off, and nothing was sent twice.
    size = machine.image.content.stat().st_size
    once = [*range(0, size, 3 << 20)]
    assert begun == [0, 0, *once, *once]


def test_one_kib_a_second(rig: NewRig, thin: Image) -> None:
    machine = rig(thin)
    does = behaviour(thin, bytes_per_second=1 << 10)
    with served(machine, does) as how:
        machine.written(machine.run(machine.arm(**how), network=""))
    assert begun_at(does) == [0, 0]


def test_a_bit_is_flipped_on_the_way(rig: NewRig) -> None:
    machine = rig()
    does = behaviour(machine.image, flips=[5 << 20])
    with served(machine, does) as how:
        machine.refused(machine.run(machine.arm(**how), network=""), "is not the image")


def test_a_bit_is_flipped_while_it_writes(rig: NewRig) -> None:
    machine = rig()
    nothing = len(machine.image.content.read_bytes()) - 1
    does = behaviour(machine.image)
    with served(machine, does) as how:
        # The first response is for the verification; then two passes of writing go wrong.
        does.flips += [nothing, 5 << 20, 6 << 20]
        does.files["/image"] += b""
        machine.run(machine.arm(**how), network="")


def test_the_servers_file_is_truncated(rig: NewRig) -> None:
    machine = rig()
    does = behaviour(machine.image)
    does.files["/image"] = does.files["/image"][:-100]
    with served(machine, does) as how:
        done = machine.run(machine.arm(**how), network="")
    machine.refused(done, "has a file of [0-9]+ bytes, and the descriptor says")


def test_nobody_answers(rig: NewRig) -> None:
    machine = rig()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        source = {"kind": "network", "url": f"http://{HOST}:{unused.getsockname()[1]}/image"}
        initrd = machine.arm(source=source, network=FIXED)
        done = machine.run(initrd, network="", options=HURRIED)
    machine.refused(done, "refused|timed out")
