"""A build resumes where it was killed, and comes to the manifest that it would have come to."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from tests.support.capabilities.building import BUILDS, MIB, Line, build, built, reached
from tests.support.daemon.harness import FINAL, Daemon
from tests.support.machine.disk import write_file
from tests.support.promptness import promptly
from tests.support.waiting import until

KILLS = int(os.environ.get("HOLDFAST_TEST_KILLS", "12"))
CHUNK = 64 * MIB
LARGE = {"huge": 640 * MIB + 17, "large": 256 * MIB, "middling": 100 * MIB + 1}
SMALL = 60
RATE = 512 * MIB
"""Bytes per second, so that the build takes seconds on any machine."""


def make_tree(daemon: Daemon) -> int:
    """Write the files to be hashed; return their bytes."""
    sizes = dict(LARGE)
    sizes |= {f"d{n % 7}/{n}": 1000 * n + 1 for n in range(SMALL)}
    for seed, (name, size) in enumerate(sizes.items()):
        write_file(daemon.root / name, size, seed=seed)
    return sum(sizes.values())


def operation_of(daemon: Daemon, operation: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = daemon.http.get(f"/v1/operations/{operation['id']}").json()
    return found


def bound() -> int:
    """What a kill may cost at most: a chunk of each large file, and the small ones."""
    return len(LARGE) * CHUNK + sum(1000 * n + 1 for n in range(SMALL))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_random_moments(daemon: Daemon) -> None:
    total = make_tree(daemon)
    undisturbed = build(daemon)
    assert undisturbed.result["bytes"] == total
    chance = random.Random(50)
    manifests: list[Mapping[bytes, Line]] = []
    resumed = 0
    operation = start(daemon)
    known = 0
    for _ in range(KILLS):
        if operation_of(daemon, operation)["state"] in FINAL:
            manifests.append(completed(daemon, operation, total))
            operation, known = start(daemon), 0
        known = max(known, watched(daemon, operation, chance.uniform(0, 0.8), total))
        daemon.kill()
        daemon.restart()
        now = next_life(daemon, operation)
        if now["state"] in FINAL:
            continue
        # What was reported before the kill is not read again, except the chunks that were started.
        left = now["progress"]["bytes_expected"]
        assert total - left >= known - bound()
        resumed += 1
    manifests.append(completed(daemon, operation, total))
    assert resumed >= KILLS // 2
    for lines in manifests:
        assert lines == undisturbed.lines
    with suppress(TimeoutError):
        until(lambda: not leftovers(daemon), what="the end of the last download")
    assert leftovers(daemon) == []


def watched(daemon: Daemon, operation: Mapping[str, Any], seconds: float, total: int) -> int:
    """Watch a build for `seconds`; return how many bytes it is known to have done."""
    deadline = time.monotonic() + seconds
    known = 0
    while time.monotonic() < deadline:
        now = operation_of(daemon, operation)
        if now["state"] in FINAL:
            return total
        progress = now["progress"]
        # What an earlier life did is not expected of this one.
        if progress["phase"] == "hashing":
            known = total - progress["bytes_expected"] + progress["bytes_done"]
    return known


def start(daemon: Daemon) -> dict[str, Any]:
    return daemon.start(BUILDS, {"full": True, "bytes_per_second": RATE})


def next_life(daemon: Daemon, operation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the operation once it has ended, or has looked into its journal."""

    def started() -> dict[str, Any] | None:
        now = operation_of(daemon, operation)
        began = now["state"] in FINAL or now["progress"]["phase"] not in {"", "walking"}
        return now if began else None

    return until(started, seconds=20, what="the next life")


def completed(daemon: Daemon, operation: Mapping[str, Any], total: int) -> Mapping[bytes, Line]:
    found = built(daemon, operation)
    result = found.result
    assert result["resumed_bytes"] + result["reused_bytes"] + result["hashed_bytes"] == total
    return found.lines


def leftovers(daemon: Daemon) -> list[str]:
    """What is left of those lives besides manifests; a download removes its file at its end."""
    names = [path.name for path in (daemon.state_dir / "manifests").iterdir()]
    return [name for name in names if name.startswith(".") or not name.endswith(".manifest.zst")]


def test_only_begun_chunks_are_read_again(daemon: Daemon) -> None:
    write_file(daemon.root / "huge", 500 * MIB)
    undisturbed = build(daemon)
    operation = start(daemon)
    reached(daemon, operation, 300 * MIB)
    daemon.kill()
    daemon.restart()
    again = built(daemon, operation)
    assert again.lines == undisturbed.lines
    assert again.result["resumed_bytes"] >= 300 * MIB - CHUNK
    assert again.result["read_bytes"] <= 500 * MIB - again.result["resumed_bytes"]


@pytest.mark.parametrize("change", ["content", "size", "replaced", "deleted"])
def test_what_changed_between_two_lives_is_not_resumed(daemon: Daemon, change: str) -> None:
    path = write_file(daemon.root / "huge", 200 * MIB)
    operation = start(daemon)
    reached(daemon, operation, 100 * MIB)
    daemon.kill()
    if change == "content":
        with path.open("r+b") as file:
            file.write(b"other")
    elif change == "size":
        with path.open("ab") as file:
            file.write(b"more")
    elif change == "replaced":
        write_file(daemon.root / "new", 200 * MIB, seed=9).rename(path)
    else:
        path.unlink()
    daemon.restart()
    again = built(daemon, operation)
    assert again.lines == build(daemon, full=True).lines
    assert again.result["resumed_bytes"] == 0


def test_sigterm_keeps_what_was_done_too(daemon: Daemon) -> None:
    write_file(daemon.root / "huge", 300 * MIB)
    undisturbed = build(daemon)
    operation = daemon.start(BUILDS, {"full": True, "bytes_per_second": 150 * MIB})
    reached(daemon, operation, 150 * MIB)
    with promptly(5):
        assert daemon.stop() == 0
    daemon.restart()
    again = built(daemon, operation)
    assert again.lines == undisturbed.lines
    assert again.result["resumed_bytes"] >= 150 * MIB - CHUNK


def test_a_journal_that_was_torn_or_altered_costs_time_only(daemon: Daemon) -> None:
    write_file(daemon.root / "huge", 300 * MIB)
    undisturbed = build(daemon)
    for damage in (
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\0" * len(content),
        lambda content: content[:-3] + b"\xff\xff\xff",
    ):
        operation = start(daemon)
        reached(daemon, operation, 150 * MIB)
        daemon.kill()
        (journal,) = (daemon.state_dir / "manifests").glob(".*.journal")
        journal.write_bytes(damage(journal.read_bytes()))
        daemon.restart()
        assert built(daemon, operation).lines == undisturbed.lines
