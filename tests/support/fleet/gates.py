"""What gates ask, as a process of a test's own, and a gate that is waited for."""

from __future__ import annotations

import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast._engine import Progress
from holdfast.config.confirm_when import ConfirmWhen
from holdfast.privileged.executor import LocalExecutor
from holdfast.reimage.gates.stable import Gates
from holdfast.reimage.models import Check
from tests.support.daemon.harness import dying_with_parent


@contextmanager
def running(*command: str | Path) -> Iterator[None]:
    process = subprocess.Popen(
        dying_with_parent(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """Reply to the first bytes of each connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(answer(self.request.recv(4096)))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def wait(**wanted: Any) -> Check:
    members = {"stable": 3, "every_seconds": 0.1, "within_seconds": 5.0} | wanted
    gates = Gates([ConfirmWhen.model_validate(members)])
    (check,) = gates.examine(Progress(), LocalExecutor(), time.sleep)
    return check
