"""Where and when a record was made."""

from __future__ import annotations

import platform
from pathlib import Path

from holdfast.operations.model import format_time, now


def provenance(record_id: str) -> dict[str, str]:
    """Return the header of a new record: its id, and where and when it was made."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {
        "id": record_id,
        "created_at": format_time(now()),
        "host": platform.node(),
        "boot_id": boot_id,
    }
