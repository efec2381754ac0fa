"""What an operation that succeeded came to, wherever it is shown: never a success it was not."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path
from typing import Any

import pytest

from tests.oracles.residency import pinned
from tests.support.capabilities.manifests import flip
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.machine.disk import drop, write_file

MIB = 1 << 20
DIFFERENT = 3


def verified(daemon: Daemon, *, damage: bool) -> dict[str, Any]:
    """Build a manifest, perhaps flip a bit, and verify."""
    write_file(daemon.root / "a.db", MIB)
    daemon.run("/v1/manifests", {"full": True})
    if damage:
        flip(daemon.root / "a.db", 4097)
    return daemon.finish(daemon.start("/v1/manifests/latest/verifications", {}))


def compared(daemon: Daemon) -> dict[str, Any]:
    """Compare manifests of two directories that are not the same."""
    made = []
    for number in range(2):
        write_file(daemon.root / "b.db", MIB, seed=number)
        made.append(daemon.run("/v1/manifests", {"full": True})["manifest"])
    body = {"left": made[0], "right": made[1]}
    return daemon.finish(daemon.start("/v1/manifests/comparisons", body))


def short_of_memory(daemon: Daemon) -> dict[str, Any]:
    """Load a dump with a budget of less than it has."""
    file = write_file(daemon.root / "c.db", 4 * MIB)
    daemon.run("/v1/pagecache/dumps", {})
    drop(file)
    return daemon.finish(daemon.start("/v1/pagecache/loads", {"budget_bytes": MIB}))


def of_a_file_that_is_gone(daemon: Daemon) -> dict[str, Any]:
    """Load a dump of a file that was deleted since."""
    file = write_file(daemon.root / "d.db", MIB)
    daemon.run("/v1/pagecache/dumps", {})
    file.unlink()
    return daemon.finish(daemon.start("/v1/pagecache/loads", {}))


def evicted_while_mapped(daemon: Daemon) -> dict[str, Any]:
    """Evict a file of which a page is mapped, and so stays."""
    file = write_file(daemon.root / "e.db", MIB)
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:1]
        return daemon.finish(daemon.start("/v1/pagecache/evictions", {"paths": [str(file)]}))


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (lambda daemon: verified(daemon, damage=True), "differs"),
        (compared, "differs"),
        (short_of_memory, "partial"),
        (of_a_file_that_is_gone, "partial"),
        (evicted_while_mapped, "partial"),
        (lambda daemon: verified(daemon, damage=False), "ok"),
    ],
    ids=["verification", "comparison", "budget", "vanished", "mapped", "all-is-well"],
)
def test_the_outcome_is_shown_by_everything_that_shows_an_operation(
    daemon: Daemon, work: Any, outcome: str
) -> None:
    operation = work(daemon)
    operation_id, kind = operation["id"], operation["kind"]
    assert (operation["state"], operation["outcome"]) == ("succeeded", outcome)
    reported = outcome if outcome != "ok" else "succeeded"

    (line,) = [line for line in daemon.http.get("/").text.splitlines() if operation_id in line]
    assert re.search(rf"\d\d:\d\d:\d\d {reported}\b", line)
    assert (" succeeded" in line) == (outcome == "ok")
    events = f"/v1/operations/{operation_id}/events"
    text = daemon.http.get(events, headers={"Accept": "text/plain"}).text
    assert text.split()[1] == reported
    for media_type in ("text/event-stream", "application/x-ndjson"):
        stream = daemon.http.get(events, headers={"Accept": media_type}).text
        data = [line for line in stream.splitlines() if '"outcome"' in line][-1]
        assert json.loads(data.removeprefix("data: "))["outcome"] == outcome
    labels = {f'kind="{kind}"', f'outcome="{outcome}"', 'state="succeeded"'}
    (count,) = [
        line.rpartition(" ")[2]
        for line in daemon.http.get("/metrics").text.splitlines()
        if line.startswith("holdfast_operations_total{")
        and set(re.findall(r'\w+="[^"]*"', line)) == labels
    ]
    assert float(count) == 1

    def listed(**filters: str) -> set[str]:
        answer = daemon.http.get("/v1/operations", params=filters).json()
        return {operation["id"] for operation in answer["operations"]}

    assert (operation_id in listed(not_ok="true")) == (outcome != "ok")
    assert operation_id in listed(outcome=outcome)
    others = {"ok", "differs", "partial"} - {outcome}
    assert not any(operation_id in listed(outcome=other) for other in others)


def test_commands_that_show_it_end_with_the_exit_code_of_its_outcome(daemon: Daemon) -> None:
    bad = verified(daemon, damage=True)
    partial = short_of_memory(daemon)
    good = daemon.finish(daemon.start("/v1/pagecache/dumps", {}))
    for form in ([], ["--json"]):
        for command in ("show", "watch"):
            assert daemon.cli("op", command, bad["id"], *form).returncode == DIFFERENT
            assert daemon.cli("op", command, partial["id"], *form).returncode == 0
            assert daemon.cli("op", command, good["id"], *form).returncode == 0

    table = daemon.cli("op", "list").stdout.splitlines()
    assert table[0].split()[:4] == ["OPERATION", "KIND", "STATE", "OUTCOME"]
    rows = {row.split()[0]: row.split()[3] for row in table[1:]}
    assert rows[bad["id"]] == "differs"
    assert rows[partial["id"]] == "partial"
    assert rows[good["id"]] == "ok"
    odd = json.loads(daemon.cli("op", "list", "--not-ok", "--json").stdout)["operations"]
    assert {operation["id"] for operation in odd} == {bad["id"], partial["id"]}
    assert "outcome" in daemon.cli("op", "show", partial["id"]).stdout


def test_what_did_not_succeed_has_no_outcome_and_is_not_ok(daemon: Daemon) -> None:
    write_file(daemon.root / "a.db", 8 * MIB)
    slow = daemon.start("/v1/manifests", {"full": True, "bytes_per_second": MIB})
    assert slow["outcome"] is None
    assert not daemon.http.get("/v1/operations", params={"not_ok": True}).json()["operations"]
    daemon.http.post(f"/v1/operations/{slow['id']}/cancel")
    assert daemon.finish(slow)["outcome"] is None
    (one,) = daemon.http.get("/v1/operations", params={"not_ok": True}).json()["operations"]
    assert one["id"] == slow["id"]


def test_what_reads_nothing_tells_no_rate(daemon: Daemon) -> None:
    file = write_file(daemon.root / "a.db", 8 * MIB)
    with pinned(file):
        dump = daemon.finish(daemon.start("/v1/pagecache/dumps", {}))
        again = daemon.finish(daemon.start("/v1/pagecache/loads", {}))
    assert again["result"]["already_resident"] == 8 * MIB
    daemon.run("/v1/manifests", {"full": True})
    reused = daemon.finish(daemon.start("/v1/manifests", {}))
    page = daemon.http.get("/").text
    for operation in (dump, again, *([reused] if reused["result"]["read_bytes"] == 0 else ())):
        assert operation["progress"]["bytes_per_second"] == 0
        (line,) = [line for line in page.splitlines() if operation["id"] in line]
        assert "/s" not in line


def test_work_without_a_daemon_points_at_no_operation(tmp_path: Path) -> None:
    bad = tmp_path / "image"
    bad.write_bytes(b"x" * 1000)
    (tmp_path / "data").mkdir()
    local = ("--local", "--root", tmp_path / "data", "--state-dir", tmp_path / "state")
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("image", "describe", bad),
        ("pagecache", "load", *local),
        ("manifest", "verify", *local),
    )
    for command in commands:
        done = run_cli(*command)
        assert done.returncode == 1
        assert done.stderr.startswith("holdfast: ")
        assert "operation" not in done.stderr


def test_limits_are_told_as_they_are_written(daemon: Daemon) -> None:
    answer = daemon.http.get("/v1/operations/latest", params={"wait": 301})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["message"] == "must be at most 300"
