"""The trace that work belongs to, as W3C Trace Context has it: taken from callers and passed on.

holdfast makes no spans of its own, so what it passes on is what it received.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LENGTH = 55
"""Of version 00; later versions may add to it, and are read as far as this one goes."""

_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def parse(headers: Sequence[str]) -> str | None:
    """Return the `traceparent` of a request; None without a valid one.

    What is not valid is ignored, as the standard wants it, and no reason to refuse a request.
    """
    if len(headers) != 1:
        return None
    text = headers[0].strip()
    known = text[:_LENGTH]
    if not _FORM.fullmatch(known):
        return None
    if text != known and (known.startswith("00") or text[_LENGTH] != "-"):
        return None
    return known


def current() -> str | None:
    """Return the `traceparent` of the work that this thread or task does; None without one."""
    return _current.get()


def trace_id() -> str | None:
    """Return the part of it that names the trace."""
    found = _current.get()
    return None if found is None else found.split("-")[1]


def belong(traceparent: str | None) -> None:
    """Have all that this task or thread does from now on belong to a trace."""
    _current.set(traceparent)


@contextmanager
def belonging(traceparent: str | None) -> Iterator[None]:
    """Have what is done within the block belong to a trace."""
    token = _current.set(traceparent)
    try:
        yield
    finally:
        _current.reset(token)
