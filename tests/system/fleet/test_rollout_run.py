"""A roll by the command line and DBOS: killed, stopped, resumed, paused, aborted."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from holdfast_client.testing import FakeNode, Reimaging
from tests.support.fleet.rollout import command, start, write_inventory
from tests.support.servers.postgres import USER, Postgres, needs_postgres
from tests.support.waiting import until

_QUICK = Reimaging(stage_seconds=0.1, down=0.1, imaging=0.2)


@contextmanager
def _fleet(**zones: int) -> Iterator[dict[str, list[FakeNode]]]:
    with ExitStack() as stack:
        fleet = {
            zone: [stack.enter_context(FakeNode()) for _ in range(count)]
            for zone, count in zones.items()
        }
        for nodes in fleet.values():
            for node in nodes:
                node.reimaging = _QUICK
        yield fleet


def _sockets(fleet: dict[str, list[FakeNode]]) -> dict[str, list[Path | None]]:
    return {zone: [node.socket for node in nodes] for zone, nodes in fleet.items()}


def _all(fleet: dict[str, list[FakeNode]]) -> list[FakeNode]:
    return [node for nodes in fleet.values() for node in nodes]


def _posts(fleet: dict[str, list[FakeNode]]) -> int:
    return sum(call.method == "POST" for node in _all(fleet) for call in node.calls)


def _rebooted(node: FakeNode) -> bool:
    return any(call.path == "/v1/reimage/reboot" for call in node.calls)


def _states(file: Path) -> dict[str, str]:
    shown = command("status", file, "--json")
    assert shown.returncode == 0, shown.stderr
    return {name: node["state"] for name, node in json.loads(shown.stdout)["nodes"].items()}


def _kill_and_resume(fleet: dict[str, list[FakeNode]], file: Path, log: Path, *more: str) -> None:
    """Kill the controller after each few of its steps, and run it to the end."""
    for seen in (len(_all(fleet)), 2 * len(_all(fleet)) + 1):
        process = start("run", file, "--plain", *more, log=log)
        until(lambda seen=seen: _posts(fleet) >= seen, seconds=60, what=f"step {seen}")  # type: ignore[misc]
        process.kill()
        process.wait()
    done = command("run", file, "--plain", *more)
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
    for node in _all(fleet):
        assert len(node.operations) == 1
        steps = {(call.path, call.key) for call in node.calls if call.method == "POST"}
        assert Counter(path.rpartition("/")[2] for path, _ in steps) == dict.fromkeys(
            ("stage", "arm", "reboot", "confirm"), 1
        )
        assert node.boots == 2


def test_a_controller_that_is_killed_continues_with_each_step_once(tmp_path: Path) -> None:
    with _fleet(a=2, b=1) as fleet:
        file = write_inventory(tmp_path, _sockets(fleet), rules={"per_zone": 2})
        _kill_and_resume(fleet, file, tmp_path / "log")
        assert set(_states(file).values()) == {"done"}


@pytest.mark.slow
@needs_postgres
def test_the_same_holds_with_postgresql(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hf-", dir="/tmp") as place, _fleet(a=1) as fleet:
        sockets = Path(place)
        data = sockets / "data"
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            for path in (sockets, data):
                os.chown(path, USER, USER)
        server = Postgres(data, sockets)
        server.run("initdb", "-D", data, "-U", "bench", "-A", "trust", "--no-sync")
        server.start()
        try:
            url = f"postgresql://bench@/postgres?host={sockets}"
            file = write_inventory(tmp_path, _sockets(fleet))
            _kill_and_resume(fleet, file, tmp_path / "log", "--database", url)
            shown = command("status", file, "--json", "--database", url)
            assert json.loads(shown.stdout)["nodes"]["a-1"]["state"] == "done", shown.stderr
        finally:
            server.stop()


def test_it_stops_at_a_failure_and_resumes_after_the_fix(tmp_path: Path) -> None:
    with _fleet(a=1, b=2, c=1) as fleet:
        broken = fleet["b"][0]
        broken.reimaging = Reimaging(stage_seconds=0.1, down=0.1, imaging=0.2, end="failed")
        events = tmp_path / "events"
        notify = {"command": ["sh", "-c", f"cat >> {events}; echo >> {events}"]}
        file = write_inventory(tmp_path, _sockets(fleet), notify=notify)
        stopped = command("run", file, "--plain")
        assert stopped.returncode == 3, stopped.stdout + stopped.stderr
        assert "1 failed, and 0 are allowed: b-1." in stopped.stdout
        assert _states(file)["b-1"] == "failed"
        assert not _rebooted(fleet["b"][1])
        assert not _rebooted(fleet["c"][0])
        broken.reimaging = _QUICK
        assert command("resume", file).returncode == 0
        done = command("run", file, "--plain")
        assert done.returncode == 0, done.stdout + done.stderr
        # Also those that were done in the process before.
        assert "roll: 4 of 4 done" in done.stdout
        assert set(_states(file).values()) == {"done"}
        events_sent = [json.loads(line)["event"] for line in events.read_text().splitlines()]
        assert events_sent == ["started", "stopped", "ended"]


def test_a_roll_is_not_continued_with_what_it_would_ignore(tmp_path: Path) -> None:
    with _fleet(a=2) as fleet:
        broken = fleet["a"][1]
        broken.reimaging = Reimaging(stage_seconds=0.1, down=0.1, imaging=0.2, end="failed")
        file = write_inventory(tmp_path, _sockets(fleet))
        assert command("run", file, "--plain").returncode == 3
        assert command("resume", file).returncode == 0
        changed = write_inventory(tmp_path, _sockets(fleet), rules={"max_failed": 1})
        refused = command("run", changed, "--plain")
        assert refused.returncode == 1
        assert "began with other rules" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert broken.state != "confirmed"
        # What is read by each run may be another.
        broken.reimaging = _QUICK
        passes = {"drain": {"command": ["true"]}}
        file = write_inventory(tmp_path, _sockets(fleet), hooks=passes)
        assert command("run", file, "--plain").returncode == 0


def test_a_paused_roll_disturbs_no_further_node_and_an_aborted_one_ends(tmp_path: Path) -> None:
    with _fleet(a=2) as fleet:
        first, second = fleet["a"]
        draining, go = tmp_path / "draining", tmp_path / "go"
        drain = f"touch {draining}; while [ ! -e {go} ]; do sleep 0.05; done"
        hooks = {"drain": {"command": ["sh", "-c", drain]}}
        file = write_inventory(tmp_path, _sockets(fleet), hooks=hooks)
        process = start("run", file, "--plain", "--page", "127.0.0.1:0", log=tmp_path / "log")
        until(draining.exists, seconds=60, what="the first node's drain")
        assert command("pause", file).returncode == 0
        go.touch()
        until(lambda: first.state == "confirmed", seconds=60, what="the end of the first")
        log = (tmp_path / "log").read_text()
        page = next(line for line in log.splitlines() if line.startswith("page: "))[6:]

        def paused() -> bool:
            shown = httpx.get(f"{page}status.json", trust_env=False).json()
            done = shown["nodes"]["a-1"]["state"] == "done"
            return bool(done and shown["summary"].get("waits") == "The roll is paused.")

        until(paused, seconds=60, what="the page to show the pause")
        metrics = httpx.get(f"{page}metrics", trust_env=False).text
        assert 'holdfast_rollout_nodes{state="done",zone="a"} 1.0' in metrics
        assert "holdfast_rollout_paused 1.0" in metrics
        assert "<script>" in httpx.get(page, trust_env=False).text
        other = command("run", file, "--plain")
        assert other.returncode == 1
        assert "Another process runs the roll" in other.stderr
        assert command("abort", file).returncode == 0
        assert process.wait(60) == 1
        assert not _rebooted(second)
        assert _states(file) == {"a-1": "done", "a-2": "aborted"}


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    file = write_inventory(tmp_path, {"a": [tmp_path / "s"]}, rules={"per_zone": 0})
    done = command("run", file)
    assert done.returncode == 2
    assert "`rules.per_zone`" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    file = write_inventory(tmp_path, {"a": [tmp_path / "s"]})
    done = command("status", file)
    assert done.returncode == 2
    assert "was not run here" in done.stderr
