"""A program of a few bytes that reports on the console which system it is, and reboots."""

from __future__ import annotations

import struct

from holdfast.privileged.boot.payload import cpio

_BASE, _HEADERS = 0x400000, 64 + 56
_REBOOT = (0xFEE1DEAD, 672274793, 0x01234567)


def initramfs(message: str) -> bytes:
    """Return an initramfs of which that program is the init."""
    entries = [
        cpio.directory("dev"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", _program(f"{message}\n".encode()), 0o755),
    ]
    return b"".join(cpio.archive(entries))


def _program(message: bytes) -> bytes:
    """Return an ELF program for x86-64."""

    def code(text_at: int) -> bytes:
        return b"".join([
            b"\xbf" + struct.pack("<I", 1),  # mov edi, standard output
            b"\xbe" + struct.pack("<I", text_at),
            b"\xba" + struct.pack("<I", len(message)),
            b"\xb8" + struct.pack("<I", 1) + b"\x0f\x05",  # write
            b"\xbf" + struct.pack("<I", _REBOOT[0]),
            b"\xbe" + struct.pack("<I", _REBOOT[1]),
            b"\xba" + struct.pack("<I", _REBOOT[2]),
            b"\xb8" + struct.pack("<I", 169) + b"\x0f\x05",  # reboot
            b"\xeb\xfe",
        ])  # fmt: skip

    start = _BASE + _HEADERS
    text_at = start + len(code(0))
    content = code(text_at) + message
    size = _HEADERS + len(content)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + content
