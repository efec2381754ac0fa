"""Nodes that fetch an image from each other: a herd, and peers that lie, vanish or dawdle."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast._engine import Progress
from holdfast.api.http.work import Pace
from holdfast.api.services import Services
from holdfast.config import load_settings
from holdfast.reimage.images import peers as asking
from holdfast.reimage.images import serving as pacing
from holdfast.reimage.images.fetch import fetch
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.images.peers import PeerAccess
from holdfast.reimage.images.retries import Patience
from holdfast.reimage.images.settings import access_of
from holdfast.reimage.images.sharing import ImageSharing
from holdfast.reimage.images.sources import Reach
from holdfast.reimage.images.suppliers import Least, Received
from tests.support.api import served
from tests.support.attempts import Node
from tests.support.certificates import Authority
from tests.support.contract import check_problem
from tests.support.fileserver import Behaviour, serving
from tests.support.harness import Daemon, run_cli
from tests.support.reimage import BODY, SHA256, UNCONFIRMED
from tests.support.waiting import until

MIB = 1 << 20
SIZE = 3 * MIB
PATIENT = Patience(first_seconds=0.01, most_seconds=0.02, give_up_seconds=60)
NETWORK = BODY | {"mode": "network"}
FETCHED = [
    {"source": "peer", "address": "the peer https://192.0.2.7:9918", "bytes": 2 * MIB},
    {"source": "origin", "address": "https://images.example/disk.raw", "bytes": MIB},
]
OPEN = {"serve_images": True, "serve_pressure_percent": 100}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Give an image and its descriptor."""
    file = tmp_path_factory.mktemp("image") / "disk.raw"
    file.write_bytes(random.Random(1).randbytes(2 * MIB) + bytes(MIB))
    assert run_cli("image", "describe", file).returncode == 0
    return file.read_bytes(), Path(f"{file}.json").read_bytes()


@dataclass
class Member:
    """A node of a herd: the daemon's HTTP server, and the code that stages."""

    url: str
    token: Path
    sharing: ImageSharing
    directory: Path
    received: Received

    def fetch(self, origin: str, descriptor: bytes, peers: Sequence[str], **access: Any) -> bytes:
        kept = self.directory / "descriptor.json"
        kept.write_bytes(descriptor)
        access = {"poll_seconds": 0.5, "token_file": self.token, **access}
        done = fetch(
            origin,
            self.directory,
            content=Descriptor.parse(descriptor).content,
            descriptor=kept,
            descriptor_sha256=hashlib.sha256(descriptor).hexdigest(),
            reach=Reach(),
            progress=Progress(),
            patience=PATIENT,
            access=PeerAccess(urls=peers, **access) if peers else None,
            sharing=self.sharing,
            received=self.received,
        )
        return done.read_bytes()

    def gave(self) -> dict[str, int]:
        """Return the bytes that came from each kind of source."""
        return dict(self.sharing.figures()[0])


@contextmanager
def member(base: Path, name: str, zone: str, **settings: Any) -> Iterator[Member]:
    base.mkdir()
    directory = base / "image-of-it"
    directory.mkdir()
    sharing = ImageSharing(enabled=True, here=lambda: (name, zone))
    sharing.offered = lambda: (directory, False)
    token = base / "images-token"
    with served(
        base, change=lambda services: replace(services, sharing=sharing), reimage=OPEN, **settings
    ) as server:
        token.write_text(server.secrets["images"])
        yield Member(server.url, token, sharing, directory, Received())


@pytest.mark.parametrize(("count", "zones"), [(6, 2)])
def test_a_herd_costs_the_origin_about_one_image_for_each_zone(
    described: tuple[bytes, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    zones: int,
) -> None:
    # However slow this machine is, nobody is given up.
    monkeypatch.setattr(asking, "_ANSWER_SECONDS", 600.0)
    monkeypatch.setattr(Least, "SECONDS", 600.0)
    content, descriptor = described
    origin = Behaviour({"/disk.raw": content}, {"/disk.raw": '"one"'})
    with ExitStack() as stack:
        url = f"{stack.enter_context(serving(origin))}/disk.raw"
        herd = [
            stack.enter_context(
                member(tmp_path / f"{number}", f"node-{number}", f"zone-{number % zones}")
            )
            for number in range(count)
        ]
        # Every server has its own tokens: one for all, as a fleet has it.
        for node in herd:
            file = node.token.parent / "tokens.json"
            file.write_bytes((herd[0].token.parent / "tokens.json").read_bytes())
            node.token.write_bytes(herd[0].token.read_bytes())
        peers = [node.url for node in herd]
        patient = {"stalled_seconds": 600.0}
        with ThreadPoolExecutor(len(herd)) as threads:
            fetched = list(
                threads.map(lambda node: node.fetch(url, descriptor, peers, **patient), herd)
            )
        assert all(data == content for data in fetched)
    cost = sum(node.gave().get("origin", 0) for node in herd)
    assert zones * SIZE <= cost <= 2 * zones * SIZE, [node.gave() for node in herd]
    assert sum(node.gave().get("peer", 0) for node in herd) == count * SIZE - cost
    assert sum(node.sharing.figures()[1] for node in herd) == count * SIZE - cost
    assert {asked.authorization for asked in origin.asked} == {None}
    copied = next(node for node in herd if node.gave() == {"peer": SIZE})
    assert all(
        each["address"] in {f"the peer {p}" for p in peers} for each in copied.received.listed()
    )


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Member]:
    with member(tmp_path / "me", "me", "a") as me:
        yield me


@pytest.mark.parametrize("trusted", [True, False])
def test_peers_are_reached_by_tls_as_the_settings_have_it(
    described: tuple[bytes, bytes], alone: Member, tmp_path: Path, *, trusted: bool
) -> None:
    content, descriptor = described
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    issued = authority.issue("node")
    tls = {
        "certificate": str(issued.certificate),
        "key": str(issued.key),
        "client_ca": str(authority.file),
    }
    origin = Behaviour({"/disk.raw": content})
    with (
        serving(origin) as url,
        member(tmp_path / "peer", "peer", "a", tls=tls) as near,
    ):
        assert near.url.startswith("https://")
        near.fetch(f"{url}/disk.raw", descriptor, [])
        ca_file = authority.file if trusted else other.file
        peers = {"urls": [near.url], "token_file": str(near.token), "ca_file": str(ca_file)}
        access = access_of(load_settings(None, {"tls": tls, "reimage": {"peers": peers}}))
        assert access is not None
        bounds: dict[str, Any] = {"token_file": access.token_file, "ca_file": access.ca_file}
        bounds |= {"certificate": access.certificate}
        found = alone.fetch(f"{url}/disk.raw", descriptor, access.urls, **bounds)
    assert found == content
    assert alone.gave() == ({"peer": SIZE} if trusted else {"origin": SIZE})


def peer(content: bytes, descriptor: bytes, **facts: Any) -> Behaviour:
    """Make what looks like a peer that has the image."""
    sha256 = Descriptor.parse(descriptor).content.sha256
    known = {
        "sha256": sha256,
        "size_bytes": len(content),
        "state": "staged",
        "present_bytes": len(content),
        "proven_bytes": len(content),
        "node_id": "another",
        "zone": "a",
        **facts,
    }
    path = f"/v1/images/{sha256}"
    return Behaviour({path: json.dumps(known).encode(), f"{path}/content": content})


def ranges(server: Behaviour) -> list[str | None]:
    return [request.range for request in server.asked if not request.path.startswith("/v1/images/")]


def test_the_next_source_resumes_where_a_peer_ended(
    described: tuple[bytes, bytes], alone: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Least, "SECONDS", 600.0)
    content, descriptor = described
    other = peer(content, descriptor)
    other.cut_after = MIB + 5
    origin = Behaviour({"/disk.raw": content}, {"/disk.raw": '"one"'})
    with serving(origin) as url, serving(other) as near:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near]) == content
    assert ranges(origin) == [f"bytes={MIB + 5}-"]
    assert alone.gave() == {"peer": MIB + 5, "origin": SIZE - MIB - 5}
    assert [each["source"] for each in alone.received.listed()] == ["peer", "origin"]
    assert all(request.authorization is None for request in origin.asked)
    assert all(request.authorization for request in other.asked)


def test_a_peer_that_falls_silent_is_left(
    described: tuple[bytes, bytes], alone: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Least, "SECONDS", 0.5)
    content, descriptor = described
    other = peer(content, descriptor)
    other.hang_after = MIB + 5
    origin = Behaviour({"/disk.raw": content}, {"/disk.raw": '"one"'})
    with serving(origin) as url, serving(other) as near:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near]) == content
    came = alone.gave().get("peer", 0)
    assert came <= MIB + 5
    assert ranges(origin) == [f"bytes={came}-" if came else None]
    assert alone.gave()["origin"] == SIZE - came


def test_a_peer_that_lies_costs_one_download_and_is_not_asked_again(
    described: tuple[bytes, bytes], alone: Member
) -> None:
    content, descriptor = described
    liar = peer(random.Random(2).randbytes(SIZE), descriptor)
    origin = Behaviour({"/disk.raw": content})
    with serving(origin) as url, serving(liar) as near:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near]) == content
    assert ranges(origin) == [None]
    assert [request.path.endswith("/content") for request in liar.asked].count(True) == 1
    assert alone.gave() == {"peer": SIZE, "origin": SIZE}


def _no_json(does: Behaviour) -> None:
    does.files = dict.fromkeys(does.files, b"<html>")


def _endless(does: Behaviour) -> None:
    does.files = dict.fromkeys(does.files, b" " * MIB)


def _elsewhere(does: Behaviour) -> None:
    does.redirects = dict.fromkeys(does.files, "http://127.0.0.1:1/secret")


def _refusing(does: Behaviour) -> None:
    does.statuses = [403] * 100


def _other_size(does: Behaviour) -> None:
    does.files = {
        path: data[:-1] if path.endswith("/content") else data for path, data in does.files.items()
    }


def _without_ranges(does: Behaviour) -> None:
    does.cut_after, does.no_ranges = MIB, True


@pytest.mark.parametrize(
    "fault", [_no_json, _endless, _elsewhere, _refusing, _other_size, _without_ranges]
)
def test_what_a_peer_answers_does_not_keep_the_image_away(
    described: tuple[bytes, bytes], alone: Member, fault: Callable[[Behaviour], None]
) -> None:
    content, descriptor = described
    odd = peer(content, descriptor)
    fault(odd)
    origin = Behaviour({"/disk.raw": content})
    with serving(origin) as url, serving(odd) as near:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near, "http://127.0.0.1:1"]) == content
    assert len(ranges(origin)) == 1


@pytest.mark.parametrize("state", ["waiting", "fetching", "copying"])
def test_a_peer_that_is_ahead_and_does_not_come_on_is_not_waited_for(
    described: tuple[bytes, bytes], alone: Member, state: str
) -> None:
    content, descriptor = described
    stuck = peer(content, descriptor, state=state, present_bytes=5, node_id="a")
    origin = Behaviour({"/disk.raw": content})
    with serving(origin) as url, serving(stuck) as near:
        bounds = {"poll_seconds": 0.05, "stalled_seconds": 0.3}
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near], **bounds) == content
    assert alone.gave() == {"origin": SIZE}
    assert len(stuck.asked) > 2


def test_a_peer_of_another_zone_is_for_when_the_origin_fails(
    described: tuple[bytes, bytes], alone: Member
) -> None:
    content, descriptor = described
    far = peer(content, descriptor, zone="b")
    origin = Behaviour({"/disk.raw": content})
    with serving(origin) as url, serving(far) as other:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [other]) == content
        assert alone.gave() == {"origin": SIZE}
        (alone.directory / "image").unlink()
        origin.cut_after = MIB
        assert alone.fetch(f"{url}/disk.raw", descriptor, [other]) == content
    assert alone.gave() == {"origin": SIZE + MIB, "peer": SIZE - MIB}


def test_mirrors_are_asked_when_the_origin_fails_and_resume(
    described: tuple[bytes, bytes], tmp_path: Path
) -> None:
    content, descriptor = described
    kept = tmp_path / "descriptor.json"
    kept.write_bytes(descriptor)
    received = Received()
    origin = Behaviour({"/disk.raw": content}, {"/disk.raw": '"one"'}, cut_after=MIB)
    mirror = Behaviour({"/disk.raw": content}, {"/disk.raw": '"two"'})
    gone = Behaviour({})
    with serving(origin) as url, serving(mirror) as other, serving(gone) as nothing:
        done = fetch(
            f"{url}/disk.raw",
            tmp_path,
            content=Descriptor.parse(descriptor).content,
            descriptor=kept,
            descriptor_sha256=hashlib.sha256(descriptor).hexdigest(),
            reach=Reach(),
            progress=Progress(),
            patience=PATIENT,
            mirrors=(f"{nothing}/disk.raw", f"{other}/disk.raw"),
            received=received,
        )
    assert done.read_bytes() == content
    assert [(request.range, request.if_range) for request in mirror.asked] == [
        (f"bytes={MIB}-", None)
    ]
    assert [(each["source"], each["bytes"]) for each in received.listed()] == [
        ("origin", MIB),
        ("mirror", SIZE - MIB),
    ]


@pytest.fixture
def staged(
    described: tuple[bytes, bytes], disk_dir: Path, start_daemon: Callable[..., Daemon]
) -> tuple[Node, str]:
    """Give a daemon that has an image staged, and the path of the image."""
    content, descriptor = described
    node = Node(disk_dir, start_daemon, reimage=OPEN)
    node.stage(fetched=FETCHED)
    where = node.state_dir / "images" / SHA256
    (where / "descriptor.json").write_bytes(descriptor)
    (where / "image").write_bytes(content)
    return node, f"/v1/images/{hashlib.sha256(content).hexdigest()}"


def test_a_staged_image_is_given_to_who_may_have_it(
    described: tuple[bytes, bytes], staged: tuple[Node, str]
) -> None:
    content, _ = described
    node, path = staged
    daemon = node.daemon
    check_problem(daemon.client(tcp=True).get(f"{path}/content"), 401, "unauthenticated")
    for scope in ("read", "operate"):
        for each in (path, f"{path}/content"):
            check_problem(daemon.client(scope).get(each), 403, "forbidden")
    http = daemon.client("images")
    check_problem(http.get("/v1/reimage"), 403, "forbidden")
    check_problem(http.get("/v1/operations"), 403, "forbidden")
    found = http.get(path).json()
    assert (found["state"], found["size_bytes"], found["present_bytes"]) == ("staged", SIZE, SIZE)
    assert found["node_id"] == daemon.http.get("/v1/node").json()["node_id"]
    assert http.get(f"{path}/content").content == content
    assert daemon.client("admin").get(f"{path}/content").content == content
    head = http.head(f"{path}/content")
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(SIZE))
    tag = head.headers["ETag"]
    for asked, extra, status, wanted in (
        (f"bytes={MIB}-", {}, 206, content[MIB:]),
        ("bytes=5-9", {"If-Range": tag}, 206, content[5:10]),
        (f"bytes={SIZE - 1}-{10 * SIZE}", {}, 206, content[-1:]),
        ("bytes=5-", {"If-Range": '"other"'}, 200, content),
        *((odd, {}, 200, content) for odd in ("bytes=-5", "bytes=1-2,4-5", "bytes=9-5", "x")),
        (f"bytes={SIZE}-", {}, 200, content),
    ):
        answer = http.get(f"{path}/content", headers={"Range": asked, **extra})
        assert (answer.status_code, answer.content) == (status, wanted), asked
        assert answer.headers["Content-Length"] == str(len(wanted))
        assert ("Content-Range" in answer.headers) == (status == 206)
    check_problem(http.get(f"/v1/images/{'0' * 64}"), 404, "not-found")
    check_problem(http.get(f"/v1/images/{SHA256}/content"), 404, "not-found")
    assert daemon.http.get("/v1/reimage").json()["fetched"] == FETCHED
    shown = daemon.cli("reimage", "show").stdout
    assert "2.00 MiB from the peer https://192.0.2.7:9918, 1.00 MiB from https://" in shown, shown
    metrics = daemon.http.get("/metrics").text
    assert "holdfast_image_served_bytes_total 0" not in metrics
    assert 'holdfast_image_received_bytes_total{source="peer"} 0.0' in metrics


def test_only_a_few_downloads_run_at_a_time(
    alone: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "SECONDS", 600.0)
    # Larger than what sockets hold, so that a download lasts until it is read.
    large = tmp_path / "large.raw"
    large.write_bytes(random.Random(3).randbytes(24 * MIB))
    assert run_cli("image", "describe", large).returncode == 0
    path = f"/v1/images/{hashlib.sha256(large.read_bytes()).hexdigest()}/content"
    Path(f"{large}.json").rename(alone.directory / "descriptor.json")
    large.rename(alone.directory / "image")
    alone.sharing.proven = alone.directory
    headers = {"Authorization": f"Bearer {alone.token.read_text()}"}
    reading = []  # an iterator that nobody has any more closes its connection
    with httpx.Client(base_url=alone.url, headers=headers, timeout=60, trust_env=False) as http:
        with ExitStack() as stack:
            for _ in range(4):
                answer = stack.enter_context(http.stream("GET", path))
                assert answer.status_code == 200
                reading.append(answer.iter_raw(1000))
                next(reading[-1])
            check_problem(http.get(path), 503, "unavailable")
        part = {"Range": "bytes=0-9"}
        until(lambda: http.get(path, headers=part).status_code == 206, what="a free turn")


@pytest.mark.parametrize(
    ("changed", "given"),
    [
        ({}, True),
        ({"restores": True}, False),
        ({"request": NETWORK}, False),
        ({"state": "staging"}, False),
        ({"image": None}, False),
    ],
)
def test_only_a_staged_image_is_given_and_never_the_old_system(
    described: tuple[bytes, bytes], tmp_path: Path, changed: dict[str, Any], given: bool
) -> None:
    content, descriptor = described

    def change(services: Services) -> Services:
        where = services.state_dir / "images" / SHA256
        where.mkdir(parents=True)
        (where / "descriptor.json").write_bytes(descriptor)
        (where / "image").write_bytes(content)
        (services.state_dir / "reimage").mkdir()
        job = UNCONFIRMED | {"state": "staged"} | changed
        (services.state_dir / "reimage/job.json").write_text(json.dumps(job))
        services.reimage.prepare()
        sharing = ImageSharing(enabled=True)
        sharing.offered = services.reimage.offered
        return replace(services, sharing=sharing)

    path = f"/v1/images/{hashlib.sha256(content).hexdigest()}"
    with served(tmp_path, change=change, reimage=OPEN) as server, server.tcp("images") as http:
        for each in (path, f"{path}/content"):
            assert http.get(each).status_code == (200 if given else 404)


def test_nothing_is_given_unless_the_settings_say_so(shared_daemon: Daemon) -> None:
    for path in (f"/v1/images/{SHA256}", f"/v1/images/{SHA256}/content"):
        problem = check_problem(shared_daemon.client("images").get(path), 404, "not-found")
        assert "reimage.serve_images" in problem["detail"]


async def _paced(pace: pacing.ServingPace, counts: Sequence[int]) -> None:
    for count in counts:
        await pace.take(count)


def test_serving_keeps_to_its_rate_and_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, slept = 100.0, 0
    file = tmp_path / "pressure"
    file.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull total=9\n")

    async def sleep(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + 1
        if slept == 3:
            file.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=900000\n")

    monkeypatch.setattr("holdfast.reimage.images.serving.asyncio.sleep", sleep)
    run = _run_to_end
    run(_paced(pacing.ServingPace(MIB, 100, file, lambda: now), [MIB] * 5))
    assert 104.5 <= now <= 105.0
    pace = pacing.ServingPace(1 << 40, 10, file, lambda: now)
    now, slept = 100.0, 0
    file.write_text("some total=5\n")
    run(_paced(pace, [1]))
    assert slept == 0
    file.write_text("some total=800000\n")
    now += 0.5
    # 0.8 s of 0.5 s were stalls; the third sleep sees another 0.1 s, and the fourth none.
    run(_paced(pace, [1]))
    assert slept >= 1
    assert now < 103


def _run_to_end(work: Any) -> None:
    """Run a coroutine that never really waits."""
    with suppress(StopIteration):
        while True:
            work.send(None)
