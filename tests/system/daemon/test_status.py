"""`holdfast status`: one screen that shows whether all is well."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.capabilities.manifests import flip
from tests.support.command_line.terminal import Terminal
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment, run_cli
from tests.support.machine.disk import write_file

MIB = 1 << 20


def test_a_node_on_one_screen(daemon: Daemon) -> None:
    fresh = daemon.cli("status")
    assert fresh.returncode == 0, fresh.stderr
    lines = fresh.stdout.splitlines()
    assert lines[0].endswith(": ready")
    assert len(lines) < 20
    assert re.search(r"last dump +none", fresh.stdout)
    assert re.search(r"verified +never", fresh.stdout)
    assert re.search(r"settings +no profile", fresh.stdout)
    assert re.search(r"re-imaging +idle", fresh.stdout)
    assert re.search(r"runs +nothing", fresh.stdout)
    assert str(daemon.root) in fresh.stdout

    file = write_file(daemon.root / "a.db", 8 * MIB)
    dump = daemon.run("/v1/pagecache/dumps", {})["dump"]
    manifest = daemon.run("/v1/manifests", {})["manifest"]
    daemon.run("/v1/manifests/latest/verifications", {})
    good = daemon.cli("status")
    assert good.returncode == 0
    assert re.search(rf"last dump +(just now|\d+ s ago), .* {dump}", good.stdout)
    assert re.search(
        rf"manifest +(just now|\d+ s ago), 8.00 MiB in 1 file, {manifest}", good.stdout
    )
    assert re.search(r"verified +(just now|\d+ s ago), ok", good.stdout)

    flip(file, 4097)
    bad = daemon.finish(daemon.start("/v1/manifests/latest/verifications", {}))
    slow = daemon.start("/v1/manifests", {"full": True, "bytes_per_second": MIB // 4})
    worse = daemon.cli("status")
    assert worse.returncode == 3
    assert f"DIFFERS; see holdfast op show {bad['id']}" in worse.stdout
    assert re.search(rf"runs +build: .*{slow['id']}", worse.stdout)
    answer = json.loads(daemon.cli("status", "--json").stdout)
    assert answer["ready"]
    assert answer["verification"]["outcome"] == "differs"
    assert [operation["id"] for operation in answer["operations"]] == [slow["id"]]
    assert (answer["dump"]["id"], answer["manifest"]["id"]) == (dump, manifest)
    for columns in (80, 40):
        environment = clean_environment(HOLDFAST_SOCKET=str(daemon.socket))
        with Terminal([*HOLDFAST, "status"], environment, columns=columns) as screen:
            assert screen.wait() == 3
            assert max(map(len, screen.shown.splitlines())) <= columns
            assert bad["id"] in screen.shown


def test_a_daemon_that_is_not_ready(daemon: Daemon) -> None:
    daemon.root.rename(daemon.root.with_name("gone"))
    try:
        done = daemon.cli("status")
        assert done.returncode == 1
        assert "NOT READY" in done.stdout
        assert "MISSING" in done.stdout
        reasons = json.loads(daemon.cli("status", "--json").stdout)["reasons"]
        assert any(str(daemon.root) in reason for reason in reasons)
    finally:
        daemon.root.with_name("gone").rename(daemon.root)


def test_no_daemon(tmp_path: Path) -> None:
    done = run_cli("status", "--socket", tmp_path / "none.sock")
    assert done.returncode == 1
    assert "no daemon" in done.stderr
