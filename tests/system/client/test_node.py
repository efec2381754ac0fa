"""The client library against the real daemon: cut connections, restarts, certificates."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast_client import (
    AsyncClient,
    Client,
    Conflict,
    HoldfastError,
    NodeImaging,
    NotFound,
    OperationFailed,
    OutsideRoots,
    Retries,
    Unreachable,
)
from holdfast_client.following import Patience
from tests.support.daemon.attempts import MINE, Node
from tests.support.daemon.harness import Daemon
from tests.support.daemon.recorded_helper import recorded_helper
from tests.support.machine.disk import write_file
from tests.support.servers.certificates import Authority
from tests.support.servers.cutting import cutting_proxy
from tests.support.servers.imager_status import build_imager_status, imager_status
from tests.support.waiting import until

CUTS = int(os.environ.get("HOLDFAST_TEST_CUTS", "36"))
"""Connections to break; 1000 take a few minutes."""
PERSISTENT = Retries(attempts=200, seconds=60, base=0.002, cap=0.02)


@pytest.fixture
def client(shared_daemon: Daemon) -> Iterator[Client]:
    with Client(socket=shared_daemon.socket) as client:
        yield client


def test_routes_of_each_kind(client: Client, shared_daemon: Daemon, tmp_path: Path) -> None:
    assert client.node.version()["api_level"] >= 1
    assert client.node.readiness()["status"] == "ready"
    assert "holdfast_ready" in client.node.metrics()
    assert "curl" in client.node.overview()
    write_file(shared_daemon.root / "a", 1 << 20)
    manifest = client.manifests.build().wait(timeout=60)
    assert manifest.outcome == "ok"
    assert manifest.result is not None
    name = str(manifest.result["manifest"])
    assert client.manifests.get(name)["id"] == name
    with client.manifests.download("latest", accept="text/plain") as pieces:
        assert b"a" in b"".join(pieces)
    file = tmp_path / "manifest.zst"
    with client.manifests.download(name) as pieces:
        file.write_bytes(b"".join(pieces))
    copy = name[:-1] + ("0" if name[-1] != "0" else "1")
    assert client.manifests.upload(copy, file)["id"] == copy
    client.manifests.delete(copy)
    with pytest.raises(NotFound):
        client.manifests.delete(copy)
    with pytest.raises(OutsideRoots) as outside:
        client.pagecache.evict(paths=["/etc"])
    assert outside.value.errors[0]["field"].startswith("paths")
    seen = [each.state for each in client.manifests.verify("latest").events(timeout=60)]
    assert seen[-1] == "succeeded"
    events = client.tuning.events()
    assert client.reimage.show()["state"] == "idle"
    events.close()  # type: ignore[attr-defined]


def test_one_surface_over_the_socket_and_a_port(shared_daemon: Daemon) -> None:
    async def over_both() -> list[str]:
        token = shared_daemon.tokens.secrets["operate"]
        async with (
            AsyncClient(socket=shared_daemon.socket) as near,
            AsyncClient(shared_daemon.url, token=token) as far,
        ):
            operations = await asyncio.gather(near.pagecache.dump(), far.manifests.build())
            done = await asyncio.gather(*(each.wait(timeout=60) for each in operations))
            return [each.data["actor"].partition(":")[0] for each in done]

    assert asyncio.run(over_both()) == ["uid", "token"]


def test_no_operation_is_started_twice_over_cut_connections(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(operations={"keep": 100_000})
    token = daemon.tokens.secrets["operate"]
    started: list[str] = []
    with cutting_proxy(daemon.port, seed=19) as proxy:
        client = Client(f"http://127.0.0.1:{proxy.port}", token=token, retries=PERSISTENT)
        with client, Client(socket=daemon.socket) as direct:
            while proxy.cuts < CUTS:
                operation = client.pagecache.dump()
                started.append(operation.wait(timeout=60).id)
            made: list[str] = []
            cursor = None
            while cursor is not None or not made:
                page = direct.operations.list(limit=1000, cursor=cursor)
                made += [each["id"] for each in page["operations"]]
                cursor = page["next"]
    assert sorted(made) == sorted(started)
    assert len(started) >= CUTS // 10


def test_a_step_of_a_re_imaging_is_taken_once_over_cut_connections(
    disk_dir: Path, start_daemon: Callable[..., Daemon]
) -> None:
    with recorded_helper(disk_dir / "helper") as helper:
        node = Node(disk_dir, start_daemon, helper=str(disk_dir / "helper"))
        node.stage()
        token = node.daemon.tokens.secrets["admin"]
        with cutting_proxy(node.daemon.port, seed=7) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            with Client(url, token=token, retries=PERSISTENT) as client:
                rounds = 0
                while proxy.cuts < CUTS // 6:
                    assert client.reimage.arm(operation=MINE)["state"] == "armed"
                    assert client.reimage.disarm(operation=MINE)["state"] == "staged"
                    rounds += 1
                client.reimage.arm(operation=MINE)
                assert client.reimage.reboot(operation=MINE)["state"] == "rebooting"
                with pytest.raises(Conflict) as other:
                    client.reimage.arm(operation="01M83VKATAZXB97BQKR2MA3A5C")
                assert other.value.problem["operation"] == MINE
        assert helper.calls("arm") == rounds + 1
        assert helper.calls("disarm") == rounds
        assert helper.calls("reboot") == 1


def test_an_operation_is_followed_over_a_kill_of_the_daemon(daemon: Daemon) -> None:
    write_file(daemon.root / "large", 24 << 20)
    began = threading.Event()
    # The daemon ends with the thread that starts it: so this one does, and another one waits.
    with Client(socket=daemon.socket) as client, ThreadPoolExecutor(1) as pool:
        slow = client.manifests.build(bytes_per_second=8 << 20)
        waiting = pool.submit(slow.wait, timeout=90, on_progress=lambda _: began.set())
        assert began.wait(60)
        daemon.kill()
        daemon.restart()
        done = waiting.result(100)
        assert (done.id, done.state) == (slow.id, "succeeded")
        assert client.operations.attach(slow.id).wait(timeout=30).result == done.result
        verification = client.manifests.verify("latest", bytes_per_second=1 << 20)
        verification.cancel()
        with pytest.raises(OperationFailed, match="cancelled"):
            verification.wait(timeout=30)


def test_a_new_certificate_of_the_same_authority_is_believed(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    clients = Authority(tmp_path, "clients")
    issued = authority.issue("server")
    daemon = start_daemon(
        tls={
            "certificate": str(issued.certificate),
            "key": str(issued.key),
            "client_ca": str(clients.file),
        }
    )
    write_file(daemon.root / "large", 12 << 20)
    shown = clients.issue("controller")
    token = daemon.tokens.secrets["operate"]
    url = f"https://127.0.0.1:{daemon.port}"
    pair = (shown.certificate, shown.key)
    with (
        Client(url, token=token, ca_file=authority.file, certificate=pair) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = client.manifests.build(bytes_per_second=8 << 20)
        waiting = pool.submit(slow.wait, timeout=90)
        assert daemon.stop() == 0
        before = issued.certificate.read_bytes()
        authority.issue("server")
        assert issued.certificate.read_bytes() != before
        daemon.restart()
        assert waiting.result(100).state == "succeeded"
    quick = Retries(attempts=2, base=0.01)
    other = Authority(tmp_path, "other")
    for trusted, certificate in ((other, shown), (authority, other.issue("stranger"))):
        pair = (certificate.certificate, certificate.key)
        with (
            Client(
                url, token=token, ca_file=trusted.file, certificate=pair, retries=quick
            ) as client,
            pytest.raises(Unreachable),
        ):
            client.node.show()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutual", [False, True], ids=["server", "mutual"])
def test_an_operation_is_followed_while_the_imager_is_in_the_daemons_place(
    start_daemon: Callable[..., Daemon],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    mutual: bool,
) -> None:
    build_imager_status()
    authority, clients = Authority(tmp_path, "authority"), Authority(tmp_path, "clients")
    issued, shown = authority.issue("server"), clients.issue("controller")
    tls = {"certificate": str(issued.certificate), "key": str(issued.key)}
    daemon = start_daemon(tls=tls | ({"client_ca": str(clients.file)} if mutual else {}))
    write_file(daemon.root / "large", 12 << 20)
    url, token = f"https://127.0.0.1:{daemon.port}", daemon.tokens.secrets["operate"]
    pair = (shown.certificate, shown.key) if mutual else None
    met: dict[str, list[HoldfastError]] = {"wait": [], "events": []}
    after = Patience.after

    async def noted(patience: Patience, error: HoldfastError) -> None:
        met[threading.current_thread().name.partition("_")[0]].append(error)
        await after(patience, error)

    monkeypatch.setattr(Patience, "after", noted)
    with (
        Client(url, token=token, ca_file=authority.file, certificate=pair) as client,
        ThreadPoolExecutor(1, "wait") as first,
        ThreadPoolExecutor(1, "events") as second,
    ):
        slow = client.manifests.build(bytes_per_second=8 << 20)
        waiting = first.submit(slow.wait, timeout=300)
        followed = second.submit(lambda: [each.state for each in slow.events(timeout=300)])
        assert daemon.stop() == 0
        address = f"127.0.0.1:{daemon.port}"
        with imager_status(
            tmp_path,
            address,
            issued=issued,
            tokens=daemon.tokens.file,
            client_ca=clients.file if mutual else None,
        ):

            def both() -> bool:
                assert not waiting.done()
                assert not followed.done()
                return all(
                    any(isinstance(e, NodeImaging) for e in errors) for errors in met.values()
                )

            until(both, seconds=120, what="an answer of the imager to both")
            shown_by_imager = client.reimage.show()
            assert shown_by_imager["state"] == "imaging"
            assert dict(shown_by_imager)["first_write"] is False
            assert "holdfast_reimage_state" in client.node.metrics()
            quick = Retries(attempts=1)
            with (
                Client(
                    url, token=token, ca_file=authority.file, certificate=pair, retries=quick
                ) as hasty,
                pytest.raises(NodeImaging, match="being re-imaged"),
            ):
                hasty.node.show()
        authority.issue("server")
        daemon.restart()
        assert waiting.result(300).state == "succeeded"
        assert followed.result(300)[-1] == "succeeded"
    assert all(isinstance(each, NodeImaging | Unreachable) for each in met["wait"])
