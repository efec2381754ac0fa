"""What of each root the last calls of the engine left out, for the metrics."""

from __future__ import annotations

import threading
from collections.abc import Mapping

Counts = Mapping[str, int]
"""Names by reason."""


class LeftOut:
    """Keeps how many names of each root were left out, by reason. Safe for all threads.

    Several capabilities work on the same roots and leave out what they must: each one's last word
    counts, and of two that give the same reason the larger number.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], dict[str, int]] = {}

    def note(self, root: str, who: str, counts: Counts) -> None:
        """Replace what `who` last left out of a root; mounts are counted also if there are none."""
        with self._lock:
            self._last[root, who] = {"other_filesystem": 0, **counts}

    def figures(self) -> Mapping[tuple[str, str], int]:
        """Return the number of names by root and reason."""
        found: dict[tuple[str, str], int] = {}
        with self._lock:
            for (root, _), counts in self._last.items():
                for reason, count in counts.items():
                    found[root, reason] = max(count, found.get((root, reason), 0))
        return found
