"""What subsystems have in common whose knobs are files with one value."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.tuning.planning.knobs import Knob, Observed

_BLOCK = 1 << 16


class Plain:
    """Defaults for knobs that stand alone: any value may be right, and it is compared as text."""

    def canonical(self, knob: Knob, value: str) -> str:
        """Write a desired value as it would be observed."""
        del knob
        return " ".join(value.split())

    def same(self, knob: Knob, desired: str, observed: str) -> bool:
        """Whether an observed value is what was desired, or what the kernel rounds it to."""
        return observed in (desired, self.rounded(knob, desired))

    def rounded(self, knob: Knob, value: str) -> str:
        """Nothing is rounded."""
        del knob
        return value

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Return why a value cannot be right."""
        del knob, desired, observed
        return None

    def identity(self, knob: Knob) -> str:
        """Nothing else can have this name."""
        del knob
        return ""

    def follow(self, knob: Knob, identity: str) -> Knob:
        """Nothing is renamed."""
        del identity
        return knob

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """No other knob is changed."""
        del knob
        return ()

    def rank(self, knob: Knob) -> int:
        """No order is needed."""
        del knob
        return 0


def observe_file(path: Path, *, missing: str = "does not exist on this kernel") -> Observed:
    """Read a file of /proc or /sys that has one value, its blanks made single spaces."""
    try:
        content, mode = _read(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
            return Observed(None, missing, gone=True)
        return Observed(None, f"cannot be read: {os.strerror(error.errno or 0)}")
    value = " ".join(content.decode("utf-8", "replace").split())
    # Whether the kernel offers it for writing; whether this process may is known only then.
    return Observed(value, None if mode & 0o222 else "is read-only")


def chosen(observed: Observed) -> Observed:
    """Take the choice in brackets of `none [mq-deadline]` as the value."""
    if observed.value is None:
        return observed
    words = observed.value.split()
    marked = [word[1:-1] for word in words if word.startswith("[") and word.endswith("]")]
    choices = tuple(word.strip("[]") for word in words)
    return Observed(marked[0] if marked else observed.value, observed.problem, choices)


def _read(path: Path) -> tuple[bytes, int]:
    """Return the content of a file and its mode, in half as many calls as a stream needs."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(file, _BLOCK), b"")), os.fstat(file).st_mode
    finally:
        os.close(file)
