"""What tests of building and verifying manifests do with a daemon again and again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from tests.oracles.records import path_of
from tests.support.daemon.harness import Daemon
from tests.support.waiting import until

BUILDS = "/v1/manifests"
READERS = ("io_uring", "pread", "buffered")
MIB = 1 << 20
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Built:
    """A finished build: its result, and the lines of its manifest by path."""

    result: Mapping[str, Any]
    lines: Mapping[bytes, Line]

    @property
    def id(self) -> str:
        """The manifest's id."""
        manifest: str = self.result["manifest"]
        return manifest


def build(daemon: Daemon, *, seconds: float = 60.0, **body: Any) -> Built:
    """Build a manifest to its end."""
    return built(daemon, daemon.start(BUILDS, body), seconds=seconds)


def built(daemon: Daemon, operation: Mapping[str, Any], *, seconds: float = 60.0) -> Built:
    """Wait for a build, which must succeed, and take its manifest apart."""
    ended = daemon.finish(operation, seconds=seconds)
    assert ended["state"] == "succeeded", ended
    result = ended["result"]
    found = Built(result, lines_of(daemon, result["manifest"]))
    files = [line for line in found.lines.values() if line["type"] == "file"]
    assert result["files"] == len(files)
    assert result["ok"] == sum(line["status"] == "ok" for line in files)
    # Directories that went away or could not be read count too.
    for status, count in {"changed": "changed", "vanished": "vanished", "error": "errors"}.items():
        assert result[count] == sum(line["status"] == status for line in found.lines.values())
    # Only what was read to its end without a change has a digest.
    for line in found.lines.values():
        assert ("xxh64" in line) == (line["type"] == "file" and line["status"] == "ok"), line
    return found


def lines_of(daemon: Daemon, manifest: str) -> dict[bytes, Line]:
    """Download a manifest and answer its lines by path, in the order of the file."""
    content = daemon.http.get(
        f"{BUILDS}/{manifest}/content", headers={"Accept": "application/jsonl"}
    )
    assert content.status_code == 200, content.text
    lines = content.content.split(b"\n")[:-1]
    _header, *entries, _trailer = (json.loads(line) for line in lines)
    return {path_of(entry): entry for entry in entries}


def verify(daemon: Daemon, manifest: str, **body: Any) -> dict[str, Any]:
    """Verify against a manifest; return the result, whether all is well or not."""
    return daemon.run(f"{BUILDS}/{manifest}/verifications", body)


def digest(path: Path | bytes) -> str:
    """Digest a file as xxh64sum does."""
    running = xxhash.xxh64()
    with open(path, "rb") as file:  # noqa: PTH123  # names may be bytes
        while block := file.read(1 << 20):
            running.update(block)
    return running.hexdigest()


def progress_of(daemon: Daemon, operation: Mapping[str, Any]) -> dict[str, Any]:
    """Ask how far an operation is; it must not have ended."""
    response = daemon.http.get(f"/v1/operations/{operation['id']}")
    assert response.status_code == 200, response.text
    now = response.json()
    assert now["state"] in {"queued", "running"}, now
    progress: dict[str, Any] = now["progress"]
    return progress


def reached(
    daemon: Daemon, operation: Mapping[str, Any], count: int, *, current: str | None = None
) -> None:
    """Wait until an operation has done `count` bytes, and is at a file of that name."""

    def there() -> bool:
        progress = progress_of(daemon, operation)
        at = progress["current"] or ""
        return progress["bytes_done"] >= count and (current is None or Path(at).name == current)

    until(there, seconds=30, what=f"{count} bytes of {current or 'anything'}")
