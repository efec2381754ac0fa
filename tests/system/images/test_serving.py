"""The staged image, served to other nodes: to whom, how many at a time and how fast."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.api.http.work import Pace
from holdfast.api.services import Services
from holdfast.reimage.images import serving as pacing
from holdfast.reimage.service import Reimage
from tests.support.capabilities.reimage import BODY, SHA256, UNCONFIRMED
from tests.support.daemon.api import served
from tests.support.daemon.attempts import Node
from tests.support.daemon.contract import check_problem
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.disks.image_herd import MIB, OPEN, SIZE, Member, alone, described
from tests.support.waiting import until

__all__ = ["alone", "described"]

NETWORK = BODY | {"mode": "network"}
FETCHED = [
    {"source": "peer", "address": "the peer https://192.0.2.7:9918", "bytes": 2 * MIB},
    {"source": "origin", "address": "https://images.example/disk.raw", "bytes": MIB},
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
        reimage = services.capability(Reimage)
        reimage.prepare()
        reimage.sharing.enabled = True
        return services

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
