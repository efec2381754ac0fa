"""Files that commands write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from holdfast.cli import units
from holdfast.cli.errors import CliError


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
