"""What a fake node does, by the clock: operations, and the boots of a re-imaging."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from holdfast_client.errors import BY_SLUG, PREFIX

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class Script:
    """How operations of a kind go."""

    seconds: float = 0.0
    """How long they run."""
    result: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = "ok"
    fails_with: str | None = None
    """The slug of the problem that they fail with, such as `io-error`."""
    detail: str = "The test says so."
    phase: str = "working"


@dataclass(frozen=True)
class Reimaging:
    """How a re-imaging goes, in seconds from the order to reboot."""

    stage_seconds: float = 0.0
    down: float = 0.1
    """Nothing listens, at each of the two boots."""
    imaging: float = 0.2
    """The imager answers in the daemon's place."""
    end: Literal["confirmed", "failed", "unconfirmed"] = "confirmed"


@dataclass(frozen=True)
class Call:
    """A request that the fake node received."""

    method: str
    path: str
    body: Mapping[str, Any]
    key: str | None


class FakeOperation:
    """An operation of a fake node."""

    def __init__(self, number: int, kind: str, params: Mapping[str, Any], script: Script) -> None:
        self.id = _identifier(number)
        self.kind = kind
        self.params = params
        self.script = script
        self.began = time.monotonic()
        self.phase = script.phase
        self.waits = False
        """Of a re-imaging: it ends when `settle` says so, and not by its time."""
        self._created = _now()
        self._ended: tuple[str, str | None] | None = None

    def settle(self, state: str, slug: str | None = None) -> None:
        """End it."""
        self._ended = self._ended or (state, slug)

    @property
    def end(self) -> tuple[str, str | None] | None:
        """State and slug of the problem, once it has ended."""
        late = time.monotonic() - self.began >= self.script.seconds
        if self._ended is None and late and not self.waits:
            slug = self.script.fails_with
            self.settle("succeeded" if slug is None else "failed", slug)
        return self._ended

    def document(self) -> dict[str, Any]:
        """Return it as a node answers it."""
        end = self.end
        state, slug = end or ("running", None)
        good = state == "succeeded"
        return {
            "id": self.id,
            "kind": self.kind,
            "state": state,
            "outcome": self.script.outcome if good else None,
            "actor": "token:test",
            "created_at": self._created,
            "started_at": self._created,
            "finished_at": None if end is None else _now(),
            "params": dict(self.params),
            "progress": {"phase": self.phase, "bytes_done": 0, "files_done": 0},
            "result": dict(self.script.result) if good else None,
            "error": None if slug is None else problem(slug, self.script.detail),
        }


_STATUS = {
    "invalid-request": 422,
    "unknown-field": 422,
    "outside-roots": 422,
    "bad-record": 422,
    "unauthenticated": 401,
    "too-many-failures": 429,
    "queue-full": 429,
    "forbidden": 403,
    "not-permitted": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "not-acceptable": 406,
    "too-large": 413,
    "unsupported-media-type": 415,
    "internal": 500,
    "io-error": 500,
    "unavailable": 503,
    "interrupted": 503,
    "no-space": 507,
    "insufficient-memory": 507,
}


def problem(slug: str, detail: str, **members: Any) -> dict[str, Any]:
    """Build a problem as a node answers it. Raises `ValueError` for a slug that none has."""
    if slug not in BY_SLUG or not slug:
        raise ValueError(f"{slug!r} is not the slug of a problem.")
    title = slug.replace("-", " ").capitalize()
    status = _STATUS.get(slug, 409)
    return {
        "type": PREFIX + slug,
        "title": title,
        "status": status,
        "detail": detail,
        **members,
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _identifier(number: int) -> str:
    value, text = (int(time.time() * 1000) << 80) + number, ""
    for _ in range(26):
        value, digit = divmod(value, 32)
        text = _ALPHABET[digit] + text
    return text
