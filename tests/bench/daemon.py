"""A daemon of the benchmark's own, and operations timed through its public surface."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.daemon.harness import Daemon, create_tokens, start_daemon

_OPERATION_SECONDS = 600.0


@dataclass(frozen=True)
class Operation:
    """A finished operation: its result, and how long it took by two clocks."""

    seconds: float
    """From its `started_at` to its `finished_at`."""
    client_seconds: float
    """From sending the request to having the final state, over HTTP."""
    result: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s ({self.client_seconds:.3f} s for the client)"


@contextmanager
def serving(root: Path, work: Path, **settings: Any) -> Iterator[Daemon]:
    """Run a daemon with one root and its state in `work`; leaves only the root behind."""
    tokens = create_tokens(Path(tempfile.mkdtemp(prefix="tokens-", dir=work)))
    daemon = start_daemon(
        work, tokens, roots=[root], wait=False, **{"log_level": "warning"} | settings
    )
    # Not Daemon.close(), which removes the roots of a test.
    try:
        daemon.wait_ready()
        yield daemon
    finally:
        try:
            daemon.stop()
        finally:
            for directory in (daemon.directory, daemon.state_dir.parent, tokens.file.parent):
                shutil.rmtree(directory)


def operate(daemon: Daemon, path: str, body: Mapping[str, Any]) -> Operation:
    """Start an operation over the unix socket and wait for it; raises unless it succeeds."""
    began = time.monotonic()
    operation = daemon.finish(daemon.start(path, body), seconds=_OPERATION_SECONDS)
    waited = time.monotonic() - began
    if operation["state"] != "succeeded":
        raise RuntimeError(f"{operation['kind']} {operation['state']}: {operation['error']}")
    return Operation(own_seconds(operation), waited, operation["result"])


def own_seconds(operation: Mapping[str, Any]) -> float:
    """How long an operation ran by its own account."""
    started, finished = (
        datetime.fromisoformat(operation[key]) for key in ("started_at", "finished_at")
    )
    return (finished - started).total_seconds()
