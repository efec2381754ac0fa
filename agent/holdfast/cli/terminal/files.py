"""Files that commands write."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from holdfast.cli.terminal import units
from holdfast.cli.terminal.errors import CliError
from holdfast.cli.terminal.output import Output
from holdfast.storage.atomic_files import write_output

_CHUNK = 1 << 20


def copy(chunks: Iterator[bytes], target: IO[bytes]) -> int:
    """Write all pieces, and return their size in bytes."""
    written = 0
    for chunk in chunks:
        target.write(chunk)
        written += len(chunk)
    return written


def write_whole(chunks: Iterator[bytes], output: Path) -> int:
    """Write a file that appears under its name only once it is complete.

    A device, a FIFO or a symbolic link is written to, and not replaced. Raises `CliError`.
    """
    try:
        return write_output(output, chunks)
    except OSError as error:
        raise CliError(f"cannot write {units.printable(str(output))}: {error.strerror}") from error


def emit(out: Output, what: str, name: str, chunks: Iterator[bytes], output: Path | None) -> None:
    """Write a record to a file, or to standard output, and report it.

    On a terminal, what would control it is shown escaped.
    """
    if output is None:
        shown = _for_terminal(chunks) if sys.stdout.isatty() else chunks
        copy(shown, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    written = write_whole(chunks, output)
    if out.as_json:
        out.json({what: name, "file": str(output), "bytes": written})
    else:
        out.line(f"wrote {units.size(written)} to {units.printable(str(output))}")


def _for_terminal(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield text by whole lines, with what is not printable escaped."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield b"".join(_shown(line) + b"\n" for line in lines)
    if rest:
        yield _shown(rest)


def _shown(line: bytes) -> bytes:
    text = line.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return line
    return "".join(
        each if each.isprintable() or each == "\t" else units.printable(each) for each in text
    ).encode()


@contextmanager
def pieces(file: Path) -> Iterator[Iterator[bytes]]:
    """Read a file, or standard input for `-`, piece by piece. Raises `CliError`."""
    standard = str(file) == "-"
    name = "standard input" if standard else str(file)
    try:
        stream: IO[bytes] = sys.stdin.buffer if standard else file.open("rb")
    except OSError as error:
        raise CliError(f"cannot read {units.printable(name)}: {error.strerror}") from error
    with stream:
        yield iter(lambda: stream.read(_CHUNK), b"")
