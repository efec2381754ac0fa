"""The block of ours in GRUB's custom.cfg, between two marks."""

from __future__ import annotations

BEGIN = b"### BEGIN holdfast: taken out again by `holdfast reimage disarm` ###\n"
END = b"### END holdfast ###\n"


class MarksError(ValueError):
    """The marks do not go together; the message is a clause."""


def with_block(content: bytes, block: bytes) -> bytes:
    """Return the file with a block of ours at its end."""
    if has_block(content):
        raise MarksError("has a block of holdfast's already")
    joint = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + joint + BEGIN + block.rstrip(b"\n") + b"\n" + END


def without_block(content: bytes) -> bytes:
    """Return the file without our block, and all else unchanged. Raises `MarksError`."""
    if not has_block(content):
        return content
    before, _, rest = content.partition(BEGIN)
    return before + rest.partition(END)[2]


def block_of(content: bytes) -> bytes | None:
    """Return the block of ours, without its marks; None if there is none. Raises `MarksError`."""
    if not has_block(content):
        return None
    return content.partition(BEGIN)[2].partition(END)[0]


def has_block(content: bytes) -> bool:
    """Whether there is a block of ours. Raises `MarksError` for half a one, or several."""
    begins, ends = content.count(BEGIN), content.count(END)
    if begins == ends == 0:
        return False
    if begins != 1 or ends != 1 or content.index(BEGIN) > content.index(END):
        raise MarksError("has damaged marks of holdfast's block; take them out by hand")
    return True
