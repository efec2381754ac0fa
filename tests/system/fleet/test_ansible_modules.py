"""The modules of the Ansible collection against real daemons."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities.transfer import fill, make_pair, tree
from tests.support.daemon.harness import Daemon, free_port
from tests.support.fleet.ansible import Controller, play, plugin, run_module, task
from tests.support.machine.disk import write_file
from tests.support.servers.cutting import cutting_proxy

NOWHERE = "01M83VKATAZXB97BQKR2MA3A5B"

REDIS = (
    "redis-server",
    "--port",
    "{port}",
    "--save",
    "",
    "--bind",
    "127.0.0.1",
    "--loglevel",
    "warning",
)
MEMCACHED = ("memcached", "-l", "127.0.0.1", "-p", "{port}", "-u", "root")

Run = Callable[..., dict[str, Any]]


def on(daemon: Daemon) -> Run:
    """Return a function that runs a module on the node of a daemon."""

    def run(name: str, /, **arguments: Any) -> dict[str, Any]:
        return run_module(name, **{"socket": str(daemon.socket)} | arguments)

    return run


@pytest.fixture
def run(shared_daemon: Daemon) -> Run:
    return on(shared_daemon)


def test_a_node_is_shown_with_what_it_can_do(run: Run, shared_daemon: Daemon) -> None:
    shown = run("node_info")
    assert (shown["changed"], shown["ready"], shown["zone"]) == (False, True, "")
    assert shown["node"]["node_id"] == shared_daemon.http.get("/v1/node").json()["node_id"]
    assert "idempotency-key" in shown["version"]["features"]
    assert run("reimage_info")["reimage"]["state"] == "idle"


def test_a_manifest_is_built_once_for_a_key_and_verified(daemon: Daemon) -> None:
    run = on(daemon)
    file = write_file(daemon.root / "a", 1 << 20)
    assert run("manifest", action="build", check_mode=True)["changed"] is True
    assert run("manifest", action="list")["manifests"] == []
    build = run("manifest", action="build", key="k")
    again = run("manifest", action="build", key="k")
    assert (build["changed"], again["changed"]) == (True, False)
    assert build["operation"]["id"] == again["operation"]["id"]
    assert len(run("manifest", action="list")["manifests"]) == 1
    verified = run("manifest", action="verify")
    assert (verified["changed"], verified["operation"]["outcome"]) == (False, "ok")
    (daemon.root / "a").write_bytes(b"other")
    failed = run("manifest", action="verify")
    assert failed["failed"] is True
    assert "differs" in failed["msg"]
    reported = run("manifest", action="verify", differences="report")
    assert reported["operation"]["result"]["findings"]
    name = build["operation"]["result"]["manifest"]
    deleted = [run("manifest", action="delete", manifest=name)["changed"] for _ in "12"]
    assert deleted == [True, False], file


def test_the_page_cache_is_dumped_and_loaded(run: Run, shared_daemon: Daemon) -> None:
    write_file(shared_daemon.root / "pages", 4 << 20)
    dump = run("pagecache", action="dump", wait=False)
    waited = run("operation_wait", operation=dump["operation"]["id"], timeout=30)
    assert waited["operation"]["state"] == "succeeded"
    assert run("pagecache", action="load")["recall"] > 0
    refused = run("pagecache", action="load", min_recall=1.1)
    assert "110%" in refused["msg"]
    assert run("pagecache", action="show")["changed"] is False


def test_an_operation_is_followed_over_a_kill_of_the_daemon(daemon: Daemon) -> None:
    run = on(daemon)
    write_file(daemon.root / "large", 24 << 20)
    build = run("manifest", action="build", bytes_per_second=12 << 20, wait=False)["operation"]
    node = plugin("module_utils.node").Node(str(daemon.socket))
    with ThreadPoolExecutor(1) as pool:
        follow = plugin("module_utils.operations").follow
        following = pool.submit(follow, node, build["id"], 60.0)
        daemon.kill()
        daemon.restart()
        seen = following.result(90)
    assert (seen.ended, seen.operation["state"]) == (True, "succeeded")
    early = run("operation_wait", operation=build["id"], timeout=5, phases=["nonesuch"])
    assert early["ended"] is True


def test_no_call_is_made_twice_over_cut_connections(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is made before the first attempt, and each attempt has it."""
    node = plugin("module_utils.node")
    token = daemon.tokens.secrets["operate"]
    started = []

    def connect(self: Any) -> None:
        self.sock = socket.create_connection(("127.0.0.1", proxy.port), 5)

    def putrequest(self: Any, *arguments: Any, **options: Any) -> None:
        super(node._Connection, self).putrequest(*arguments, **options)
        self.putheader("Authorization", f"Bearer {token}")

    with cutting_proxy(daemon.port, seed=20) as proxy:
        # The module's own client, but its bytes go over a proxy that breaks connections.
        monkeypatch.setattr(node._Connection, "connect", connect)
        monkeypatch.setattr(node._Connection, "putrequest", putrequest, raising=False)
        monkeypatch.setattr(node, "pause_before", lambda _failures: 0.01)
        client = node.Node("", 60.0)
        while proxy.cuts < 20:
            operation = client.post("/v1/pagecache/dumps", {}).document
            started.append(operation["id"])
            daemon.finish(operation)
    made = daemon.http.get("/v1/operations", params={"limit": 1000}).json()["operations"]
    assert sorted(each["id"] for each in made) == sorted(started)
    assert len(started) >= 3


def test_a_profile_is_planned_in_check_mode_and_shown_as_a_difference(
    run: Run, shared_daemon: Daemon
) -> None:
    plan = run("tune", profile="redis", check_mode=True, diff_mode=True)
    assert plan["changed"] is True
    for row in plan["settings"]:
        assert f"{row['name']} = {row['desired']}" in plan["diff"]["after"]
        assert f"{row['name']} = {row['observed']}" in plan["diff"]["before"]
    assert shared_daemon.http.get("/v1/tuning").json()["profile"] is None
    assert run("tune", state="rolled_back")["changed"] is False


def test_tokens_are_made_kept_and_revoked(tmp_path: Path, shared_daemon: Daemon) -> None:
    holdfast = tmp_path / "holdfast"
    holdfast.write_text(f'#!/bin/sh\nexec {sys.executable} -m holdfast "$@"\n')
    holdfast.chmod(0o755)

    def token(**arguments: Any) -> dict[str, Any]:
        file = str(shared_daemon.tokens.file)
        return run_module("token", command=str(holdfast), tokens_file=file, **arguments)

    made = token(name="fleet", scope="operate")["token"]
    headers = {"Authorization": f"Bearer {made}"}
    client = shared_daemon.client(tcp=True)
    assert client.get("/v1/node", headers=headers).status_code == 200
    assert token(name="fleet", scope="operate")["changed"] is False
    output = tmp_path / "secret"
    wider = token(name="fleet", scope="admin", output=str(output))
    assert "token" not in wider
    assert output.read_text().startswith("hf_")
    assert client.get("/v1/node", headers=headers).status_code == 401
    assert token(name="fleet", state="absent")["changed"] is True
    assert token(name="\n", state="absent", check_mode=True)["changed"] is False


def test_what_a_node_refuses_is_one_sentence(
    run: Run, shared_daemon: Daemon, tmp_path: Path
) -> None:
    descriptor = {"descriptor": "http://127.0.0.1:9/x.json", "descriptor_sha256": "00" * 32}
    gate: dict[str, Any] = {
        "check": "command",
        "argv": ["false"],
        "within_seconds": 0.2,
        "every_seconds": 0.1,
    }
    nobody = {"socket": str(tmp_path / "none"), "call_timeout": 0.3}
    refused = {
        "/etc": run("pagecache", action="evict", paths=["/etc"]),
        NOWHERE: run("operation_wait", operation=NOWHERE, timeout=0.2),
        "there is no such socket": run("node_info", **nobody),
        "nonesuch": run("tune", profile="nonesuch"),
        "cannot be re-imaged": run("reimage_stage", **descriptor, check_mode=True),
        "transfer.listen": run("transfer", action="offer", path=str(shared_daemon.root)),
        "0 of 3 good": run_module("gate", **gate),
        "idle": run("reimage_step", step="arm", operation=NOWHERE),
    }
    for words, result in refused.items():
        assert result["failed"] is True, words
        assert words in f"{result['msg']} {result.get('problem')}", result
        assert "\n" not in result["msg"]
        assert "exception" not in result, result


@pytest.mark.parametrize(("check", "command"), [("redis", REDIS), ("memcached", MEMCACHED)])
def test_a_gate_opens_once_a_real_server_was_good_several_times(
    check: str, command: tuple[str, ...]
) -> None:
    port = free_port()
    gate: dict[str, Any] = {"check": check, "address": f"127.0.0.1:{port}", "every_seconds": 0.05}
    shut = run_module("gate", within_seconds=0.1, **gate)
    assert shut["failed"] is True
    with subprocess.Popen([each.format(port=port) for each in command]) as server:
        try:
            opened = run_module("gate", within_seconds=20, stable=4, **gate)
        finally:
            server.terminate()
    assert opened.get("failed") is not True, opened
    assert opened["readings"] >= 4


def test_a_directory_moves_from_node_to_node(
    tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    pair = make_pair(start_daemon)
    fill(pair.offered)
    controller = Controller(tmp_path)
    controller.node("old", pair.source.socket)
    controller.node("new", pair.destination.socket)
    pull = {
        "action": "pull",
        "ticket": "{{ hostvars.old.offered.ticket }}",
        "path": str(pair.fetched),
    }
    offer = task("offer", "transfer", action="offer", path=str(pair.offered))
    played = controller.play(
        [
            *play(offer | {"register": "offered"}, hosts="old"),
            *play(task("final", "transfer", final=True, **pull), hosts="new"),
        ]
    )
    assert played.code == 0, played.text
    assert played.result("final")["complete"] is True
    assert tree(pair.fetched) == tree(pair.offered)
    # A ticket lets a node fetch the directory, and is in no output of the task that used it.
    made = played.result("offer")
    assert made["ticket"]["key"] not in str(played.result("final"))
    ticket, destination = made["ticket"], on(pair.destination)
    again = destination("transfer", final=True, **pull | {"ticket": ticket})
    assert (again["changed"], again["complete"]) == (False, True)
    revoke = {"action": "revoke", "id": made["offer"]["id"]}
    revoked = [on(pair.source)("transfer", **revoke)["changed"] for _ in "12"]
    assert revoked == [True, False]
