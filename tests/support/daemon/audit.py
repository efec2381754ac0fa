"""Reads the audit log."""

from __future__ import annotations

import json
from typing import Any

from tests.support.daemon.harness import Daemon


def audit(daemon: Daemon) -> list[dict[str, Any]]:
    text = (daemon.state_dir / "audit.log").read_text()
    return [json.loads(line) for line in text.splitlines()]
