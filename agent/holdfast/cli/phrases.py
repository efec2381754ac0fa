"""Phrases that results of many kinds have in common."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from holdfast.cli import units
from holdfast.records.models import Located


def name_of(located: Located) -> str:
    """Answer a path as the file system has it, also where it is not UTF-8."""
    if located.path_b64 is None:
        return located.path
    return os.fsdecode(base64.b64decode(located.path_b64))


def took_of(operation: Mapping[str, Any], moved: int | None = None) -> str:
    """Say how long an operation took, and how fast it moved so many bytes."""
    started, finished = operation.get("started_at"), operation.get("finished_at")
    if not started or not finished:
        return ""
    seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    text = f" in {units.duration(seconds)}"
    if moved and seconds > 0:
        text += f" ({units.rate(moved / seconds)})"
    return text


def when_of(moment: datetime) -> str:
    """Say when something was, and how long ago."""
    return f"{units.moment(moment)} ({units.age(moment)})"
