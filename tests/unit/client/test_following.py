"""The client follows an operation over everything that can happen to a node."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from holdfast_client import (
    AttemptChanged,
    Client,
    Conflict,
    HeldBack,
    NotConfirmed,
    NotReimaged,
    OperationFailed,
    OperationLost,
    OperationUnfinished,
    Retries,
    following,
    reimaging,
)
from holdfast_client.errors import IoError
from holdfast_client.testing import FakeNode, Reimaging, Script

QUICK = Retries(attempts=8, seconds=5, base=0.01, cap=0.05)
IMAGE = "https://images.example/web.json"


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as node:
        yield node


def later(seconds: float, action: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_a_failure_is_told_from_a_loss_and_from_what_still_runs(node: FakeNode) -> None:
    node.scripts["pagecache.load"] = Script(fails_with="io-error", detail="The disk is gone.")
    node.scripts["manifest.build"] = Script(seconds=60)
    with node.client(retries=QUICK) as client:
        with pytest.raises(OperationFailed, match="The disk is gone") as failed:
            client.pagecache.load().wait(timeout=5)
        assert isinstance(failed.value.problem, IoError)
        build = client.manifests.build()
        with pytest.raises(OperationUnfinished) as unfinished:
            build.wait(timeout=0.3)
        assert unfinished.value.operation.state == "running"
        node.stop()
        began = time.monotonic()
        with pytest.raises(OperationLost, match="was running when last seen") as lost:
            build.wait(timeout=0.3)
        assert time.monotonic() - began < 3
        assert lost.value.operation.id == build.id
        node.start()
        build.cancel()
        with pytest.raises(OperationFailed, match="cancelled"):
            build.wait(timeout=5)


def test_an_operation_that_the_node_does_not_know_any_more_is_lost(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node.client(retries=QUICK) as client:
        # A node that is ready may still be about to find its records.
        late = client.pagecache.dump()
        kept = node.operations.pop(late.id)
        timer = later(0.3, lambda: node.operations.update({late.id: kept}))
        assert late.wait(timeout=20).state == "succeeded"
        timer.join()
        monkeypatch.setattr(following, "UNKNOWN_SECONDS", 0.3)
        operation = client.pagecache.dump()
        node.forget(operation.id)
        with pytest.raises(OperationLost, match="does not know"):
            operation.wait(timeout=30)
        # While its data volume is missing, a node may not know what it will know again.
        again = client.pagecache.dump()
        known = node.operations.pop(again.id)
        node.refuse("GET", "/readyz", "unavailable", "A root is missing.", times=1000)
        timer = later(0.8, lambda: node.operations.update({again.id: known}))
        assert again.wait(timeout=10).state == "succeeded"
        timer.join()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"])
def test_a_node_that_falls_silent_is_lost_by_the_deadline(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []

        def trickle() -> None:
            with suppress(OSError):
                while True:
                    connections.append(listener.accept()[0])
                    while answer:
                        connections[-1].sendall(answer)
                        time.sleep(0.1)

        threading.Thread(target=trickle, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        with Client(url, retries=QUICK) as client, pytest.raises(OperationLost):
            client.operations.attach("01M83VM0000000000000000000").wait(timeout=0.5)
        assert time.monotonic() - began < 5
        listener.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


def test_waiting_outlives_cuts_and_restarts(node: FakeNode) -> None:
    node.scripts["manifest.build"] = Script(seconds=0.8, result={"files": 3})

    def restart() -> None:
        node.stop()
        time.sleep(0.2)
        node.start()

    with node.client(retries=QUICK) as client:
        operation = client.manifests.build()
        node.cut("before", "after", "after")
        timer = later(0.3, restart)
        done = operation.wait(timeout=20)
        assert done.result == {"files": 3}
        timer.join()


def test_events_continue_after_a_restart(node: FakeNode) -> None:
    node.scripts["manifest.build"] = Script(seconds=0.8)

    def restart() -> None:
        node.stop()
        time.sleep(0.1)
        node.start()

    seen: list[str] = []
    with node.client(retries=QUICK) as client:
        operation = client.manifests.build()
        timer = later(0.3, restart)
        done = operation.wait(timeout=20, on_progress=lambda record: seen.append(record.state))
        timer.join()
        assert done.state == "succeeded"
        assert (seen[0], seen[-1]) == ("running", "succeeded")
        assert client.operations.attach(operation.id).wait(timeout=5).state == "succeeded"
        node.scripts["pagecache.load"] = Script(fails_with="io-error")
        assert [each.state for each in client.pagecache.load().events()][-1] == "failed"


def test_a_re_imaging_is_one_call_over_two_boots(node: FakeNode) -> None:
    node.reimaging = Reimaging(stage_seconds=0.2, down=0.2, imaging=0.4)
    states: list[str] = []
    with node.client(retries=QUICK) as client:
        done = client.reimage.run(IMAGE, timeout=30, on_change=states.append, confirm="auto")
    assert done.state == "succeeded"
    assert {"staged", "armed", "rebooting", "unreachable", "imaging"} <= set(states)
    posted = [(call.path.rpartition("/")[2], call.body) for call in node.calls if call.key]
    assert [step for step, _ in posted] == ["stage", "arm", "reboot"]
    assert posted[0][1] == {"descriptor": IMAGE, "confirm": "auto"}
    assert all(body == {"operation": done.id} for _, body in posted[1:])
    assert len({call.key for call in node.calls if call.key}) == 3


def test_a_lost_answer_at_each_step_changes_nothing(node: FakeNode) -> None:
    node.reimaging = Reimaging(down=0.05, imaging=0.1)
    with node.client(retries=QUICK) as client:
        node.cut("after")
        timer = later(0.02, lambda: node.cut("after", "before", "after", "after"))
        assert client.reimage.run(IMAGE, timeout=30).state == "succeeded"
        timer.join()
    assert len(node.operations) == 1


def test_another_process_continues_a_re_imaging(node: FakeNode) -> None:
    node.reimaging = Reimaging(stage_seconds=0.3, down=0.2, imaging=0.5)
    for timeout in (0.2, 0.5, 0.4):
        with (
            node.client(retries=QUICK) as client,
            suppress(OperationLost, OperationUnfinished),
        ):
            client.reimage.run(IMAGE, key="roll-17", timeout=timeout)
    with node.client(retries=QUICK) as client:
        assert client.reimage.run(IMAGE, key="roll-17", timeout=30).state == "succeeded"
        assert client.reimage.run(IMAGE, key="roll-17", timeout=30).state == "succeeded"
        with pytest.raises(ValueError, match="240"):
            client.reimage.run(IMAGE, key="x" * 250)
    assert len(node.operations) == 1
    done = [call.path.rpartition("/")[2] for call in node.calls if call.key]
    assert done.count("reboot") == 1


@pytest.mark.parametrize(("end", "error"), [("failed", NotReimaged), ("unconfirmed", NotConfirmed)])
def test_the_end_of_a_re_imaging_is_told(node: FakeNode, end: str, error: type[Exception]) -> None:
    node.reimaging = Reimaging(down=0.05, imaging=0.05, end=end)  # type: ignore[arg-type]

    async def run() -> None:
        async with node.async_client(retries=QUICK) as client:
            await client.reimage.run(IMAGE, timeout=30)

    with pytest.raises(OperationFailed) as failed:
        asyncio.run(run())
    assert isinstance(failed.value.problem, error)


def test_a_refused_step_ends_a_re_imaging_unless_it_is_for_now(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/v1/reimage/reboot"
    node.reimaging = Reimaging(down=0.05, imaging=0.05)
    monkeypatch.setattr(reimaging, "_HELD_SECONDS", 0.2)
    node.refuse("POST", path, "held-back", "The window is closed.", gate="window", retry_after=1)
    node.refuse("POST", path, "held-back", "Another node has the lock.", gate="fleet-lock")
    with node.client(retries=QUICK) as client:
        began = time.monotonic()
        assert client.reimage.run(IMAGE, timeout=30).state == "succeeded"
        assert time.monotonic() - began >= 1
        node.refuse("POST", "/v1/reimage/arm", "conflict", "Two disks have this serial number.")
        with pytest.raises(Conflict, match="serial number"):
            client.reimage.run(IMAGE, key="k", timeout=30)
        node.refuse("POST", path, "held-back", "The command ended with 1.", gate="before-reboot")
        with pytest.raises(HeldBack, match="ended with 1"):
            client.reimage.run(IMAGE, key="k", timeout=30)
        assert client.reimage.run(IMAGE, key="k", timeout=30).state == "succeeded"


def test_an_attempt_that_another_caller_disarmed_is_left_alone(node: FakeNode) -> None:
    node.refuse("POST", "/v1/reimage/reboot", "unavailable", "Later.", times=1000)
    with ThreadPoolExecutor(1) as pool, node.client(retries=QUICK) as client:
        running = pool.submit(client.reimage.run, IMAGE, timeout=30)
        while node.state != "armed":
            time.sleep(0.01)
        with node.client() as other:
            other.reimage.disarm()
        with pytest.raises(AttemptChanged, match="disarmed"):
            running.result(30)
    assert node.state == "staged"


def test_a_step_that_another_controller_took_meanwhile_is_no_failure(node: FakeNode) -> None:
    node.reimaging = Reimaging(down=0.05, imaging=0.05)
    with node.client(retries=QUICK) as client, node.client(retries=QUICK) as other:
        staged = other.reimage.stage(descriptor=IMAGE, idempotency_key="roll-18.stage")
        other.reimage.arm(operation=staged.id)

        def reboot_first(state: str) -> None:
            if state == "armed":
                other.reimage.reboot(operation=staged.id)
                node.refuse("POST", "/v1/reimage/reboot", "conflict", "It is rebooting.")

        done = client.reimage.run(IMAGE, key="roll-18", timeout=30, on_change=reboot_first)
        assert (done.id, done.state, node.boots) == (staged.id, "succeeded", 2)
