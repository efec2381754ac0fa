"""Tells whoever watches what a test does."""

from __future__ import annotations

import time


def tell(what: str) -> None:
    """Say what the test does, for who watches it: these tests take minutes."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", flush=True)
