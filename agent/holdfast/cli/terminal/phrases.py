"""Phrases that results of many kinds have in common."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.records.models import LeftOut, Located

_EXAMPLES = 5
_REASONS = {
    "other_filesystem": ("mount inside", "mounts inside"),
    "excluded": ("name by a pattern", "names by a pattern"),
    "permission_denied": ("without permission", None),
    "not_permitted": ("whose residency the kernel does not report", None),
    "dax": ("without a page cache (DAX)", None),
    "uncached": ("whose pages the kernel does not show", None),
    "not_a_file": ("no longer a file", None),
    "error": ("with an error", None),
}


def name_of(located: Located) -> str:
    """Return a path as the file system has it, also where it is not UTF-8."""
    if located.path_b64 is None:
        return located.path
    return os.fsdecode(base64.b64decode(located.path_b64))


def took_of(operation: Mapping[str, Any], moved: int | None = None) -> str:
    """Return how long an operation took, and how fast it moved its bytes."""
    started, finished = operation.get("started_at"), operation.get("finished_at")
    if not started or not finished:
        return ""
    seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    text = f" in {units.duration(seconds)}"
    if moved and seconds > 0:
        text += f" ({units.rate(moved / seconds)})"
    return text


def when_of(moment: datetime) -> str:
    """Return when something was, and how long ago."""
    return f"{units.moment(moment)} ({units.age(moment)})"


def show_skipped(out: Output, skipped: Mapping[str, int], left_out: Mapping[str, LeftOut]) -> None:
    """Print how many files were skipped for which reason, but for reasons that are left out."""
    reasons = [
        f"{units.count(number)} {units.plain_words(reason)}"
        for reason, number in sorted(skipped.items(), key=lambda item: -item[1])
        if reason not in left_out
    ]
    if reasons:
        out.line(f"skipped: {', '.join(reasons)}")


def show_left_out(out: Output, left_out: Mapping[str, LeftOut]) -> None:
    """Print what was left out and why, with some names; nothing if nothing was."""
    for reason, left in sorted(left_out.items()):
        one, many = _REASONS.get(reason, (units.plain_words(reason), None))
        what = f"{units.count(left.count)} {many if many and left.count != 1 else one}"
        names = [units.printable(name_of(example)) for example in left.examples[:_EXAMPLES]]
        more = left.count - len(names)
        if more > 0:
            names.append(f"and {units.count(more)} more")
        out.line(f"left out: {what}: {', '.join(names)}")
