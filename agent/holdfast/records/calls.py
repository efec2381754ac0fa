"""What calls into the engine have in common."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast._engine import Progress
from holdfast.operations.model import format_time, now


def call(
    work: Callable[[str, Progress], str], request: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Have the engine do something; raises what the engine raises."""
    outcome: dict[str, Any] = json.loads(work(json.dumps(request), progress))
    return outcome


def provenance(record_id: str) -> dict[str, str]:
    """Return the header of a new record: its id, and where and when it was made."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {
        "id": record_id,
        "created_at": format_time(now()),
        "host": platform.node(),
        "boot_id": boot_id,
    }
