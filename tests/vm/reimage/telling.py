"""Reports what a test does; these tests take minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _print(what: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {what}", flush=True)


_listeners: list[Callable[[str], None]] = [_print]


def tell(what: str) -> None:
    """Report what the test does, to the newest listener."""
    _listeners[-1](what)


@contextmanager
def to(listener: Callable[[str], None]) -> Iterator[None]:
    """Report to a listener meanwhile, in place of standard output."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()
