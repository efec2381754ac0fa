"""Reads of small kernel files, where absence is an answer and not an error."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """Return the stripped content; None if it is absent, unreadable or empty.

    Bytes that are not UTF-8 become U+FFFD.
    """
    try:
        # Attributes of devices answer all kinds of errors where the hardware has no answer.
        text = path.read_bytes().decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return None
    return text or None


def read_int(path: Path) -> int | None:
    """Return the content as a number; None if it is not one."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
