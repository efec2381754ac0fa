"""The client library over a unix socket whose other end breaks off, or answers too early."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast_client import Client, ProblemError, Retries, Unreachable

RECORD = "01M83VM0000000000000000000"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TRUNCATED = {
    "length": HEAD + b"Content-Length: 100\r\n\r\n" + b"{" * 10,
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"{" * 10,
    "end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"a\r\n" + b"{" * 10 + b"\r\n",
    "head": HEAD,
    "nothing": b"",
}


@contextmanager
def answering(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[Client]:
    """Serve one connection, and close it after `answer`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Client(socket=path, retries=Retries(attempts=1))
        thread.join()


@pytest.mark.parametrize("how", TRUNCATED)
def test_half_an_answer_is_not_taken_for_a_whole_one(tmp_path: Path, how: str) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(TRUNCATED[how])

    with answering(tmp_path / "whole", answer) as client, pytest.raises(Unreachable):
        client.node.show()
    with answering(tmp_path / "pieces", answer) as client, pytest.raises(Unreachable):  # noqa: SIM117
        with client.manifests.download(RECORD) as pieces:
            list(pieces)


def test_a_refusal_during_an_upload_is_what_the_caller_hears(tmp_path: Path) -> None:
    body = b'{"title": "Too large", "status": 413, "detail": "It is larger than accepted."}'

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 10)
        connection.sendall(
            b"HTTP/1.1 413 Too Large\r\nContent-Type: application/problem+json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        connection.shutdown(socket.SHUT_RD)

    with answering(tmp_path / "s", answer) as client, pytest.raises(ProblemError, match="larger"):
        client.manifests.upload(RECORD, iter([b"x" * (1 << 16)] * 100))


def test_an_error_of_what_is_uploaded_is_not_the_connections(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise FileNotFoundError(2, "No such file or directory", "/gone")

    def answer(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass

    with answering(tmp_path / "s", answer) as client, pytest.raises(FileNotFoundError):
        client.manifests.upload(RECORD, pieces())
