"""Work on behalf of requests: bounded, stored nowhere, and over when its client is gone."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.operations.ids import encode, new_id
from tests.oracles.records import compress, decompress, header, line, lone_manifest, plain_record
from tests.oracles.records import encode as record
from tests.oracles.residency import PAGE
from tests.support.capabilities.building import build
from tests.support.capabilities.pagecache import DUMPS, upload
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.promptness import promptly
from tests.support.waiting import until

BUILDS = "/v1/manifests"
MANY = 1 << 30
"""Pages that take minutes to write out, and fewer than any memory could hold."""


def put(daemon: Daemon, content: bytes, dump_id: str | None = None) -> httpx.Response:
    return daemon.http.put(f"{DUMPS}/{dump_id or new_id()}/content", content=content)


def claimed(pages: int) -> bytes:
    """Make a small dump that claims very many pages."""
    return record(header(), [line("a", pages * PAGE)], bytes=pages * PAGE)


@contextmanager
def asking(daemon: Daemon, path: str, scope: str = "read") -> Iterator[socket.socket]:
    """Ask over TCP, and read nothing of the answer."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", daemon.port))
        token = daemon.tokens.secrets[scope]
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        client.sendall(head.encode())
        yield client


def began(client: socket.socket) -> None:
    """Wait for the first bytes of an answer."""
    client.settimeout(20)
    assert client.recv(12) == b"HTTP/1.1 200"


def ticks(daemon: Daemon) -> int:
    """Return the processor time of the daemon in hundredths of a second."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def idle(daemon: Daemon) -> bool:
    before = ticks(daemon)
    time.sleep(0.3)  # what is measured is that nothing happens meanwhile
    return ticks(daemon) - before < 8


def files(daemon: Daemon) -> dict[Path, int]:
    found = (path for path in daemon.state_dir.rglob("*") if path.is_file())
    return {path: path.stat().st_size for path in found if "sqlite" not in path.name}


def test_a_dump_of_more_pages_than_any_memory_holds_is_refused(daemon: Daemon) -> None:
    for content in (
        claimed((1 << 51) - 1),
        claimed((1 << 36) + 1),
        record(
            header(),
            [line("a", PAGE << 36), line("b", PAGE)],
            bytes=PAGE << 36,
        ),
    ):
        response = put(daemon, content)
        assert response.status_code == 422, response.text
        assert "pages that any memory could hold" in response.json()["detail"]
    assert daemon.http.get(DUMPS).json() == {"dumps": [], "damaged": []}


def test_a_dump_too_large_for_happycache_is_said_to_be(daemon: Daemon) -> None:
    dump = upload(daemon, claimed(1 << 36))
    response = daemon.http.get(f"{DUMPS}/{dump}/content", params={"format": "happycache"})
    assert response.status_code == 422, response.text
    assert "take the record file itself" in response.json()["detail"]


def test_a_conversion_ends_with_its_client(daemon: Daemon) -> None:
    dump = upload(daemon, claimed(MANY))
    path = f"{DUMPS}/{dump}/content?format=happycache"
    before = files(daemon)
    with asking(daemon, path) as client:
        began(client)
        assert files(daemon) == before
    until(lambda: idle(daemon), what="the end of the work")
    # Nobody uses the record any more.
    assert daemon.http.delete(f"{DUMPS}/{dump}").status_code == 204


def test_readers_that_take_nothing_cost_no_space_and_hold_nobody_up(daemon: Daemon) -> None:
    write_file(daemon.root / "file", PAGE)
    dump = upload(daemon, claimed(MANY))
    before = files(daemon)
    path = f"{DUMPS}/{dump}/content?format=happycache"
    with ExitStack() as stack:
        # Which of several gets a place first is not known.
        began(stack.enter_context(asking(daemon, path)))
        for _ in range(11):
            stack.enter_context(asking(daemon, path))
        # Others' work has places of its own, also for conversions.
        manifest = build(daemon).id
        text = daemon.http.get(f"{BUILDS}/{manifest}/content", params={"format": "jsonl"})
        assert b'"path":"file"' in text.content
        assert daemon.http.post("/v1/reimage/disarm").status_code == 409
        assert daemon.http.get(DUMPS).status_code == 200
        daemon.http.delete(f"{BUILDS}/{manifest}")
        after = {name: size for name, size in files(daemon).items() if "audit" not in name.name}
        assert {name for name in after if name not in before} == set()


def test_the_daemon_ends_in_time_whatever_it_does_for_requests(daemon: Daemon) -> None:
    dump = upload(daemon, claimed(MANY))
    path = f"{DUMPS}/{dump}/content?format=happycache"
    with ExitStack() as stack:
        for scope in ("read", "admin"):
            began(stack.enter_context(asking(daemon, path, scope)))
        for scope in ("read", "admin") * 4:
            stack.enter_context(asking(daemon, path, scope))
        stack.enter_context(_sending(daemon, new_id()))
        with promptly(5):
            assert daemon.stop(20) == 0


def test_a_record_that_turns_out_damaged_breaks_the_answer_off(daemon: Daemon) -> None:
    lines = [line(f"{nth:08}", PAGE) for nth in range(60_000)]
    plain = plain_record(header(), lines, bytes=PAGE * len(lines), files=len(lines))
    cut = plain[: plain.rindex(b"\n", 0, -1) + 1]
    dump = upload(daemon, compress(plain))
    url = f"{DUMPS}/{dump}/content"
    whole = daemon.http.get(url, params={"format": "happycache"})
    assert whole.status_code == 200
    assert "content-length" not in whole.headers
    (stored,) = daemon.state_dir.glob("dumps/*.zst")
    # Such damage is not noticed until it is read.
    status, size = stored.stat(), stored.stat().st_size
    torn = compress(cut)[: size - 4]
    with stored.open("r+b") as file:
        file.write(torn + bytes(size - len(torn)))
    os.utime(stored, ns=(status.st_atime_ns, status.st_mtime_ns))
    daemon.may_log_tracebacks = True
    with pytest.raises(httpx.RemoteProtocolError):
        daemon.http.get(url, params={"format": "happycache"})


@contextmanager
def _sending(daemon: Daemon, dump_id: str, scope: str = "operate") -> Iterator[socket.socket]:
    """Begin an upload, and send only a part of it."""
    with socket.socket() as client:
        client.connect(("127.0.0.1", daemon.port))
        token = daemon.tokens.secrets[scope]
        client.sendall(
            f"PUT {DUMPS}/{dump_id}/content HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
            + bytes(2 << 20)
        )
        yield client


def test_uploads_are_bounded_and_go_with_their_clients(daemon: Daemon) -> None:
    dumps = daemon.state_dir / "dumps"

    def received(count: int) -> Callable[[], bool]:
        return lambda: len(list(dumps.glob(".*.upload"))) == count

    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(_sending(daemon, new_id()))
        until(received(2), what="two uploads")
        third = stack.enter_context(_sending(daemon, new_id()))
        third.settimeout(30)
        # Another caller has turns left, and the third of this one none.
        upload(daemon, record(header(), [line("a", PAGE)]))
        answer = third.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert b"retry-after: 5" in answer.lower()
        assert received(2)()
    until(received(0), what="the end of all uploads")


class TestLatest:
    def test_it_is_the_newest_that_was_made_here(self, daemon: Daemon) -> None:
        small = record(header(daemon.root), [line("a", PAGE)])
        uploaded = upload(daemon, small)
        for answer in (
            daemon.http.get(f"{DUMPS}/latest"),
            daemon.http.post("/v1/pagecache/loads", json={}),
            daemon.http.get(f"{DUMPS}/latest/content"),
        ):
            assert answer.status_code == 404, answer.text
            assert "one that was uploaded is named by its id" in answer.json()["detail"]
        made = daemon.run(DUMPS, {})["dump"]
        later = upload(daemon, small)
        assert daemon.http.get(f"{DUMPS}/latest").json()["id"] == made
        listed = daemon.http.get(DUMPS).json()["dumps"]
        assert [(record["id"], record["latest"]) for record in listed] == [
            (later, False),
            (made, True),
            (uploaded, False),
        ]

    @pytest.mark.parametrize("kind", [DUMPS, BUILDS])
    def test_an_id_of_the_future_is_refused(self, daemon: Daemon, kind: str) -> None:
        now = time.time_ns() // 1_000_000
        for ahead, refused in ((30, False), (70, True), (10**9, True)):
            name = encode((now + ahead * 1000) << 80)
            response = daemon.http.put(f"{kind}/{name}/content", content=b"x")
            assert response.status_code == 422
            assert ("ahead of this node's clock" in response.json()["detail"]) is refused
        response = daemon.http.put(f"{kind}/7ZZZZZZZZZZZZZZZZZZZZZZZZZ/content", content=b"x")
        assert "ahead of this node's clock" in response.json()["detail"]

    def test_uploads_and_records_made_here_are_kept_apart(
        self, start_daemon: Callable[..., Daemon]
    ) -> None:
        daemon = start_daemon(pagecache={"dumps_kept": 2})
        made = [daemon.run(DUMPS, {})["dump"] for _ in range(3)]
        uploaded = [upload(daemon, record(header(), [line("a", PAGE)])) for _ in range(4)]
        listed = {dump["id"] for dump in daemon.http.get(DUMPS).json()["dumps"]}
        assert listed == {*made[1:], *uploaded[2:]}

    def test_deleting_it_by_that_name_says_which_one_it_is(self, daemon: Daemon) -> None:
        write_file(daemon.root / "file", PAGE)
        assert daemon.http.delete(f"{DUMPS}/latest").status_code == 404
        made = daemon.run(DUMPS, {})["dump"]
        manifest = build(daemon).id
        for path, name, command in (
            (DUMPS, made, ("pagecache", "delete", "latest")),
            (BUILDS, manifest, ("manifest", "delete", "latest")),
        ):
            response = daemon.http.delete(f"{path}/latest")
            assert response.status_code == 422, response.text
            assert f"the latest now is {name}" in response.json()["detail"]
            done = daemon.cli(*command)
            assert done.returncode == 1
            assert f"the latest now is {name}" in done.stderr
        assert daemon.http.get(f"{DUMPS}/{made}").status_code == 200


def peak(daemon: Daemon) -> int:
    """Return the most memory that the daemon has had since it was last asked, in bytes."""
    process = Path(f"/proc/{daemon.pid}")
    status = (process / "status").read_text()
    (process / "clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.slow
def test_a_comparison_of_what_has_nothing_in_common_takes_little_memory(daemon: Daemon) -> None:
    count = 1_000_000
    names = []
    for prefix, first in (("l", 0), ("r", count // 2)):
        names.append(new_id())
        response = daemon.http.put(
            f"{BUILDS}/{names[-1]}/content", content=lone_manifest(prefix, count, first)
        )
        assert response.status_code == 201, response.text
    peak(daemon)
    body: dict[str, Any] = {"left": names[0], "right": names[1]}
    result = daemon.run(f"{BUILDS}/comparisons", body, seconds=300)
    assert (result["moved"], result["only_left"], result["only_right"]) == (count // 2,) * 3
    assert peak(daemon) < 260 << 20


def test_what_is_asked_in_threads_that_are_all_busy_leaves_cancel_free(daemon: Daemon) -> None:
    """Each kind of work has threads of its own: lists that hang hold no cancel up."""
    write_file(daemon.root / "file", PAGE)
    fifo = daemon.state_dir / "dumps" / f"{new_id()}.dump.zst"
    os.mkfifo(fifo)  # a reader of a record of this name waits for a writer
    try:
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(asking(daemon, DUMPS))
            operation = daemon.start(BUILDS, {})
            client = daemon.client(seconds=5)
            response = client.post(f"/v1/operations/{operation['id']}/cancel")
            assert response.status_code == 202, response.text
    finally:
        fifo.unlink()
        daemon.kill()


def test_reports_are_streamed_too(daemon: Daemon) -> None:
    write_file(daemon.root / "file", PAGE)
    manifest = build(daemon).id
    write_file(daemon.root / "file", PAGE, seed=2)
    operation = daemon.finish(daemon.start(f"{BUILDS}/{manifest}/verifications", {}))
    before = files(daemon)
    url = f"{BUILDS}/reports/{operation['id']}"
    text = daemon.http.get(url, params={"format": "jsonl"})
    native = daemon.http.get(url, params={"format": "native"})
    assert decompress(native.content) == text.content
    assert set(files(daemon)) == set(before)
