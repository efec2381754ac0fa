"""Collects what goes into the imager's initramfs, of this machine and of what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.node.models import BlockDevice, Disk
from holdfast.node.paths.directories import DirectoryIdentity
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.approval import Approved
from holdfast.privileged.boot.disk.file_io import read_plain
from holdfast.privileged.boot.models import ArmRequest, StagedImage
from holdfast.privileged.boot.payload import modules
from holdfast.privileged.boot.payload.identity import Identity, collect
from holdfast.privileged.boot.payload.network import describe_network
from holdfast.privileged.boot.payload.source import Source, find_source
from holdfast.privileged.writes import Refused

_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_MAX_PEM = 16 << 20


@dataclass(frozen=True)
class Collected:
    """All of it, and what was noticed on the way."""

    source: Source
    network: dict[str, Any] | None
    modules: Sequence[modules.Module]
    identity: Identity
    files: Mapping[str, bytes]
    data_disks: Sequence[BlockDevice]
    notes: list[str]
    previous: Source | None
    """Where the old disk is kept, if it is."""
    state_dir: DirectoryIdentity
    """The identity by which the state directory is recognised."""
    watchdog: bool
    """There is a hardware watchdog, whose module is among the others if it has one."""


def collect_all(
    machine: MachineFiles, request: ArmRequest, approved: Approved, disks: Sequence[Disk]
) -> Collected:
    """Collect everything that is written, before anything is. Raises `Refused`, `OSError`."""
    notes: list[str] = []
    descriptor = approved.descriptor
    source = find_source(machine, request.source)
    if request.source.kind == "staged" and not machine.path(request.source.path).is_file():
        raise Refused(f"There is no staged image {request.source.path}.")
    described_network = describe_network(machine)
    network = None
    if not isinstance(described_network, str):
        network = described_network
    elif request.source.kind == "network":
        raise Refused(described_network)
    else:
        notes.append(described_network)
    blocks = [disk.name for disk in disks if disk.target or disk.data]
    names = [
        name
        for block in [*blocks, *(disk.name for disk in source.disks)]
        for name in modules.drivers_of(machine, machine.sys / "class/block" / block)
    ]
    if network is not None:
        card = machine.sys / "class/net" / network["interface"]["name"]
        names += modules.drivers_of(machine, card)
    names += source.modules
    watchdogs = modules.watchdogs(machine)
    names += watchdogs.modules
    previous = _previous(machine, request, disks)
    if previous is not None:
        names += previous.modules
        for disk in previous.disks:
            names += modules.drivers_of(machine, machine.sys / "class/block" / disk.name)
    if descriptor.root_file_system is not None:
        names.append(modules.file_system_module(descriptor.root_file_system))
    data = [disk for disk in disks if disk.data]
    plain = machine.sysfs(udev=False)
    described = [plain.describe(disk.name) for disk in data]
    return Collected(
        source=source,
        network=network,
        modules=modules.gather(machine, names),
        identity=collect(machine, request.identity),
        files=_files(machine, request),
        data_disks=[disk for disk in described if disk is not None],
        notes=notes,
        previous=previous,
        state_dir=approved.state_dir,
        watchdog=watchdogs.found,
    )


def _previous(machine: MachineFiles, request: ArmRequest, disks: Sequence[Disk]) -> Source | None:
    """Find the file system on which the old disk is kept. Raises `Refused`."""
    if request.save_previous is None:
        return None
    found = find_source(machine, StagedImage(path=request.save_previous))
    below = {disk.name for disk in found.disks}
    if any(disk.target and disk.name in below for disk in disks):
        raise Refused("The old system would be kept on the disk that is written over.")
    return found


def _files(machine: MachineFiles, request: ArmRequest) -> Mapping[str, bytes]:
    """Read the other files that go into the initramfs. Raises `Refused`, `OSError`."""
    system = next((path for path in _CERTIFICATES if machine.path(path).is_file()), None)
    trusted = [read_plain(machine.path(path).resolve(), _MAX_PEM) for path in (system,) if path]
    if request.ca is not None:
        trusted.append(_checked(machine, request.ca, b"-----BEGIN "))
    found = {"ca.pem": b"\n".join(trusted)} if trusted else {}
    status = request.status
    if status is None:
        return found
    wanted = {
        "tls/certificate.pem": status.certificate,
        "tls/key.pem": status.key,
        "tokens.json": status.tokens,
        "tls/client-ca.pem": status.client_ca,
    }
    for name, given in wanted.items():
        if given is not None:
            mark = b'"tokens"' if name == "tokens.json" else b"-----BEGIN "
            found[name] = _checked(machine, given, mark)
    return found


def _checked(machine: MachineFiles, given: str, mark: bytes) -> bytes:
    """Read a file that the caller names: only if it is of the expected kind."""
    content = read_plain(machine.path(given).resolve(), _MAX_PEM)
    if mark not in content:
        raise Refused(
            f"{given} is not the file that the imager needs: it has no {mark.decode()!r}."
        )
    return content
