"""A controller of the fleet: knows a machine by its HTTPS port, and has a token."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.support.waiting import until
from tests.vm.pace import patience

T = TypeVar("T")
FINAL = ("succeeded", "failed", "cancelled", "interrupted")


class Controller:
    """Calls the API of a machine that may not answer for a while."""

    def __init__(self, url: str, authority: Path, token: str) -> None:
        self._client = httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=str(authority)),
            headers={"Authorization": f"Bearer {token}"},
            timeout=180.0,
            trust_env=False,
        )

    def get(self, path: str, *, seconds: float = 180.0) -> Any:
        """Return the response of a path within `seconds`. Raises `httpx.HTTPError`."""
        answer = self._client.get(path, timeout=seconds)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: dict[str, Any] | None = None, code: int = 200) -> Any:
        """Send a request, and return the response's body."""
        answer = self._client.post(path, json=body or {})
        assert answer.status_code == code, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def text(self, path: str, *, seconds: float = 180.0) -> str:
        """Return the response of a path that is not JSON."""
        answer = self._client.get(path, timeout=seconds)
        assert answer.status_code == 200, answer.text
        return answer.text

    def patiently(self, ask: Callable[[], T | None], seconds: float, what: str) -> T:
        """Ask until there is something true in the answer, over any loss of the connection."""

        last = ""

        def once() -> T | None:
            nonlocal last
            try:
                return ask()
            except (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError) as error:
                last = repr(error)
                return None

        try:
            return until(once, seconds=patience(seconds), what=what, interval=0.25)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; last: {last}") from error

    def answers(self, seconds: float, *, not_boot: str | None = None) -> Any:
        """Wait until the daemon answers, of another boot than `not_boot`; return the node."""

        def node() -> Any:
            answer = self._client.get("/v1/node", timeout=5.0)
            if answer.status_code != 200:  # the imager has no such path
                return None
            found = answer.json()
            return found if boot_id(found) != not_boot else None

        return self.patiently(node, seconds, "an answer of the daemon")

    def finished(self, operation: str, seconds: float = 300.0) -> Any:
        """Wait for the end of an operation and answer it."""
        deadline = time.monotonic() + patience(seconds)
        while True:
            found = self.get(f"/v1/operations/{operation}?wait=20")
            if found["state"] in FINAL:
                return found
            assert time.monotonic() < deadline, found

    def succeeded(self, path: str, body: dict[str, Any], seconds: float = 300.0) -> Any:
        """Start an operation, wait for it, and answer its result."""
        done = self.finished(self.post(path, body, 202)["id"], seconds)
        assert done["state"] == "succeeded", done
        return done["result"]

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


def boot_id(node: Any) -> str:
    """Which boot a node is in."""
    found: str = node["boot_id"]
    return found
