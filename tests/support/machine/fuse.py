"""A FUSE file system of a test's own: one directory of files, served from another one.

`python -m tests.support.machine.fuse DIRECTORY SOURCE MODE` mounts it and serves until unmounted.
Modes are those in which a server lets the kernel keep pages: `cached`, in the kernel's pages of the
FUSE inode; `direct`, nowhere; `passthrough`, in the pages of the source's file (Linux 6.9).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# include/uapi/linux/fuse.h
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS = 1, 2, 3, 14, 15, 17
_INIT, _OPENDIR, _READDIR, _BATCH_FORGET = 26, 27, 28, 42
_NOTHING_TO_DO = frozenset({18, 20, 25, 29, 34})  # release, fsync, flush, releasedir, access
_DIRECT, _KEEP, _PASSTHROUGH = 1, 2, 128
_INIT_EXT, _PASSTHROUGH_2 = 1 << 30, 1 << 5
_BACKING_OPEN = 0x4010E501
_VALID = 3600


class Server:
    """Return the kernel, one request after the other."""

    def __init__(self, source: Path, mode: str, device: int) -> None:
        self.mode, self.device = mode, device
        self.files = sorted(path for path in source.iterdir() if path.is_file())
        self.open = {path: os.open(path, os.O_RDONLY) for path in self.files}

    def serve(self) -> None:
        """Serve until the file system is gone."""
        while True:
            try:
                request = os.read(self.device, 1 << 17)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            if opcode in (_FORGET, _BATCH_FORGET):
                continue
            try:
                number, body = 0, self.answer(opcode, node, request[40:])
            except OSError as error:
                number, body = -(error.errno or errno.EIO), b""
            os.write(self.device, struct.pack("<IiQ", 16 + len(body), number, unique) + body)

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """Return one request. Raises `OSError` for what it cannot."""
        answers: dict[int, Callable[[], bytes]] = {
            _INIT: lambda: self.init(body),
            _LOOKUP: lambda: self.lookup(os.fsdecode(body.rstrip(b"\0"))),
            _GETATTR: lambda: struct.pack("<QII", _VALID, 0, 0) + self.attributes(node),
            _OPEN: lambda: self.opened(node),
            _OPENDIR: lambda: struct.pack("<QIi", 0, 0, 0),
            _READ: lambda: self.content(node, *struct.unpack_from("<QI", body, 8)),
            _READDIR: lambda: self.entries(*struct.unpack_from("<Q", body, 8)),
            _STATFS: lambda: struct.pack("<5Q4I6I", *[0] * 5, 4096, 255, 4096, 0, *[0] * 6),
        }
        if opcode in _NOTHING_TO_DO:
            return b""
        if opcode not in answers:
            raise OSError(errno.ENOSYS, "not served")
        return answers[opcode]()

    def content(self, node: int, offset: int, size: int) -> bytes:
        """Read from a file."""
        return os.pread(self.open[self.files[node - 2]], size, offset)

    def init(self, body: bytes) -> bytes:
        """Agree on version 7.40."""
        _, _, ahead, offered = struct.unpack_from("<4I", body)
        flags, more, depth = 0, 0, 0
        if self.mode == "passthrough":
            (can,) = struct.unpack_from("<I", body, 16)
            if not offered & _INIT_EXT or not can & _PASSTHROUGH_2:
                sys.exit("this kernel has no passthrough")
            flags, more, depth = _INIT_EXT, _PASSTHROUGH_2, 1
        out = struct.pack("<4I2H2I2H2I", 7, 40, ahead, flags, 12, 9, 1 << 16, 1, 16, 0, more, depth)
        return out + bytes(64 - len(out))

    def lookup(self, name: str) -> bytes:
        """Find a file by its name."""
        for node, path in enumerate(self.files, 2):
            if path.name == name:
                head = struct.pack("<QQQQII", node, 0, _VALID, _VALID, 0, 0)
                return head + self.attributes(node)
        raise OSError(errno.ENOENT, name)

    def attributes(self, node: int) -> bytes:
        """Describe the directory or a file."""
        size, mode = 0, stat.S_IFDIR | 0o755
        if node > 1:
            size, mode = os.fstat(self.open[self.files[node - 2]]).st_size, stat.S_IFREG | 0o644
        blocks = -(-size // 512)
        return struct.pack(
            "<6Q10I", node, size, blocks, 1, 1, 1, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
        )

    def opened(self, node: int) -> bytes:
        """Choose where the kernel is to keep a file's pages."""
        if self.mode == "passthrough":
            backing = struct.pack("<iIQ", self.open[self.files[node - 2]], 0, 0)
            number = fcntl.ioctl(self.device, _BACKING_OPEN, bytearray(backing))
            return struct.pack("<QIi", 0, _PASSTHROUGH, number)
        return struct.pack("<QIi", 0, _DIRECT if self.mode == "direct" else _KEEP, 0)

    def entries(self, offset: int) -> bytes:
        """List the files from number `offset` on."""
        listed = b""
        for number, path in enumerate(self.files[offset:], offset):
            name = os.fsencode(path.name)
            one = struct.pack("<QQII", number + 2, number + 1, len(name), 8) + name
            listed += one + bytes(-len(one) % 8)
        return listed


def main(directory: str, source: str, mode: str) -> None:
    """Mount and serve."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"test", os.fsencode(directory), b"fuse", 0, options) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    print("mounted", flush=True)
    Server(Path(source), mode, device).serve()


@contextmanager
def fuse(directory: Path, source: Path, mode: str) -> Iterator[Path]:
    """Mount the files of `source` on a directory; skips the test where that cannot be."""
    command = [
        sys.executable,
        "-m",
        "tests.support.machine.fuse",
        str(directory),
        str(source),
        mode,
    ]
    top = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        command, cwd=top, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() != "mounted\n":
                pytest.skip(f"no FUSE file system can be mounted here: {process.stderr.read()}")
            try:
                (directory / "probe").exists()
                if process.poll() is not None:
                    pytest.skip(process.stderr.read())
                yield directory
            finally:
                subprocess.run(["umount", "--lazy", directory], check=True)
        finally:
            process.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
