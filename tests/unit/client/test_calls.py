"""Calls of the client against a fake node: retries, keys, problems, and what is not retried."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_client import (
    Client,
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InvalidRequest,
    NodeImaging,
    NotFound,
    Operation,
    QueueFull,
    Retries,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
    UnknownField,
    Unreachable,
)
from holdfast_client.testing import FakeNode

QUICK = Retries(attempts=8, seconds=10, base=0.01, cap=0.05)


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as node:
        yield node


@pytest.fixture
def client(node: FakeNode) -> Iterator[Client]:
    with node.client(retries=QUICK) as client:
        yield client


def test_a_call_that_is_cut_off_is_made_again_under_one_key(node: FakeNode, client: Client) -> None:
    node.cut("after", "before", "after")
    operation = client.pagecache.dump(root="/mnt/data")
    assert list(node.operations) == [operation.id]
    keys = [call.key for call in node.calls]
    assert len(keys) == 3  # and one was cut off before it was carried out
    assert len(set(keys)) == 1
    assert node.calls[0].body == {"root": "/mnt/data"}
    other = client.pagecache.dump(root="/mnt/data")
    assert other.id != operation.id
    assert node.calls[-1].key not in keys


def test_the_key_of_the_caller_is_used(node: FakeNode, client: Client) -> None:
    first = client.pagecache.dump(idempotency_key="mine")
    assert client.pagecache.dump(idempotency_key="mine").id == first.id
    with pytest.raises(IdempotencyMismatch):
        client.pagecache.dump(on_denied="skip", idempotency_key="mine")
    assert len(node.operations) == 1


def test_the_budget_of_retries_ends() -> None:
    retries = Retries(attempts=3, seconds=10, base=0.01, cap=0.01)
    with FakeNode() as node, node.client(retries=retries) as client:
        node.cut("before", "before", "before", "before", "before")
        with pytest.raises(Unreachable, match="broke"):
            client.pagecache.dump()
        assert len(node.cuts) == 2
        node.cuts.clear()
        node.stop()
        with pytest.raises(Unreachable, match="cannot connect") as refused:
            client.node.version()
        assert not refused.value.sent
    retries = Retries(attempts=1000, seconds=0.3, base=0.05, cap=0.05)
    with FakeNode() as node, node.client(retries=retries) as client:
        node.stop()
        began = time.monotonic()
        with pytest.raises(Unreachable):
            client.node.version()
        assert time.monotonic() - began < 5


def test_pauses_have_full_jitter() -> None:
    retries = Retries(base=1.0, cap=4.0)
    pauses = [retries.pause(3) for _ in range(500)]
    assert min(pauses) < 0.4
    assert 3.6 < max(pauses) <= 4.0
    assert all(retries.pause(1) <= 1.0 for _ in range(100))
    assert all(retries.pause(100_000) <= 4.0 for _ in range(100))


def test_a_node_that_asks_to_wait_is_given_time(node: FakeNode, client: Client) -> None:
    node.refuse("POST", "/v1/pagecache/dumps", "unavailable", "The daemon stops.", retry_after=1)
    began = time.monotonic()
    client.pagecache.dump()
    assert time.monotonic() - began >= 1
    node.refuse("POST", "/v1/pagecache/dumps", "queue-full", "Too many.", retry_after=3600)
    with pytest.raises(QueueFull) as full:
        client.pagecache.dump()
    assert full.value.retry_after == 3600


def test_problems_are_exceptions_with_their_members(node: FakeNode, client: Client) -> None:
    errors = [{"field": "synk", "message": "is not a known field"}]
    node.refuse("GET", "/v1/tuning", "unknown-field", "It is not known.", errors=errors)
    with pytest.raises(UnknownField, match="It is not known") as unknown:
        client.tuning.show()
    assert isinstance(unknown.value, InvalidRequest)
    assert unknown.value.errors == errors
    node.refuse("POST", "/v1/pagecache/loads", "conflict", "It runs.", operation="01X")
    with pytest.raises(Conflict) as conflict:
        client.pagecache.load()
    assert conflict.value.problem["operation"] == "01X"
    node.refuse("GET", "/v1/node", "forbidden", "No.")
    with pytest.raises(Forbidden):
        client.node.show()
    node.refuse("GET", "/readyz", "unavailable", "It is not ready.", reasons=["a root is missing"])
    with pytest.raises(Unavailable) as unready:
        client.node.readiness()
    assert unready.value.problem["reasons"] == ["a root is missing"]
    assert len(node.calls) == 4  # none of these was repeated


def test_a_token_that_does_not_count_is_not_tried_again() -> None:
    with FakeNode(tcp=True) as node:
        stranger = Client(node.url, token="wrong", retries=QUICK)
        with stranger as client, pytest.raises(Unauthenticated):
            client.node.show()
        assert len(node.calls) == 1


def test_a_deletion_whose_answer_was_lost_is_done(node: FakeNode, client: Client) -> None:
    path = "/v1/pagecache/dumps/01M83VM0000000000000000000"
    node.cut("after")
    client.pagecache.delete_dump("01M83VM0000000000000000000")
    node.refuse("DELETE", path, "not-found", "There is none.")
    with pytest.raises(NotFound):
        client.pagecache.delete_dump("01M83VM0000000000000000000")


def test_an_upload_that_may_have_been_stored_is_not_sent_again(
    node: FakeNode, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "dump.zst"
    file.write_bytes(b"x" * 1_000_000)
    node.cut("before", "before")
    with pytest.raises(Unreachable) as lost:
        client.pagecache.upload_dump("01M83VM0000000000000000000", file)
    assert lost.value.sent
    assert len(node.cuts) == 1


def test_ids_do_not_lead_elsewhere(client: Client) -> None:
    for name in ("", "..", "../node", "a/b", "a?b", "a b", "é"):
        with pytest.raises(ValueError, match="not an id"):
            client.operations.get(name)


def test_a_token_is_not_sent_in_plain_text() -> None:
    for url in (
        "http://node-1:9918",
        "http://192.0.2.1/",
        "ftp://node-1",
        "node-1:9918",
        "https://",
    ):
        with pytest.raises(ValueError, match="https"):
            Client(url)
    with pytest.raises(ValueError, match="not by both"):
        Client("https://node-1", socket="/run/x")


def test_the_imager_and_strangers_are_told_apart(node: FakeNode, client: Client) -> None:
    node.imaging = True
    assert client.reimage.show()["state"] == "imaging"
    with pytest.raises(NodeImaging):
        client.pagecache.dump()
    node.imaging = False
    node.answers["GET", "/v1/node"] = {"host": "a"}
    assert dict(client.node.show()) == {"host": "a"}
    with stranger(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm>") as port:
        other = Client(f"http://127.0.0.1:{port}", retries=QUICK)
        with other, pytest.raises(UnexpectedAnswer):
            other.node.show()


def test_without_an_event_loop_and_with_one(node: FakeNode) -> None:
    async def awaited() -> str:
        async with node.async_client(retries=QUICK) as client:
            node.cut("after", "before")
            operation = await client.pagecache.dump()
            done = await operation.wait(timeout=5)
            seen = [each.state async for each in operation.events()]
            assert seen[-1] == "succeeded"
            assert (await client.operations.get(done.id)).final
            with pytest.raises(NotFound):
                await client.operations.get("01M83VM0000000000000000000")
            first, second = await asyncio.gather(
                client.pagecache.load(), client.manifests.build(root="/mnt/data")
            )
            assert {first.kind, second.kind} == {"pagecache.load", "manifest.build"}
            return done.state

    assert asyncio.run(awaited()) == "succeeded"
    assert len(node.operations) == 3


def test_a_client_within_an_event_loop_may_still_block(client: Client) -> None:
    async def blocking() -> Operation:
        return client.pagecache.dump().wait(timeout=5)

    assert asyncio.run(blocking()).state == "succeeded"


class stranger:  # noqa: N801 - used as a function
    """Something that answers one connection with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> int:
        threading.Thread(target=self._serve, daemon=True).start()
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *_exception: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self._answer)
