"""A privileged helper that does nothing, remembers its requests, and returns set responses."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_REPORTS: dict[str, dict[str, Any]] = {
    "arm": {
        "arm": {
            "nonce": "ab" * 16,
            "loader": "grub2-bios",
            "entry": "menuentry",
            "files": [],
            "target": {
                "path": "/dev/vda",
                "serial": None,
                "model": None,
                "wwid": None,
                "size_bytes": 1 << 30,
                "head_bytes": 1 << 20,
                "head_sha256": "0" * 64,
            },
            "kernel": "6.1",
            "modules": [],
            "identity": [],
            "network": None,
            "notes": [],
            "seen_by_grub": None,
        }
    },
    "disarm": {"disarm": {"restored": [], "edited": [], "removed": []}},
    "boot_outcome": {"outcome": {"record": None, "armed": False, "entry": False}},
    "reboot": {},
    "inhibitors": {"inhibitors": []},
}


class RecordedHelper:
    """The helper; `asked` has the requests. Put another answer into `answers` by its `do`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = dict(_REPORTS)
        self.on: dict[str, Callable[[], None]] = {}
        """Called while a request of this `do` is served."""

    def calls(self, do: str) -> int:
        """Count the requests of a kind that were no dry runs."""
        return sum(request["do"] == do and not request.get("dry_run") for request in self.asked)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        self.on.get(request["do"], lambda: None)()
        return self.answers.get(request["do"], {"refused": f"There is no {request['do']} here."})


@contextmanager
def recorded_helper(path: Path) -> Iterator[RecordedHelper]:
    """Listen on a socket until the end of the block."""
    helper = RecordedHelper()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            if line:
                self.wfile.write(json.dumps(helper.answer(json.loads(line))).encode() + b"\n")

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield helper
        finally:
            server.shutdown()
            thread.join()
