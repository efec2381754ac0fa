"""Daemons that find an attempt of re-imaging at their start, whatever this machine is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.capabilities.reimage import IMAGE, SHA256, UNCONFIRMED
from tests.support.daemon.harness import Daemon

MINE = "01M83VKATAZXB97BQKR2MA3A5B"
"""The operation of an attempt, unless it is that of another one."""
OLD_BOOT = "00000000-0000-4000-8000-000000000000"


class Node:
    """A daemon that is started once there is something to find."""

    def __init__(
        self, directory: Path, start_daemon: Callable[..., Daemon], **settings: Any
    ) -> None:
        self.state_dir = directory / "state"
        self.state_dir.mkdir(mode=0o700)
        self._start = start_daemon
        self._settings = settings
        self._daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        """The daemon, started with the first use."""
        if self._daemon is None:
            self._daemon = self._start(state_dir=str(self.state_dir), **self._settings)
        return self._daemon

    @property
    def _file(self) -> Path:
        return self.state_dir / "reimage" / "job.json"

    @property
    def job(self) -> dict[str, Any]:
        """The attempt as stored on the disk."""
        found: dict[str, Any] = json.loads(self._file.read_text())
        return found

    def remember(self, **members: Any) -> None:
        """Have the daemon find an attempt at a start, made of the present one if there is one."""
        if self._daemon is not None:
            assert self._daemon.stop() == 0
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        job = self.job if self._file.exists() else UNCONFIRMED | {"operation": MINE}
        self._file.write_text(json.dumps(job | members))
        (self.state_dir / "images" / SHA256).mkdir(parents=True, exist_ok=True)
        if self._daemon is not None:
            self._daemon.restart()

    def stage(self, operation: str = MINE, **members: Any) -> None:
        """Have an image staged by the caller of an operation."""
        staged: dict[str, Any] = {
            "operation": operation,
            "state": "staged",
            "image": IMAGE,
            "reason": None,
            "checks": [],
            "armed": None,
            "boot_id": None,
        }
        self.remember(**staged | members)

    def post(self, step: str, key: str | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
        """Call a step, and return the status and the document."""
        headers = {} if key is None else {"Idempotency-Key": key}
        answer = self.daemon.http.post(f"/v1/reimage/{step}", json=body, headers=headers)
        return answer.status_code, answer.json()

    @property
    def state(self) -> str:
        """The state as the daemon answers it."""
        state: str = self.daemon.http.get("/v1/reimage").json()["state"]
        return state
