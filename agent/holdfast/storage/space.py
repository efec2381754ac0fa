"""The floor of free space on the data volume, below which nothing of holdfast's is written.

The rule and the check are the engine's (`rust/engine/src/space.rs`), so that its writers and those
here cannot disagree.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from pydantic import ByteSize, TypeAdapter

from holdfast import _engine

AUTO = "auto"
_AUTO = (50, 10 << 30, 100)
"""The larger of 5 % and 10 GiB, of which no more than 10 % of the volume."""
_PERCENT = re.compile(r"(\d{1,2}(?:\.\d)?)\s*%")
_SIZE = TypeAdapter(ByteSize)
_SIZE_TEXT = re.compile(r"\d*\.?\d+\s*[A-Za-z]*")
_FIGURES_SECONDS = 10.0


def parse_floor(text: str) -> tuple[int, int, int]:
    """Read `auto`, a percentage such as `5 %`, or a size such as `10 GiB`.

    Return thousandths of the volume, bytes, and thousandths that those bytes may be at most. Raises
    `ValueError`.
    """
    text = text.strip()
    if text == AUTO:
        return _AUTO
    percent = _PERCENT.fullmatch(text)
    if percent is not None:
        return round(float(percent[1]) * 10), 0, 1000
    size = -1
    if _SIZE_TEXT.fullmatch(text):
        with suppress(ValueError):
            size = int(_SIZE.validate_python(text))
    if not 0 <= size < 1 << 63:
        raise ValueError(f"should be `auto`, a percentage below 100 or a size, not {text!r}")
    return 0, size, 1000


def keep_free(setting: str) -> None:
    """Set the floor for everything that this process writes. Raises `ValueError`."""
    _engine.set_free_space_floor(*parse_floor(setting))


def check(path: Path, more: int = 1 << 20) -> None:
    """Raise `OSError` (ENOSPC, with a sentence) if `more` bytes at `path` would go below the floor.

    `path` has to exist; it names the volume.
    """
    _engine.check_free_space(path, more)


def floor_of(path: Path) -> int:
    """Return the bytes that have to stay free on the volume of `path`. Raises `OSError`."""
    return _engine.free_space(path)[1]


class SpaceFigures:
    """Free space and floor of a volume for metrics, sampled in the background.

    A volume that hangs must not hold up a scraper.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._latest: tuple[int, int] | None = None
        self._next = 0.0
        self._sampler: threading.Thread | None = None

    def latest(self, wait: float = 0.05) -> tuple[int, int] | None:
        """Return free bytes and floor as last sampled; None while nothing is known."""
        with self._lock:
            running = self._sampler is not None and self._sampler.is_alive()
            if not running and time.monotonic() >= self._next:
                self._next = time.monotonic() + _FIGURES_SECONDS
                self._sampler = threading.Thread(target=self._sample, name="space", daemon=True)
                self._sampler.start()
            sampler = self._sampler
        if sampler is not None and self._latest is None:
            sampler.join(wait)
        return self._latest

    def _sample(self) -> None:
        try:
            self._latest = _engine.free_space(self._path)
        except OSError:
            # No figure is better than an old one that looks fresh.
            self._latest = None
