"""The client of the unix socket against a daemon that breaks off, or answers before it should."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.cli.run.client import Api, ConnectionLostError, ProblemError, Target

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TRUNCATED = {
    "length": HEAD + b"Content-Length: 100\r\n\r\n" + b"{" * 10,
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"{" * 10,
    "end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"a\r\n" + b"{" * 10 + b"\r\n",
    "head": HEAD,
    "nothing": b"",
}


@contextmanager
def answering(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[Api]:
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
        yield Api(Target(path))
        thread.join()


@pytest.mark.parametrize("how", TRUNCATED)
def test_half_an_answer_is_not_taken_for_a_whole_one(tmp_path: Path, how: str) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(TRUNCATED[how])

    with answering(tmp_path / "whole", answer) as api, pytest.raises(ConnectionLostError):
        api.get("/v1/node")
    with answering(tmp_path / "pieces", answer) as api, pytest.raises(ConnectionLostError):  # noqa: SIM117
        with api.stream("/v1/node", accept="*/*") as response:
            list(response.pieces())


def test_a_refusal_during_an_upload_is_what_the_caller_hears(tmp_path: Path) -> None:
    body = b'{"title": "Too large", "status": 413, "detail": "It is larger than accepted."}'

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 10)
        connection.sendall(
            b"HTTP/1.1 413 Too Large\r\nContent-Type: application/problem+json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        connection.shutdown(socket.SHUT_RD)

    with answering(tmp_path / "s", answer) as api, pytest.raises(ProblemError, match="larger"):
        api.put_stream("/v1/x", iter([b"x" * (1 << 16)] * 100), "application/octet-stream")


def test_an_error_of_what_is_uploaded_is_not_the_connections(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise FileNotFoundError(2, "No such file or directory", "/gone")

    def answer(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass

    with answering(tmp_path / "s", answer) as api, pytest.raises(FileNotFoundError):
        api.put_stream("/v1/x", pieces(), "application/octet-stream")
