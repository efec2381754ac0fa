"""Files that commands write."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from holdfast.cli import units
from holdfast.cli.errors import CliError
from holdfast.cli.output import Output

_CHUNK = 1 << 20


def copy(chunks: Iterator[bytes], target: IO[bytes]) -> int:
    """Write all pieces, and answer how many bytes they were."""
    written = 0
    for chunk in chunks:
        target.write(chunk)
        written += len(chunk)
    return written


def write_whole(chunks: Iterator[bytes], output: Path) -> int:
    """Write a file that appears under its name only once it is complete."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with partial.open("xb") as target:
            written = copy(chunks, target)
            target.flush()
            os.fsync(target.fileno())
        partial.replace(output)
    except OSError as error:
        raise CliError(f"cannot write {units.printable(str(output))}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return written


def emit(out: Output, what: str, name: str, chunks: Iterator[bytes], output: Path | None) -> None:
    """Write a record to a file, or to standard output, and say so."""
    if output is None:
        copy(chunks, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    written = write_whole(chunks, output)
    if out.as_json:
        out.json({what: name, "file": str(output), "bytes": written})
    else:
        out.line(f"wrote {units.size(written)} to {units.printable(str(output))}")


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
