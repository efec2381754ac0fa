"""What tests of the page cache do with a daemon again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.operations.ids import new_id
from tests.oracles.records import Record, decode
from tests.support.daemon.harness import Daemon

SHOW = "/v1/pagecache"
DUMPS, LOADS, EVICTIONS = (f"{SHOW}/{part}" for part in ("dumps", "loads", "evictions"))


def dump(daemon: Daemon, **body: Any) -> tuple[dict[str, Any], Record]:
    """Make a dump; answer its result and its record, taken apart."""
    result = daemon.run(DUMPS, body)
    content = daemon.http.get(f"{DUMPS}/{result['dump']}/content")
    assert content.status_code == 200, content.text
    return result, decode(content.content)


def upload(daemon: Daemon, content: bytes) -> str:
    """Upload a record to the daemon, and return its id."""
    dump_id = new_id()
    response = daemon.http.put(f"{DUMPS}/{dump_id}/content", content=content)
    assert response.status_code == 201, response.text
    return dump_id


def uploaded(daemon: Daemon) -> str:
    """Return the id of the dump that was uploaded last."""
    dumps = daemon.http.get(DUMPS).json()["dumps"]
    return next(str(each["id"]) for each in dumps if each["uploaded"])


def load(daemon: Daemon, **body: Any) -> dict[str, Any]:
    """Load a dump; return the result, of which the sum was checked."""
    result = daemon.run(LOADS, body)
    parts = ("already_resident", "loaded", "missing", "skipped_bytes")
    assert result["requested"] == sum(result[part] for part in parts), result
    assert result["skipped_bytes"] == sum(result["skipped_bytes_by_reason"].values())
    return result


def failure(daemon: Daemon, path: str, body: Any) -> dict[str, Any]:
    """Start an operation that fails; answer its problem."""
    operation = daemon.finish(daemon.start(path, body))
    assert operation["state"] == "failed", operation
    error: dict[str, Any] = operation["error"]
    return error


def relative(daemon: Daemon, path: Path) -> bytes:
    """Return a path as records have it."""
    return bytes(path.relative_to(daemon.root))
