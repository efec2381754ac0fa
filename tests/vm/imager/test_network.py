"""Servers that fail, and networks that do, when the imager fetches the image by itself."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon.harness import dying_with_parent
from tests.support.machine.namespaces import own_namespaces
from tests.support.servers.fileserver import Behaviour
from tests.vm.imager.arming import DHCP, FIXED
from tests.vm.imager.conftest import MakeData, NewRig
from tests.vm.imager.images import Image
from tests.vm.imager.machine import ALONE, COMMAND_LINE, HOST, HURRIED, PROCESSORS, USER, Running
from tests.vm.imager.rig import Rig
from tests.vm.imager.serving import behaviour, served
from tests.vm.reimage.authority import make_certificates

_TOO_FEW_THREADS = 52
"""The kernel itself has some 45 by then."""


def begun_at(does: Behaviour) -> list[int]:
    """Where the requests so far began."""
    return [int((request.range or "bytes=0-")[6:-1]) for request in does.asked]


@pytest.mark.parametrize(("status", "reason"), [(404, "answers 404"), (403, "answers 403")])
def test_the_server_refuses(rig: NewRig, status: int, reason: str) -> None:
    machine = rig()
    does = behaviour(machine.image, statuses=[status])
    with served(machine, does) as how:
        machine.refused(machine.run(machine.arm(**how), network=USER), reason)
    assert len(does.asked) == 1


def test_the_server_has_troubles_and_cuts_connections(rig: NewRig) -> None:
    machine = rig()
    does = behaviour(machine.image, statuses=[500, 503], cut_after=3 << 20)
    with served(machine, does) as how:
        machine.written(machine.run(machine.arm(**how), network=USER))
    began = begun_at(does)
    # Each pass went on where it was cut off, and nothing was sent twice.
    size = machine.image.content.stat().st_size
    once = [*range(0, size, 3 << 20)]
    assert began == [0, 0, *once, *once]


def test_one_kib_a_second(rig: NewRig, thin: Image) -> None:
    machine = rig(thin)
    does = behaviour(thin, bytes_per_second=1 << 10)
    with served(machine, does) as how:
        machine.written(machine.run(machine.arm(**how), network=USER))
    assert begun_at(does) == [0, 0]


def test_there_are_too_few_threads(rig: NewRig) -> None:
    """Which Rust's library takes for impossible: the imager itself panics."""
    machine = rig()
    line = f"{COMMAND_LINE} sysctl.kernel.threads-max={_TOO_FEW_THREADS}"
    with served(machine, behaviour(machine.image)) as how:
        done = machine.run(machine.arm(**how), network=USER, command_line=line)
    machine.refused(done, "a fault of the imager itself: (?s:.*)failed to spawn thread")


def test_a_bit_is_flipped_on_the_way(rig: NewRig) -> None:
    machine = rig()
    does = behaviour(machine.image, flips=[5 << 20])
    with served(machine, does) as how:
        machine.refused(machine.run(machine.arm(**how), network=USER), "is not the image")


def test_a_bit_is_flipped_while_it_writes(rig: NewRig) -> None:
    machine = rig()
    # The first response is for the verification.
    does = behaviour(machine.image, flips=[None, 5 << 20, 6 << 20])
    with served(machine, does) as how:
        done = machine.run(machine.arm(**how), network=USER)
    machine.written(done)
    assert sum("changed since it was checked" in line for line in done.said) == 2, done.said


def test_the_server_refuses_while_it_writes(rig: NewRig) -> None:
    machine = rig()
    does = behaviour(machine.image, statuses=[200, 404, 403, 500])
    with served(machine, does) as how:
        done = machine.run(machine.arm(**how), network=USER)
    machine.written(done)
    assert any("is asked again from 0 on" in line and "404" in line for line in done.said)


def test_the_servers_file_is_truncated(rig: NewRig) -> None:
    machine = rig()
    does = behaviour(machine.image)
    does.files["/image"] = does.files["/image"][:-100]
    with served(machine, does) as how:
        done = machine.run(machine.arm(**how), network=USER)
    machine.refused(done, "has a file of [0-9]+ bytes, and the descriptor says")


def test_nobody_answers(rig: NewRig) -> None:
    machine = rig()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        source = {"kind": "network", "url": f"http://{HOST}:{unused.getsockname()[1]}/image"}
        initrd = machine.arm(source=source, network=FIXED)
        done = machine.run(initrd, network=USER, options=HURRIED)
    machine.refused(done, "refused|timed out")


class TestAddresses:
    """DHCP for 15 s, and then the addresses that the machine had."""

    def test_nobody_gives_an_address(self, rig: NewRig, disk_dir: Path) -> None:
        machine = rig()
        with own_namespaces(disk_dir / "namespaces") as own:
            own.run("ip", "tuntap", "add", "tap0", "mode", "tap")
            own.run("ip", "address", "add", f"{HOST}/24", "dev", "tap0")
            own.run("ip", "link", "set", "dev", "tap0", "up")
            server = (*own.wrapper, sys.executable, "-m", "http.server", "--bind", HOST, "8080")
            directory = ("--directory", str(machine.image.content.parent))
            with subprocess.Popen(
                dying_with_parent((*server, *directory)), stderr=subprocess.DEVNULL
            ) as process:
                url = f"http://{HOST}:8080/{machine.image.content.name}"
                initrd = machine.arm(
                    source={"kind": "network", "url": url}, network={**FIXED, "dhcp": True}
                )
                tap = "tap,ifname=tap0,script=no,downscript=no"
                done = machine.run(initrd, network=tap, wrapper=own.wrapper)
                process.kill()
        machine.written(done)
        assert any("taking the addresses that the machine had" in line for line in done.said)

    def test_nor_had_it_any(self, rig: NewRig) -> None:
        machine = rig()
        source = {"kind": "network", "url": f"http://{HOST}/image"}
        initrd = machine.arm(source=source, network=DHCP)
        done = machine.run(initrd, network=ALONE, options=HURRIED)
        machine.refused(done, "DHCP")

    def test_a_staged_image_needs_none(self, rig: NewRig, staged: MakeData) -> None:
        machine = rig()
        machine.put_data(staged())
        # For everybody it is not served, and the work continues all the same.
        status = {"listen": "0.0.0.0:9918", "tls": False, "tokens": False}
        initrd = machine.arm(network=DHCP, change=lambda job: job.update(status=status))
        machine.written(machine.run(initrd, network=ALONE, options=HURRIED))

    def test_there_is_no_network_card(self, rig: NewRig) -> None:
        machine = rig()
        source = {"kind": "network", "url": f"http://{HOST}/image"}
        initrd = machine.arm(source=source, network=DHCP)
        done = machine.run(initrd, options=HURRIED)
        machine.refused(done, "there is no network interface 52:54:00:12:34:56")


@pytest.fixture(scope="module")
def secrets(room: Path) -> Path:
    """Certificates for the server as the machine sees it, and in `other` for another."""
    make_certificates(room / "secrets", HOST)
    make_certificates(room / "secrets/other", "10.0.2.99")
    return room / "secrets"


class TestTls:
    """Certificates are judged by the machine's clock, which cannot be before the arming."""

    def run(self, machine: Rig, secrets: Path, *options: str, ca: str = "ca.pem") -> Running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(secrets / "server.pem", secrets / "server.key")
        with served(machine, behaviour(machine.image), context) as how:
            files = {"ca.pem": (secrets / ca).read_bytes()}
            initrd = machine.arm(**how | {"network": FIXED}, files=files)
            # Not hurried: what is wrong with a certificate is to be reported at once.
            return machine.run(initrd, network=USER, options=(*PROCESSORS, *options))

    def test_the_clock_is_years_behind(self, rig: NewRig, secrets: Path) -> None:
        machine = rig()
        done = self.run(machine, secrets, "-rtc", "base=2001-02-03T04:05:06")
        machine.written(done)
        assert any(line.startswith("the machine's clock was behind") for line in done.said)

    def test_the_clock_is_years_ahead(self, rig: NewRig, secrets: Path) -> None:
        machine = rig()
        done = self.run(machine, secrets, "-rtc", "base=2061-02-03T04:05:06")
        machine.refused(done, "TLS with 10.0.2.2: .*(expired|Expired)")

    def test_the_certificate_has_another_name(self, rig: NewRig, secrets: Path) -> None:
        machine = rig()
        done = self.run(machine, secrets / "other")
        machine.refused(done, "TLS with 10.0.2.2: .*not valid for name")

    def test_the_certificate_is_signed_by_somebody_else(self, rig: NewRig, secrets: Path) -> None:
        machine = rig()
        done = self.run(machine, secrets, ca="other/ca.pem")
        machine.refused(done, "TLS with 10.0.2.2: .*invalid peer certificate")
