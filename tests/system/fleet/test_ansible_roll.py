"""The playbook `roll` with several daemons and faults."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities.reimage import BODY, SHA256
from tests.support.daemon.boots import BootedNode, booted_nodes
from tests.support.daemon.harness import Daemon
from tests.support.fleet.ansible import TICK, Controller, Played

Make = Callable[..., BootedNode]
OPTIONS = {"poll_seconds": TICK, "timeout": 90, "identity": []}


@pytest.fixture
def make(disk_dir: Path, start_daemon: Callable[..., Daemon]) -> Iterator[Make]:
    with booted_nodes(disk_dir, start_daemon) as make:
        yield make


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def add(controller: Controller, make: Make, name: str, zone: str, **options: Any) -> BootedNode:
    node = make(name, **options)
    node.stage(f"r.{name}")
    controller.node(name, node.start().socket, holdfast_zone=zone)
    return node


def roll(controller: Controller, **variables: Any) -> Played:
    asked: dict[str, Any] = {
        "holdfast_roll_hosts": "nodes",
        "holdfast_roll_id": "r",
        "holdfast_roll_descriptor": BODY["descriptor"],
        "holdfast_roll_descriptor_sha256": SHA256,
        "holdfast_roll_options": OPTIONS,
    }
    return controller.play("roll", **asked | variables)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_dies_during_the_roll_stops_it(make: Make, controller: Controller) -> None:
    a1, b1, c1 = (add(controller, make, f"{zone}1", zone) for zone in "abc")
    ssh = controller.by_ssh("b1")
    a1.helper.on["arm"] = ssh.fail
    played = roll(controller, reimage_node_drain=False)
    assert played.code != 0
    assert "unreachable" in played.kinds("b1")
    assert [node.state for node in (a1, b1, c1)] == ["confirmed", "staged", "staged"]
    assert [node.helper.calls("arm") for node in (a1, b1, c1)] == [1, 0, 0]


@pytest.mark.skipif("HOLDFAST_TEST_ROLLS" not in os.environ, reason="set HOLDFAST_TEST_ROLLS=all")
@pytest.mark.timeout(900)
def test_a_dead_node_stops_the_roll_and_it_resumes_after_the_fix(
    make: Make, controller: Controller, tmp_path: Path
) -> None:
    # The inventory mixes the zones, and only one batch at a time is disturbed.
    c1 = add(controller, make, "c1", "c")
    b1 = add(controller, make, "b1", "b", end="failed")
    b2 = add(controller, make, "b2", "b")
    order = ["c1", "b1", "b2"]
    a1 = add(controller, make, "a1", "a")
    controller.inventory = {name: controller.inventory[name] for name in ("a1", *order[::-1])}
    nodes = [a1, b1, b2, c1]
    ssh = controller.by_ssh("b1")

    # Away before it begins: nothing is done.
    ssh.fail()
    played = roll(controller, holdfast_roll_per_az=2)
    assert played.code != 0
    assert "These do not answer, and nothing was done: b1" in played.text
    assert [node.helper.calls("arm") for node in nodes] == [0, 0, 0, 0]
    ssh.recover()

    # Away from the time that the canary is armed.
    a1.helper.on["arm"] = ssh.fail
    played = roll(controller, holdfast_roll_per_az=2)
    assert played.code != 0
    shown = played.result("Show the batches")["holdfast_roll_batches"]
    assert shown == [["a1"], ["b2", "b1"], ["c1"]]
    assert "unreachable" in played.kinds("b1")
    assert [node.helper.calls("arm") for node in nodes] == [1, 0, 0, 0]
    assert (
        "failed or unreachable: b1"
        in played.result("Stop before anything is drained if a node of the batch is away", "b2")[
            "msg"
        ]
    )
    ssh.recover()

    # It answers again, and fails: the batch ends, and no further one begins.
    played = roll(controller, holdfast_roll_per_az=2)
    assert played.code != 0
    assert played.result("Show the batches")["holdfast_roll_batches"] == [["b2"], ["b1"], ["c1"]]
    assert [node.state for node in nodes] == ["confirmed", "failed", "confirmed", "staged"]
    assert c1.helper.calls("arm") == 0
    assert played.result("Become the image", "b1")["reason"] == "failed"

    # After the fix the same command continues, with another attempt on the node that failed.
    b1.end = "confirmed"
    b1.stage("r.b1.2")
    pause = tmp_path / "pause"
    stop = tmp_path / "stop"
    b1.helper.on["arm"] = stop.touch
    played = roll(
        controller, holdfast_roll_pause_file=str(pause), holdfast_roll_stop_file=str(stop)
    )
    assert "it was asked to" in played.text
    assert [node.state for node in nodes] == ["confirmed", "confirmed", "confirmed", "staged"]
    stop.unlink()
    pause.touch()
    with ThreadPoolExecutor(1) as pool:
        rolling = pool.submit(roll, controller, holdfast_roll_pause_file=str(pause))
        with pytest.raises(TimeoutError):
            rolling.result(8)
        assert c1.state == "staged"
        pause.unlink()
        played = rolling.result(120)
    assert played.code == 0, played.text
    assert [node.state for node in nodes] == ["confirmed"] * 4
    assert [node.helper.calls("reboot") for node in nodes] == [1, 2, 1, 1]
