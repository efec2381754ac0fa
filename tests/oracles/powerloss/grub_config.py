"""Reads the commands of GRUB that a small configuration needs: no conditions and no menu."""

from __future__ import annotations

import shlex
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracles.powerloss.sectors import NotBootableError

_WITHOUT_EFFECT = {"insmod", "terminal_input", "terminal_output", "serial", "terminal", "boot"}
_AT_ITS_END = {"reboot", "halt"}
"""These are reached only if nothing was booted."""
_LINUX = {"linux", "linux16", "linuxefi"}
_INITRD = {"initrd", "initrd16", "initrdefi"}


@dataclass(frozen=True)
class Entry:
    """What to load."""

    kernel: str
    words: Sequence[str]
    initrds: Sequence[str]


def parse(text: str) -> Entry:
    """Return what a configuration boots. Raises `NotBootableError` if it is not understood."""
    kernel: str | None = None
    words: Sequence[str] = ()
    initrds: Sequence[str] = ()
    variables: dict[str, str] = {}
    for line in text.splitlines():
        # `set` may be given a value with blanks in quotes only, as in a shell.
        command = shlex.split(_expand(line, variables), comments=True)
        if not command or command[0] in _WITHOUT_EFFECT | _AT_ITS_END:
            continue
        name, *arguments = command
        if name == "set" and len(arguments) == 1 and "=" in arguments[0]:
            variable, _, value = arguments[0].partition("=")
            variables[variable] = value
        elif name in _LINUX and arguments:
            kernel, *words = arguments
        elif name in _INITRD and arguments:
            initrds = arguments
        else:
            raise NotBootableError(f"GRUB's configuration has a command unknown here: {line}")
    if kernel is None or not initrds:
        raise NotBootableError("GRUB's configuration names no kernel with an initramfs")
    return Entry(kernel, words, initrds)


def _expand(line: str, variables: dict[str, str]) -> str:
    for name in sorted(variables, key=len, reverse=True):
        line = line.replace(f"${{{name}}}", variables[name]).replace(f"${name}", variables[name])
    return line


_MODULES, _CONFIG = b"mimg", 2
# `struct grub_module_info32` and 64: magic, padding in the wide one, offset and size.
_NARROW, _WIDE = struct.Struct("<4xII"), struct.Struct("<8xQQ")


def embedded(image: bytes, *, wide: bool) -> str:
    """Return the configuration that an image of GRUB's kernel has among its modules.

    `wide` is whether GRUB has 64-bit words. Raises `NotBootableError` if there is none.
    """
    fields = _WIDE if wide else _NARROW
    begin = image.find(_MODULES)
    while 0 <= begin <= len(image) - fields.size:
        offset, size = fields.unpack_from(image, begin)
        at, end = begin + offset, min(begin + size, len(image))
        while fields.size <= at - begin and at + 8 <= end:
            kind, length = struct.unpack_from("<II", image, at)
            if length < 8:
                break
            if kind == _CONFIG:
                return image[at + 8 : at + length].split(b"\0")[0].decode()
            at += length
        begin = image.find(_MODULES, begin + 1)
    raise NotBootableError("GRUB has no embedded configuration")
