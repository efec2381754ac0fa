"""What is asked before this machine goes down, in order, and what each no leads to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast.privileged import Privileged
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.interlock.fleet_lock import FleetLock
from holdfast.reimage.interlock.interlock import Interlock, Rules
from holdfast.reimage.interlock.lock_keeper import LockKeeper
from holdfast.reimage.interlock.models import Gate, HeldError
from holdfast.reimage.interlock.window import Windows, parse_window
from holdfast.reimage.models import StageRequest
from holdfast.reimage.states import ReimageState
from tests.support.daemon.attempts import MINE, OLD_BOOT, Node
from tests.support.daemon.harness import Daemon
from tests.support.daemon.recorded_helper import RecordedHelper, recorded_helper
from tests.support.servers.fleet_lock import FleetLockServer, fleet_lock_server
from tests.support.waiting import until

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
ID = "a-node"
GATES = ["window", "fleet-lock", "before-reboot", "inhibitors"]
INHIBITED = {"inhibitors": [{"who": "backup", "why": "it runs", "uid": 0, "pid": 77}]}


@pytest.fixture
def helper(disk_dir: Path) -> Iterator[RecordedHelper]:
    with recorded_helper(disk_dir / "helper") as helper:
        yield helper


@pytest.fixture(params=["airlock", "poseidon"])
def either_lock(request: pytest.FixtureRequest) -> Iterator[FleetLockServer]:
    with fleet_lock_server(request.param) as server:
        yield server


@pytest.fixture
def lock() -> Iterator[FleetLockServer]:
    with fleet_lock_server("poseidon") as server:
        yield server


@pytest.fixture
def make_node(
    helper: RecordedHelper, disk_dir: Path, start_daemon: Callable[..., Daemon]
) -> Callable[..., Node]:
    def make(lock: FleetLockServer | None = None, **reimage: Any) -> Node:
        assert not helper.asked
        if lock is not None:
            fleet_lock = {"url": lock.url, "id": ID, "seconds": 0} | reimage.pop("fleet_lock", {})
            reimage["fleet_lock"] = fleet_lock
        node = Node(disk_dir, start_daemon, helper=str(disk_dir / "helper"), reimage=reimage)
        node.stage(state="armed", boot_id=BOOT)
        return node

    return make


def window(*, opens: timedelta) -> str:
    """Return a window of two hours that opens so long from now."""
    begins = datetime.now(UTC) + opens
    ends = begins + timedelta(hours=2)
    return f"{begins:%H:%M}-{ends:%H:%M} UTC"


def interlock(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = node.daemon.http.get("/v1/reimage").json()["interlock"]
    return found


def audited(node: Node) -> list[dict[str, Any]]:
    lines = (node.state_dir / "audit-admin.log").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_all_gates_say_yes_in_order_and_the_lock_is_kept_over_the_boot(
    make_node: Callable[..., Node], helper: RecordedHelper, lock: FleetLockServer, disk_dir: Path
) -> None:
    seen = disk_dir / "drained"
    drain = f'echo "$NODE_GROUP $REIMAGE_OPERATION" >{seen}; echo drained 7 clients'
    node = make_node(
        lock, window=window(opens=-timedelta(hours=1)), before_reboot=["/bin/sh", "-c", drain]
    )

    def at_the_order() -> None:
        if helper.asked[-1]["dry_run"]:
            return
        assert lock.holds(ID)
        assert seen.read_text() == f"default {MINE}\n"

    helper.on["reboot"] = at_the_order
    status, found = node.post("reboot", "r")
    assert (status, found["state"]) == (200, "rebooting"), found
    assert helper.calls("reboot") == 1
    gates = found["interlock"]["gates"]
    assert [gate["gate"] for gate in gates] == GATES
    assert all(gate["passed"] and not gate["overridden"] for gate in gates)
    assert "drained 7 clients" in gates[2]["detail"]
    assert found["interlock"]["fleet_lock"]["id"] == ID
    metrics = node.daemon.http.get("/metrics").text
    assert "holdfast_fleet_lock_held 1" in metrics
    assert "holdfast_maintenance_window_open 1" in metrics
    events = [line for line in audited(node) if line.get("event")]
    assert [line["gate"] for line in events if line["event"] == "gate"] == GATES
    assert [line["call"] for line in events if line["event"] == "fleet-lock"] == ["pre-reboot"]
    # The new system: unconfirmed keeps it, confirmed releases it.
    node.remember(state="unconfirmed", boot_id=OLD_BOOT)
    assert interlock(node)["fleet_lock"]["operation"] == MINE
    assert lock.calls == [("pre-reboot", ID)]
    assert node.post("confirm", override=True)[0] == 200
    lock.wait_for(ID, held=False)
    assert until(lambda: interlock(node)["fleet_lock"] is None, what="a lock that is forgotten")
    assert "holdfast_fleet_lock_held 0" in node.daemon.http.get("/metrics").text


def test_a_closed_window_is_refused_with_when_it_opens(
    make_node: Callable[..., Node], helper: RecordedHelper
) -> None:
    with fleet_lock_server() as lock:
        node = make_node(lock, window=window(opens=timedelta(hours=3)))
        answer = node.daemon.http.post("/v1/reimage/reboot", json={})
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (409, "/problems/held-back")
        assert problem["gate"] == "window"
        assert 2.9 * 3600 < int(answer.headers["Retry-After"]) <= 3 * 3600 + 60
        dry = node.daemon.http.post("/v1/reimage/reboot", json={"dry_run": True})
        assert dry.json()["gate"] == "window"
        done = node.daemon.cli("reimage", "reboot", "--yes")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "opens at" in done.stderr
        found = interlock(node)
        assert not found["window_open"]
        assert found["gates"][0]["passed"] is False
        metrics = node.daemon.http.get("/metrics").text
        assert 'holdfast_reboot_refusals_total{gate="window"} 2' in metrics
        assert not lock.calls
        assert not helper.calls("reboot")
        # By force, which is on record.
        done = node.daemon.cli("reimage", "reboot", "--yes", "--force")
        assert done.returncode == 0, done.stderr
        assert helper.calls("reboot") == 1
        (call,) = [line for line in audited(node) if line.get("status") == 200]
        assert call["params"]["force"] is True
        forced = [line for line in audited(node) if line.get("overridden")]
        assert [line["gate"] for line in forced] == ["window"]


def test_a_lock_that_is_taken_keeps_the_machine_up_and_is_given_back_by_nobody_else(
    make_node: Callable[..., Node], helper: RecordedHelper, either_lock: FleetLockServer
) -> None:
    lock = either_lock
    lock.holders["default"] = {"another"}
    lock.retry_after = "77"
    node = make_node(lock, before_reboot=["/bin/false"])
    answer = node.daemon.http.post("/v1/reimage/reboot", json={})
    assert (answer.status_code, answer.json()["gate"]) == (409, "fleet-lock")
    assert answer.headers["Retry-After"] == "77"
    said = "semaphore of default is full" if lock.kind == "airlock" else "held by another node"
    assert said in answer.json()["detail"]
    assert node.state == "armed"
    assert until(lambda: interlock(node)["fleet_lock"] is None, what="a lock that is forgotten")
    assert lock.holders["default"] == {"another"}
    assert not helper.calls("reboot")


def test_what_takes_the_lock_and_then_says_no_gives_it_back(
    make_node: Callable[..., Node], helper: RecordedHelper
) -> None:
    with fleet_lock_server() as lock:
        failing = "echo cannot move 3 shards >&2; exit 4"
        node = make_node(lock, before_reboot=["/bin/sh", "-c", failing])
        status, problem = node.post("reboot")
        assert (status, problem["gate"]) == (409, "before-reboot")
        assert "ended with 4: cannot move 3 shards" in problem["detail"]
        lock.wait_for(ID, held=False)
        assert lock.calls == [("pre-reboot", ID), ("steady-state", ID)]
        helper.answers["inhibitors"] = INHIBITED
        status, problem = node.post("reboot")
        assert (status, problem["gate"]) == (409, "inhibitors")
        assert "backup (process 77): it runs" in problem["detail"]
        lock.wait_for(ID, held=False)
        helper.answers["inhibitors"] = {"errno": 5, "reason": "no bus", "file": "busctl"}
        assert node.post("reboot")[1]["gate"] == "inhibitors"
        # An order that is refused gives it back as well.
        helper.answers["inhibitors"] = {"inhibitors": []}

        def only_rehearsed() -> None:
            rehearsal = helper.asked[-1]["dry_run"]
            helper.answers["reboot"] = {} if rehearsal else {"refused": "No disk."}

        helper.on["reboot"] = only_rehearsed
        assert "No disk." in node.post("reboot", force=True)[1]["detail"]
        lock.wait_for(ID, held=False)
        assert node.state == "armed"
        # What cannot be done is not asked for.
        asked = len(lock.calls)
        helper.on["reboot"] = lambda: helper.answers.update(reboot={"refused": "No disk."})
        assert "No disk." in node.post("reboot", force=True)[1]["detail"]
        assert len(lock.calls) == asked


def test_without_an_answer_the_lock_may_be_held_and_is_released(
    make_node: Callable[..., Node], helper: RecordedHelper, lock: FleetLockServer
) -> None:
    node = make_node(lock)
    lock.forgets_to_answer = True
    status, problem = node.post("reboot")
    assert (status, problem["gate"]) == (409, "fleet-lock")
    assert "does not answer" in problem["detail"]
    assert lock.holds(ID) or ("steady-state", ID) in lock.calls
    assert node.daemon.stop() == 0
    lock.forgets_to_answer, lock.broken = False, True
    node.daemon.restart()
    assert until(lambda: interlock(node)["fleet_lock"]["problem"], what="a release that fails")
    lock.broken = False
    lock.wait_for(ID, held=False)
    assert not helper.calls("reboot")


def test_a_lock_is_released_in_the_old_system_and_kept_where_nothing_is_known(
    make_node: Callable[..., Node], lock: FleetLockServer
) -> None:
    node = make_node(lock)
    assert node.post("reboot")[0] == 200
    node.remember(state="unknown", boot_id=OLD_BOOT)
    assert interlock(node)["fleet_lock"] is not None
    # Another image is staged on a system that nobody confirmed.
    node.remember(operation=MINE[:-1] + "9", state="staged", boot_id=None, unsettled=True)
    assert interlock(node)["fleet_lock"]["operation"] == MINE
    node.remember(state="failed")
    lock.wait_for(ID, held=False)
    assert [call for call, _ in lock.calls].count("pre-reboot") == 1


def test_a_volume_does_not_choose_whom_this_machine_speaks_to(
    make_node: Callable[..., Node], helper: RecordedHelper
) -> None:
    with fleet_lock_server() as lock, fleet_lock_server() as theirs:
        node = make_node(lock)
        record = {
            "url": theirs.url,
            "id": ID,
            "group": "default",
            "operation": MINE,
            "since": "2026-01-01T00:00:00Z",
        }
        (node.state_dir / "reimage" / "fleet-lock.json").write_text(json.dumps(record))
        assert theirs.url in until(
            lambda: interlock(node)["fleet_lock"]["problem"], what="a lock of another manager"
        )
        status, problem = node.post("reboot")
        assert (status, problem["gate"]) == (409, "fleet-lock")
        assert not theirs.calls
        assert not lock.calls
        assert not helper.calls("reboot")


def test_a_disarming_ends_what_is_being_asked(
    make_node: Callable[..., Node], helper: RecordedHelper, disk_dir: Path
) -> None:
    """Also what the command has started, and the lock is released."""
    started = disk_dir / "started"
    slow = f"sleep 300 & echo $! >{started}.new; mv {started}.new {started}; wait"
    with fleet_lock_server() as lock:
        node = make_node(lock, before_reboot=["/bin/sh", "-c", slow])
        client = node.daemon.client()

        def disarm() -> None:
            until(started.exists, what="the command")
            assert interlock(node)["asking"] == "before-reboot"
            second = node.daemon.client().post("/v1/reimage/reboot", json={})
            assert second.status_code == 409
            assert node.daemon.client().post("/v1/reimage/disarm", json={}).status_code == 200

        node.daemon.http.get("/healthz")
        with ThreadPoolExecutor() as beside:
            disarmed = beside.submit(disarm)
            answer = client.post("/v1/reimage/reboot", json={})
            disarmed.result()
        assert answer.status_code == 409, answer.text
        assert "the state is `staged`" in answer.json()["detail"].lower()
        lock.wait_for(ID, held=False)
        until(lambda: not Path("/proc", started.read_text().strip()).exists(), what="its end")
        assert not helper.calls("reboot")


def test_no_kill_leaks_or_loses_a_lock() -> None:
    """`make lock-kills` has a thousand of them."""
    command = [sys.executable, "-m", "tests.support.fleet.lock_kills", "60", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("60 kills") == 2


def test_a_window_that_closes_unused_gives_the_lock_back(disk_dir: Path) -> None:
    """The lock is held by then: it is asked for before the operator's command, which takes long."""
    clock = [datetime(2026, 11, 28, 2, 59, tzinfo=UTC)]
    with fleet_lock_server() as lock:
        attempt = Attempt(disk_dir)
        attempt.load()
        attempt.begin(MINE, StageRequest(descriptor="https://x.example/web.json"))
        attempt.move(ReimageState.STAGED, "Staged.")
        attempt.move(ReimageState.ARMED, "Armed.", boot_id=attempt.boot_id)
        audit: list[Mapping[str, Any]] = []
        manager = FleetLock(lock.url, ID, "default")
        keeper = LockKeeper(attempt, disk_dir, manager, audit.append)
        keeper.load()
        keeper.start()
        calm = SimpleNamespace(inhibitors=list)
        rules = Rules(windows=Windows([parse_window("Sat 02:00-03:00 UTC")]), command=["/bin/true"])
        interlock = Interlock(
            attempt,
            cast(Privileged, calm),
            keeper,
            rules,
            record=audit.append,
            clock=lambda: clock[0],
        )
        try:

            def go_down() -> None:
                with interlock.passing(attempt.require(), force=False) as last_look:
                    assert lock.holds(ID)
                    clock[0] += timedelta(minutes=2)
                    last_look()

            with pytest.raises(HeldError, match="window"):
                go_down()
            lock.wait_for(ID, held=False)
            assert lock.calls == [("pre-reboot", ID), ("steady-state", ID)]
            assert interlock.figures()[2][Gate.WINDOW] == 1
            last = attempt.require().gates[-1]
            assert (last.gate, last.passed) == (Gate.WINDOW, False)
        finally:
            keeper.stop(5)
