"""The imager's kernel command line, from that of the running kernel."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Where the old system is, how it starts, and what memory it sets aside for dumps of crashes, as
# RHEL does in every entry: nothing to the imager.
_DROPPED = re.compile(
    r"(root|rootfstype|rootflags|rootdelay|rootwait|init|rdinit|resume|resume_offset|BOOT_IMAGE"
    r"|initrd|panic|crashkernel|holdfast\.[^=]*|rd\.[^=]*|systemd\.[^=]*)(=.*)?|ro|rw|quiet|splash",
    re.DOTALL,
)
MAX_BYTES = 2047
"""COMMAND_LINE_SIZE of x86, without its NUL."""
_PLAIN = re.compile(r"[A-Za-z0-9_./:,=@%+-]+")


def imager_words(cmdline: str, nonce: str) -> Sequence[str]:
    """Return the words for the imager, in the order of /proc/cmdline."""
    words = split(cmdline)
    if "--" in words:  # what follows is for the old system's init
        words = words[: words.index("--")]
    kept = [word for word in words if not _DROPPED.fullmatch(word)]
    return [*kept, "panic=10", f"holdfast.nonce={nonce}"]


def split(cmdline: str) -> list[str]:
    """Split as the kernel does (lib/cmdline.c): double quotes keep blanks and are left out."""
    words = re.findall(r'(?:[^\s"]|"[^"]*"?)+', cmdline)
    return [word.replace('"', "") for word in words]


def grub_quoted(word: str) -> str:
    """Quote a word for GRUB's script. Raises `ValueError` for a line break or the like."""
    if any(ord(character) < 32 for character in word):
        raise ValueError(f"{word!r} has control characters")
    if _PLAIN.fullmatch(word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def kernel_quoted(word: str) -> str:
    """Quote a word for the kernel itself. Raises `ValueError` for a line break or the like."""
    if any(ord(character) < 32 for character in word):
        raise ValueError(f"{word!r} has control characters")
    return f'"{word}"' if any(character.isspace() for character in word) else word


def kernel_line(words: Sequence[str]) -> str:
    """Join words to a command line for the kernel. Raises `ValueError` with a clause."""
    line = " ".join(kernel_quoted(word) for word in words)
    if len(line.encode()) > MAX_BYTES:
        raise ValueError(f"it would have more than {MAX_BYTES} bytes")
    return line
