# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Problems as sentences, and calls over a socket that breaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.holdfast.agent.plugins.module_utils import node as module


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        ({"detail": "It is\narmed."}, "It is armed."),
        ({"title": "Conflict"}, "Conflict"),
        ({}, "The answer is 409."),
        (
            {"detail": "Two are wrong.", "errors": [{"field": "a", "message": "must be a list"}]},
            "Two are wrong. `a` must be a list.",
        ),
        (
            {"detail": "`a` must be set.", "errors": [{"field": "a", "message": "must be set"}]},
            "`a` must be set.",
        ),
    ],
)
def test_a_problem_is_one_sentence(problem: dict, sentence: str) -> None:
    assert module.sentence_of(problem, 409) == sentence


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """Answer one connection after the other with bytes, and hang up."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection = listener.accept()[0]
                with connection:
                    request = b""
                    end = b"\r\n\r\n"
                    while not request.endswith(end):
                        request += connection.recv(65536)
                        end = b"{}" if request.startswith(b"POST") else end
                    requests.append(request)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join()


GOOD = b'HTTP/1.1 202 Accepted\r\nContent-Length: 12\r\n\r\n{"id": "01"}'


def test_each_attempt_has_the_key_that_was_made_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "pause_before", lambda failures: 0.0)
    cuts = [GOOD[:size] for size in (0, 10, 24, 30, len(GOOD) - 3)]
    with answering(tmp_path / "s", *cuts, GOOD) as requests:
        answer = module.Node(str(tmp_path / "s"), 30).post("/v1/manifests", {"root": None})
    assert answer.document == {"id": "01"}
    keys = {line for each in requests for line in each.splitlines() if b"Idempotency" in line}
    assert (len(requests), len(keys)) == (6, 1)
    assert all(each.endswith(b"{}") for each in requests)


def test_a_refusal_is_not_repeated(tmp_path: Path) -> None:
    body = b'{"type": "/problems/conflict", "detail": "No.", "status": 409}'
    head = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n" % len(body)
    with answering(tmp_path / "s", head + body), pytest.raises(module.NodeError) as refused:
        module.Node(str(tmp_path / "s"), 30).get("/v1/node")
    assert (refused.value.slug, str(refused.value)) == ("conflict", "No.")
    assert not refused.value.transient
