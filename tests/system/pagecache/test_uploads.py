"""Dumps that are uploaded: kept although old, and cheap to refuse or load however they are made."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from holdfast.operations.ids import new_id
from tests.oracles.records import encode, header, line
from tests.oracles.residency import PAGE
from tests.support.capabilities.pagecache import DUMPS, load, upload
from tests.support.daemon.harness import Daemon
from tests.support.machine.mounts import tmpfs


def put(daemon: Daemon, content: bytes, dump_id: str | None = None) -> httpx.Response:
    return daemon.http.put(f"{DUMPS}/{dump_id or new_id()}/content", content=content)


def peak(daemon: Daemon) -> int:
    """Return the most memory that the daemon has had since it was last asked, in bytes."""
    process = Path(f"/proc/{daemon.pid}")
    match = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
    assert match is not None
    (process / "clear_refs").write_text("5")
    return int(match[1]) * 1024


def test_one_older_than_all_others_stays(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(pagecache={"dumps_kept": 2})
    uploaded = new_id()
    made = [daemon.run(DUMPS, {})["dump"] for _ in range(2)]
    response = put(daemon, encode(header("/r"), [line("a", PAGE)]), uploaded)
    assert response.status_code == 201, response.text
    assert not response.json()["latest"]
    listed = [each["id"] for each in daemon.http.get(DUMPS).json()["dumps"]]
    assert listed == [made[1], made[0], uploaded]
    newest = daemon.run(DUMPS, {})["dump"]
    listed = [each["id"] for each in daemon.http.get(DUMPS).json()["dumps"]]
    assert listed == [newest, made[1], uploaded]


def test_no_room(daemon: Daemon) -> None:
    with tmpfs(daemon.state_dir / "dumps", 4 * PAGE) as dumps:
        response = put(daemon, os.urandom(1 << 20))
        assert response.status_code == 507, response.text
        assert response.json()["type"] == "/problems/no-space"
        assert list(dumps.iterdir()) == []
    upload(daemon, encode(header("/r"), [line("a", PAGE)]))


@pytest.mark.slow
def test_a_bomb_of_valid_lines_under_the_usual_limits(daemon: Daemon) -> None:
    entries = (json.dumps(line("a", PAGE)).encode() + b"\n") * (1 << 15)
    with subprocess.Popen(
        ["zstd", "-q", "-c", "-1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(header()).encode() + b"\n")
        # zstd answers only a little: its output fits the pipe.
        for _ in range(256):
            process.stdin.write(entries)
        process.stdin.close()
        bomb = process.stdout.read()
    assert len(bomb) < 1 << 16
    peak(daemon)
    response = put(daemon, bomb)
    assert response.status_code == 422, response.text
    # Refused for what it would expand to, before its end, where its trailer is missing.
    assert "holds more than" in response.json()["detail"]
    assert peak(daemon) < 128 << 20


@pytest.mark.slow
def test_a_load_of_very_many_scattered_pages_takes_little_memory(daemon: Daemon) -> None:
    size, part, parts = 1 << 38, 1 << 18, 200
    with (daemon.root / "f").open("wb") as file:
        file.truncate(size)
    every_other = base64.b64encode(b"\x55" * (part // 8)).decode().rstrip("=")
    lines = [
        line("f", size, {"bits": [[nth * part, every_other]]}, more=nth > 0) for nth in range(parts)
    ]
    dump = upload(daemon, encode(header(daemon.root), lines, bytes=parts * part // 2 * PAGE))
    peak(daemon)
    result = load(daemon, dump=dump)
    assert result["skipped_bytes_by_reason"] == {"hole": parts * part // 2 * PAGE}
    assert peak(daemon) < 300 << 20
