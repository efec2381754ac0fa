"""The trace that work belongs to, as W3C Trace Context has it: taken from callers and passed on.

What is recorded of work, and shown with it, is what the caller sent. What is asked of others names
that as well, or the span that holdfast itself makes of the work (`telemetry/spans.py`).
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
_span: ContextVar[str | None] = ContextVar("span", default=None)


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


def outgoing() -> str | None:
    """Return the `traceparent` of what is asked of others for this work; None without one."""
    return _span.get() or _current.get()


def trace_id() -> str | None:
    """Return the part of it that names the trace."""
    found = _current.get()
    return None if found is None else found.split("-")[1]


def belong(traceparent: str | None, span: str | None = None) -> None:
    """Have all that this task or thread does from now on belong to a trace.

    `span` is the one that holdfast makes of it, if it does.
    """
    _current.set(traceparent)
    _span.set(span)


@contextmanager
def belonging(traceparent: str | None, span: str | None = None) -> Iterator[None]:
    """Have what is done within the block belong to a trace, as `belong` does."""
    before, span_before = _current.set(traceparent), _span.set(span)
    try:
        yield
    finally:
        _current.reset(before)
        _span.reset(span_before)
