"""Hangs a machine's only processor, by QEMU's debugger port: no interrupt is served any more.

The protocol is GDB's: https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Protocol.html
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

_SECONDS = 30.0
_REGISTERS = struct.Struct("<16QQI")
"""The general ones, the instruction pointer and the flags, which come first of all of x86-64's."""
_RIP, _FLAGS = 16, 17
_INTERRUPTS = 1 << 9
_JUMP_TO_ITSELF = "ebfe"
_STOPPED = "T"
"""What the report begins with that the processor is stopped, which may come before an answer."""


def options(path: Path) -> tuple[str, ...]:
    """Return QEMU's options for the port, a unix socket."""
    return ("-gdb", f"unix:{path},server=on,wait=off")


def hang(path: Path) -> None:
    """Have the processor do nothing for ever, with interrupts off."""
    with socket.socket(socket.AF_UNIX) as port:
        port.settimeout(_SECONDS)
        port.connect(str(path))  # it is stopped from here on
        debugger = _Debugger(port)
        registers = debugger.ask("g")
        known = bytes.fromhex(registers[: 2 * _REGISTERS.size])
        values = list(_REGISTERS.unpack(known))
        values[_FLAGS] &= ~_INTERRUPTS
        changed = _REGISTERS.pack(*values).hex() + registers[2 * _REGISTERS.size :]
        for request in (f"M{values[_RIP]:x},2:{_JUMP_TO_ITSELF}", f"G{changed}", "D"):
            answer = debugger.ask(request)
            assert answer == "OK", (request[:20], answer)


class _Debugger:
    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._rest = b""

    def ask(self, request: str) -> str:
        """Send a packet and return the content of the one that answers it."""
        content = request.encode()
        self._port.sendall(b"$%s#%02x" % (content, sum(content) % 256))
        while (answer := self._packet()).startswith(_STOPPED):
            pass
        return answer

    def _packet(self) -> str:
        while (begin := self._rest.find(b"$")) < 0 or len(self._rest) < self._end(begin) + 3:
            chunk = self._port.recv(65536)
            assert chunk, "QEMU is gone"
            self._rest += chunk
        end = self._end(begin)
        answer, self._rest = self._rest[begin + 1 : end], self._rest[end + 3 :]
        self._port.sendall(b"+")
        return answer.decode()

    def _end(self, begin: int) -> int:
        """Return where a packet's checksum begins; far beyond it while that is not there."""
        end = self._rest.find(b"#", begin)
        return end if end >= 0 else len(self._rest)
