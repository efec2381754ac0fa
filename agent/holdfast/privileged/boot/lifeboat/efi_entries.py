"""By which paths the firmware's menu would start something from the disk's system partition."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.disk.gpt import ESP, GptPartition
from holdfast.privileged.boot.lifeboat.parts import LifeboatError
from holdfast.privileged.boot.loaders.boot_next import LoadOption
from holdfast.privileged.boot.loaders.efi_variables import GLOBAL, EfiVariables
from holdfast.privileged.boot.loaders.esp import Esp, system_partitions

_MEDIA, _HARD_DRIVE, _FILE = 4, 1, 4
_GUID_AT = 20
_MOST_PATHS = 3


def booted_partition(machine: MachineFiles) -> Esp:
    """Return the system partition that the present entry leads to, else the first that is mounted.

    Raises `LifeboatError` without one, `OSError`.
    """
    found = [system for system in system_partitions(machine) if system.partition.type == ESP]
    if not found:
        raise LifeboatError(
            "No EFI system partition on the disk of the root is mounted at /efi, /boot/efi or "
            "/boot."
        )
    variables = EfiVariables(machine)
    current = variables.read("BootCurrent", GLOBAL)
    option = None if current is None or len(current) != 2 else _option(variables, current)
    wanted = None if option is None else _target(option.path)[0]
    return next((system for system in found if system.partition.uuid == wanted), found[0])


def paths_to(machine: MachineFiles, partition: GptPartition) -> Sequence[str]:
    """Return the files on it that the menu has, in the order of the firmware. Raises `OSError`."""
    variables = EfiVariables(machine)
    order = variables.read("BootOrder", GLOBAL) or b""
    found: dict[str, str] = {}
    for at in range(0, len(order) - 1, 2):
        option = _option(variables, order[at : at + 2])
        if option is None:
            continue
        target, path = _target(option.path)
        if target == partition.uuid and path is not None:
            found.setdefault(path.casefold(), path)
    return list(found.values())[:_MOST_PATHS]


def _option(variables: EfiVariables, number: bytes) -> LoadOption | None:
    (chosen,) = struct.unpack("<H", number)
    value = variables.read(f"Boot{chosen:04X}", GLOBAL)
    return None if value is None else LoadOption.parsed(value)


def _target(path: bytes) -> tuple[str | None, str | None]:
    """Return the GUID of the partition, and the path of the file, of a device path."""
    partition = file = None
    for kind, subtype, content in _nodes(path):
        if (kind, subtype) == (_MEDIA, _HARD_DRIVE) and len(content) >= _GUID_AT + 16:
            partition = str(uuid.UUID(bytes_le=content[_GUID_AT : _GUID_AT + 16]))
        elif (kind, subtype) == (_MEDIA, _FILE):
            text = content.decode("utf-16-le", "replace").partition("\0")[0]
            file = text.replace("\\", "/").strip("/") or None
    return partition, file


def _nodes(path: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + 4 <= len(path):
        kind, subtype, length = struct.unpack_from("<BBH", path, at)
        if length < 4 or at + length > len(path):
            return
        yield kind, subtype, path[at + 4 : at + length]
        at += length
