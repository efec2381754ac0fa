"""`reimage.run` against a real daemon, whose boots are a kill and a restart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast_client import Client, NotReimaged, OperationFailed, Retries
from tests.support.capabilities.reimage import BODY
from tests.support.daemon.boots import BootedNode, booted_nodes
from tests.support.daemon.harness import Daemon
from tests.support.servers.cutting import cutting_proxy
from tests.support.waiting import until

Make = Callable[..., BootedNode]
CUTS = int(os.environ.get("HOLDFAST_TEST_CUTS", "12"))
"""Connections to break at least."""
PERSISTENT = Retries(attempts=200, seconds=60, base=0.002, cap=0.05)


@pytest.fixture
def make(disk_dir: Path, start_daemon: Callable[..., Daemon]) -> Iterator[Make]:
    with booted_nodes(disk_dir, start_daemon) as make:
        yield make


def run(client: Client, key: str) -> str:
    """Re-image a node by one call, and return its operation."""
    return client.reimage.run(
        BODY["descriptor"],
        descriptor_sha256=BODY["descriptor_sha256"],
        identity=[],
        key=key,
        timeout=90,
    ).id


def orders(node: BootedNode) -> int:
    """Count the orders to reboot that the daemon received: it rehearses each."""
    return sum(each["do"] == "reboot" and bool(each.get("dry_run")) for each in node.helper.asked)


def test_each_step_is_taken_once_over_cut_connections_and_both_boots(make: Make) -> None:
    node = make("good")
    operation = node.stage("roll-1")
    daemon = node.start()
    token = daemon.tokens.secrets["admin"]
    with cutting_proxy(daemon.port, seed=11, most_bytes=900) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        with Client(url, token=token, retries=PERSISTENT) as client:
            assert run(client, "roll-1") == operation
            while proxy.cuts < CUTS:
                assert run(client, "roll-1") == operation
    node.settle()
    assert (node.helper.calls("arm"), node.helper.calls("reboot"), node.boots) == (1, 1, 1)
    # Another process with the same key finds it done.
    with Client(socket=node.socket) as other:
        assert run(other, "roll-1") == operation
        assert [each["id"] for each in other.operations.list()["operations"]] == [operation]
    assert (node.helper.calls("arm"), node.helper.calls("reboot"), node.boots) == (1, 1, 1)


def test_the_old_system_that_comes_up_again_is_a_failure(make: Make) -> None:
    node = make("back", end="failed")
    operation = node.stage("roll-2")
    node.start()
    with Client(socket=node.socket) as client, pytest.raises(OperationFailed) as failed:
        run(client, "roll-2")
    assert failed.value.operation.id == operation
    assert isinstance(failed.value.problem, NotReimaged)
    assert node.helper.calls("reboot") == 1


def test_a_controller_that_resumes_while_the_node_drains_waits_for_the_answer(
    make: Make, disk_dir: Path
) -> None:
    started, go = disk_dir / "started", disk_dir / "go"
    drain = f"echo x >>{started}; until [ -e {go} ]; do sleep 0.05; done"
    node = make("drained", reimage={"before_reboot": ["/bin/sh", "-c", drain]})
    operation = node.stage("roll-3")
    node.start()
    with (
        ThreadPoolExecutor(2) as pool,
        Client(socket=node.socket) as first,
        Client(socket=node.socket) as second,
    ):
        try:
            waiting = pool.submit(run, first, "roll-3")
            until(started.exists, seconds=60, what="the operator's command")
            resumed = pool.submit(run, second, "roll-3")
            until(
                lambda: resumed.done() or orders(node) > 2,
                seconds=60,
                what="an order to reboot after one that was refused",
            )
        finally:
            go.touch()
        assert (waiting.result(90), resumed.result(90)) == (operation, operation)
    assert started.read_text() == "x\n"
    assert (node.helper.calls("arm"), node.helper.calls("reboot"), node.boots) == (1, 1, 1)
