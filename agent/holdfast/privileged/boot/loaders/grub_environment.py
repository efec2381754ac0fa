"""GRUB's environment block: 1024 bytes of `name=value` lines, filled up with `#`.

As in GRUB's lib/envblk.c: a backslash escapes a backslash and a newline within a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SIZE = 1024
SIGNATURE = b"# GRUB Environment Block\n"
_LINE = re.compile(rb"(?:[^\\\n]|\\.)*\n", re.DOTALL)


class EnvironmentBlockError(ValueError):
    """It is not one, or is full; the message is a clause."""


def variables(block: bytes) -> Mapping[bytes, bytes]:
    """Return what is set, values as they are written. Raises `EnvironmentBlockError`."""
    return dict(line.rstrip(b"\n").split(b"=", 1) for line in _lines(block) if b"=" in line)


def with_variable(block: bytes, name: bytes, value: bytes | None) -> bytes:
    """Return the block with a variable set, or without it. Raises `EnvironmentBlockError`.

    All other lines stay as they are, in their order.
    """
    kept = [line for line in _lines(block) if line.split(b"=", 1)[0] != name]
    if value is not None:
        kept.append(name + b"=" + value + b"\n")
    content = SIGNATURE + b"".join(kept)
    if len(content) > SIZE:
        raise EnvironmentBlockError("is full")
    return content + b"#" * (SIZE - len(content))


def _lines(block: bytes) -> list[bytes]:
    if len(block) != SIZE:
        raise EnvironmentBlockError(f"has {len(block)} bytes instead of {SIZE}")
    if not block.startswith(SIGNATURE):
        raise EnvironmentBlockError(f"does not begin with `{SIGNATURE.decode().strip()}`")
    rest = block[len(SIGNATURE) :]
    found: list[bytes] = []
    while rest and set(rest) != {ord("#")}:
        line = _LINE.match(rest)
        if line is None:
            raise EnvironmentBlockError("ends within a line")
        found.append(line[0])
        rest = rest[line.end() :]
    return found
