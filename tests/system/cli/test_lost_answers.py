"""The command line over connections that break: what was done is not done again."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_client.testing import FakeNode
from tests.support.command_line.cli import as_json, one_line
from tests.support.daemon.harness import run_cli


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as node:
        yield node


def test_an_answer_that_was_lost_is_asked_for_again_under_one_key(node: FakeNode) -> None:
    node.cut("after", "before")
    done = run_cli("pagecache", "dump", "--no-wait", "--socket", str(node.socket))
    assert done.returncode == 0, done.stderr
    assert list(node.operations) == [done.stdout.split()[0]]
    assert len({call.key for call in node.calls}) == 1
    assert len(node.calls) == 2  # and one was cut off before it was carried out


def test_a_daemon_that_refuses_is_asked_once(node: FakeNode) -> None:
    node.refuse("POST", "/v1/pagecache/dumps", "queue-full", "Too many wait.", retry_after=1)
    assert "too many wait" in one_line(run_cli("pagecache", "dump", "--socket", str(node.socket)))
    assert len(node.calls) == 1


def test_an_operation_is_watched_over_broken_connections(node: FakeNode) -> None:
    node.cut("after", "before")
    done = run_cli("pagecache", "dump", "--json", "--quiet", "--socket", str(node.socket))
    assert as_json(done)["state"] == "succeeded"
    assert len(node.operations) == 1


def test_what_is_not_holdfast_is_named(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\nno!"
    path = tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        message = one_line(run_cli("op", "list", "--socket", path))
        thread.join()
    assert "404 Not Found, which is no answer of holdfast" in message
    assert "--socket" in message
