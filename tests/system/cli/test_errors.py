"""The messages of the command line when something is wrong: one line, with what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line.cli import as_json, one_line
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment, run_cli


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["nothing"], "no such command 'nothing'"),
        (["pagecache", "shwo"], "did you mean 'show'"),
        (["pagecache", "show", "--dept", "2"], "--depth"),
        (["pagecache", "show", "--depth", "-1"], "--depth"),
        (["pagecache", "load", "--budget", "much"], "'much' is not a size"),
        (["pagecache", "load", "--policy", "lax"], "strict"),
        (["pagecache", "evict"], "paths"),
        (["pagecache", "show", "--root", "/srv"], "--root goes with --local"),
        (["op", "list", "--url", "node-7:9918"], "is not a URL like"),
        (["op", "list", "--config", "/nowhere/holdfast.toml"], "/nowhere/holdfast.toml"),
        (["token", "create", "x", "--expires", "soon", "--tokens-file", "/nowhere"], "'soon'"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], reported: str) -> None:
    assert reported.lower() in one_line(run_cli(*arguments), 2).lower()


def test_no_daemon(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.sock"
    reported = one_line(run_cli("pagecache", "show", "--socket", path))
    assert str(path) in reported
    assert "holdfast serve" in reported
    assert "--local" in reported
    # --local is no way out where there is none.
    assert "--local" not in one_line(run_cli("op", "list", "--socket", path))


def test_a_socket_that_was_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    reported = one_line(run_cli("op", "list", "--socket", path))
    assert "no daemon answers" in reported
    assert "left behind" in reported


def test_what_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert "is not a socket" in one_line(run_cli("op", "list", "--socket", path))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give the socket to another user")
def test_a_socket_of_others(daemon: Daemon) -> None:
    os.chown(daemon.socket, 65534, 65534)
    without = "-dac_override,-dac_read_search"
    done = subprocess.run(
        ["setpriv", f"--bounding-set={without}", *HOLDFAST, "op", "list"],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(HOLDFAST_SOCKET=str(daemon.socket)),
    )
    assert "not permitted to use the socket" in one_line(done)


def test_nothing_listens_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        reported = one_line(run_cli("op", "list", "--url", url))
    assert url in reported
    assert "refused" in reported.lower()


def test_problems_of_the_daemon(shared_daemon: Daemon) -> None:
    assert "no configured root" in one_line(shared_daemon.cli("pagecache", "show", "/etc"))
    assert "/etc" in one_line(shared_daemon.cli("pagecache", "evict", "/etc"))
    assert "nope" in one_line(shared_daemon.cli("pagecache", "load", "nope"))
    assert "nope" in one_line(shared_daemon.cli("op", "show", "nope"))
    assert "nope" in one_line(shared_daemon.cli("op", "watch", "nope"))
    one_line(shared_daemon.cli("pagecache", "export", "nope"))
    one_line(shared_daemon.cli("pagecache", "import", "/nowhere/dump"))


def test_an_export_leaves_nothing_behind_when_it_fails(
    shared_daemon: Daemon, tmp_path: Path
) -> None:
    one_line(shared_daemon.cli("pagecache", "export", "nope", "-o", tmp_path / "dump"))
    assert list(tmp_path.iterdir()) == []


def test_config_check_and_show(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text(f'roots = ["{tmp_path}"]\nlisten = ""\n[pagecache]\nreserve_bytes = "64MiB"\n')
    checked = run_cli("config", "check", "--config", file)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout == "the settings are fine\n"
    shown = as_json(run_cli("config", "show", "--config", file, "--json"))
    assert shown["pagecache.reserve_bytes"] == {"value": 64 << 20, "source": str(file)}
    assert shown["operations.max_running"]["source"] == "default"
    shown = as_json(
        run_cli("config", "show", "--json", HOLDFAST_CONFIG=str(file), HOLDFAST_LOG_LEVEL="debug")
    )
    assert shown["log_level"] == {"value": "debug", "source": "HOLDFAST_LOG_LEVEL"}
    assert "64.0 MiB" in run_cli("config", "show", "--config", file).stdout

    file.write_text('root = "/srv"\n[pagecache]\ndumps_kept = "many"\n')
    wrong = run_cli("config", "check", "--config", file)
    assert wrong.returncode == 1
    assert "`root` is no setting of holdfast" in wrong.stdout
    assert "pagecache.dumps_kept" in wrong.stdout
    assert "Traceback" not in wrong.stderr
    found = run_cli("config", "check", "--config", file, "--json")
    assert json.loads(found.stdout)["ok"] is False
    assert "`root`" in one_line(run_cli("config", "show", "--config", file))
    assert "`root`" in one_line(run_cli("serve", "--config", file))


def test_tokens(tmp_path: Path) -> None:
    where = ("--tokens-file", tmp_path / "tokens.json")
    made = run_cli("token", "create", "deploy", "--scope", "operate", "--expires", "90d", *where)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret not in (tmp_path / "tokens.json").read_text()
    listed = run_cli("token", "list", *where).stdout
    assert "deploy" in listed
    assert "operate" in listed
    assert secret not in listed
    assert "already" in one_line(run_cli("token", "create", "deploy", *where))
    assert as_json(run_cli("token", "revoke", "deploy", *where, "--json")) == {"revoked": "deploy"}
    assert as_json(run_cli("token", "list", *where, "--json")) == {"tokens": []}
    assert "deploy" in one_line(run_cli("token", "revoke", "deploy", *where))
