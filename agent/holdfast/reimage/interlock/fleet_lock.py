"""A client of FleetLock, the protocol of Zincati and airlock: one request, one answer.

https://coreos.github.io/zincati/development/fleetlock/protocol/. Locks are recursive: who holds one
may ask for it again. They have no lifetime, and cannot be listed.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.process import trace

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

_SECONDS = 5.0
_MOST_BYTES = 16 << 10
_MOST_TEXT = 200
_LOCKED, _SERVER = 423, 500
_LONGEST_RETRY = 3600


class Verdict(Enum):
    """What an answer means."""

    YES = auto()
    NO = auto()
    """The server says so: this node does not hold the lock."""
    UNKNOWN = auto()
    """No answer, or one of a server that is not well: this node may hold the lock."""


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    verdict: Verdict
    detail: str
    """A sentence."""
    retry_after: int | None = None
    """Seconds, as the server wishes."""


@dataclass(frozen=True)
class FleetLock:
    """One lock manager, and who asks it."""

    url: str
    id: str
    group: str
    ca_file: Path | None = None

    def acquire(self) -> Answer:
        """Ask to go down. Blocks for seconds; raises nothing."""
        return self._ask("pre-reboot", locked=Verdict.NO)

    def release(self) -> Answer:
        """Say that this node is up again. Blocks for seconds; raises nothing.

        A server that knows of no lock of ours says 423: there is nothing to release, so that is a
        yes.
        """
        return self._ask("steady-state", locked=Verdict.YES)

    def _ask(self, what: str, *, locked: Verdict) -> Answer:
        import httpx  # noqa: PLC0415 - slow to import, and most nodes ask nobody

        body = {"client_params": {"id": self.id, "group": self.group}}
        try:
            with (
                httpx.Client(
                    verify=self._trusted(), timeout=_SECONDS, trust_env=False, http2=False
                ) as client,
                client.stream(
                    "POST",
                    f"{self.url.rstrip('/')}/v1/{what}",
                    json=body,
                    headers=_headers(),
                ) as response,
            ):
                content = _beginning(response)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            return Answer(
                Verdict.UNKNOWN, f"The lock manager {self.url} does not answer: {reason}."
            )
        status = response.status_code
        retry_after = _seconds(response.headers.get("Retry-After"))
        if response.is_success:
            return Answer(Verdict.YES, f"The lock manager {self.url} says yes.")
        verdict = Verdict.NO if status < _SERVER else Verdict.UNKNOWN
        if status == _LOCKED:
            verdict = locked
        said = _said(content)
        detail = f"The lock manager {self.url} says no ({status}{f': {said}' if said else ''})."
        return Answer(verdict, detail, retry_after)

    def _trusted(self) -> ssl.SSLContext | bool:
        if not self.url.startswith("https:"):
            return False
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context


def _headers() -> dict[str, str]:
    found = trace.outgoing()
    passed_on = {} if found is None else {"traceparent": found}
    return {"fleet-lock-protocol": "true", **passed_on}


def _beginning(response: httpx.Response) -> bytes:
    content = b""
    deadline = time.monotonic() + _SECONDS
    for piece in response.iter_raw(_MOST_BYTES):
        content += piece
        if len(content) >= _MOST_BYTES or time.monotonic() > deadline:
            break
    return content


def _said(content: bytes) -> str:
    """Return what a refusal says of itself, bounded and printable."""
    try:
        found = json.loads(content)
        text = ": ".join(str(found[name]) for name in ("kind", "value") if found.get(name))
    except (ValueError, AttributeError, RecursionError):
        text = content.decode(errors="replace")
    text = " ".join(text.split())[:_MOST_TEXT]
    return "".join(character if character.isprintable() else "?" for character in text)


def _seconds(header: str | None) -> int | None:
    """Return the seconds of a Retry-After; None for a date or nonsense."""
    if header is None or not header.strip().isdecimal() or len(header) > 9:
        return None
    return min(_LONGEST_RETRY, int(header))
