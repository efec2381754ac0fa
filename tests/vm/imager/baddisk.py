"""A disk that fails on demand, which QEMU uses over the NBD protocol.

The protocol is https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, of which only
the fixed newstyle handshake and simple replies are spoken.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_MAGIC, _OPTION, _OPTION_REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698
_EXPORT_NAME, _ABORT, _GO = 1, 2, 7
_ACK, _INFO, _UNSUPPORTED = 1, 3, 0x80000001
_HAS_FLAGS, _SEND_FLUSH = 1, 4
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_EIO = 5


@dataclass
class Faults:
    """What the disk does wrong, and what it was asked for."""

    fails_writes: Callable[[int, int], bool] = lambda offset, length: False
    """Whether a write there returns an error, and is not done."""
    loses_writes: Callable[[int, int], bool] = lambda offset, length: False
    """Whether a write there returns success, and is not done."""
    fails_reads: Callable[[int, int], bool] = lambda offset, length: False
    bytes_written: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    """Set once more than `reach_bytes` were written."""
    reach_bytes: int | None = None
    """Hold all writes from then on."""
    lost: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    """Offsets."""


class _GoneError(Exception):
    """The other side is."""


class _Disk:
    def __init__(self, path: Path, faults: Faults, connection: socket.socket) -> None:
        self._file = path.open("r+b", buffering=0)
        self._size = path.stat().st_size
        self._faults = faults
        self._connection = connection

    def serve(self) -> None:
        with self._file, self._connection:
            try:
                self._shake_hands()
                while self._answer():
                    pass
            except (_GoneError, ConnectionError):
                pass

    def _take(self, length: int) -> bytes:
        taken = bytearray()
        while len(taken) < length:
            part = self._connection.recv(length - len(taken))
            if not part:
                raise _GoneError
            taken += part
        return bytes(taken)

    def _shake_hands(self) -> None:
        send, flags = self._connection.sendall, _HAS_FLAGS | _SEND_FLUSH
        send(struct.pack(">QQH", _MAGIC, _OPTION, 3))  # fixed newstyle, no zeroes
        self._take(4)
        while True:
            _, option, length = struct.unpack(">QII", self._take(16))
            self._take(length)
            reply = struct.pack(">QI", _OPTION_REPLY, option)
            if option == _GO:
                information = struct.pack(">HQH", 0, self._size, flags)
                send(reply + struct.pack(">II", _INFO, len(information)) + information)
                send(reply + struct.pack(">II", _ACK, 0))
                return
            if option == _EXPORT_NAME:
                send(struct.pack(">QH", self._size, flags))
                return
            if option == _ABORT:
                raise _GoneError
            send(reply + struct.pack(">II", _UNSUPPORTED, 0))

    def _answer(self) -> bool:
        _, _, kind, handle, offset, length = struct.unpack(">IHHQQI", self._take(28))
        error, content = 0, b""
        if kind == _DISCONNECT:
            return False
        if kind == _READ:
            if self._faults.fails_reads(offset, length):
                error = _EIO
                self._faults.failed.append(offset)
            else:
                self._file.seek(offset)
                content = self._file.read(length)
        elif kind == _WRITE:
            error = self._write(offset, self._take(length))
        self._connection.sendall(struct.pack(">IIQ", _REPLY, error, handle) + content)
        return True

    def _write(self, offset: int, content: bytes) -> int:
        faults = self._faults
        if faults.reach_bytes is not None and faults.bytes_written >= faults.reach_bytes:
            faults.reached.set()
            while True:  # until the other side is gone
                self._take(1)
        if faults.fails_writes(offset, len(content)):
            faults.failed.append(offset)
            return _EIO
        if faults.loses_writes(offset, len(content)):
            faults.lost.append(offset)
            return 0
        self._file.seek(offset)
        self._file.write(content)
        faults.bytes_written += len(content)
        return 0


@contextmanager
def bad_disk(path: Path, faults: Faults) -> Iterator[Sequence[str]]:
    """Serve a file as a disk; give QEMU's options for it, for a `Drive`."""
    place = path.with_suffix(".nbd")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                disk = _Disk(path, faults, connection)
                threads.append(threading.Thread(target=disk.serve))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            node = f"driver=nbd,node-name={{name}},server.type=unix,server.path={place}"
            yield ("-blockdev", node)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()
            place.unlink()
