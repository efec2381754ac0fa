"""Finds open files that keep the read-ahead that their device had when they were opened.

The kernel copies `read_ahead_kb` into a file when it is opened and reads the copy ever after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


def described(processes: Mapping[str, int], limit: int = 3) -> str:
    """Return in a few words how many files are open, from the number by `name (pid)`."""
    files = sum(processes.values())
    top = Counter(processes).most_common(limit)
    more = len(processes) - len(top)
    names = ", ".join(name for name, _ in top) + (f" and {more} more" if more > 0 else "")
    return f"{files} open file{'s' if files != 1 else ''} of {names}"
