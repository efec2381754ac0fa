"""The command line on a terminal: a live bar, and a question at Ctrl-C."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from tests.oracles.residency import pinned
from tests.support.command_line.terminal import INTERRUPT, Terminal
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment
from tests.support.machine.disk import read_all, write_file
from tests.support.waiting import until

MIB = 1 << 20
QUESTION = "[c]ancel, [l]eave it running, [w]atch on? "


@pytest.fixture
def slow(daemon: Daemon) -> Daemon:
    """Give a daemon on which a load at 1 MiB/s takes a minute."""
    with ExitStack() as pins:
        for number in range(16):
            pins.enter_context(pinned(write_file(daemon.root / f"{number}.db", 4 * MIB)))
        daemon.run("/v1/pagecache/dumps", {})
    daemon.run("/v1/pagecache/evictions", {"paths": [str(daemon.root)]})
    return daemon


def on_terminal(daemon: Daemon, *arguments: str, columns: int = 120) -> Terminal:
    environment = clean_environment(HOLDFAST_SOCKET=str(daemon.socket))
    return Terminal([*HOLDFAST, *arguments], environment, columns=columns)


def load(daemon: Daemon) -> dict[str, Any]:
    """Return the newest load."""
    found = daemon.http.get("/v1/operations", params={"kind": "pagecache.load"}).json()
    operation: dict[str, Any] = found["operations"][0]
    return operation


def test_a_bar_with_rate_and_time_left(slow: Daemon) -> None:
    with on_terminal(slow, "pagecache", "load", "--rate", "16MiB") as terminal:
        terminal.wait_for("of 64.0 MiB")
        terminal.wait_for("iB/s")
        terminal.wait_for(" left")
        terminal.wait_for("━")
        assert terminal.wait(40) == 0
        assert "loaded 64.0 MiB" in terminal.shown
        assert "100 % of the 64.0 MiB" in terminal.shown


def test_ctrl_c_then_watch_then_cancel(slow: Daemon) -> None:
    with on_terminal(slow, "pagecache", "load", "--rate", "1MiB") as terminal:
        terminal.wait_for("of 64.0 MiB")
        terminal.type(INTERRUPT)
        terminal.wait_for(QUESTION)
        terminal.type("x\n")
        terminal.wait_for(QUESTION, times=2)
        assert load(slow)["state"] == "running"
        terminal.type("w\n")
        shown = terminal.shown.count("of 64.0 MiB")
        terminal.wait_for("of 64.0 MiB", times=shown + 1)
        terminal.type(INTERRUPT)
        terminal.wait_for(QUESTION, times=3)
        terminal.type("c\n")
        assert terminal.wait() == 1
        assert "was cancelled" in terminal.shown
    assert load(slow)["state"] == "cancelled"


@pytest.mark.parametrize("answer", ["l\n", INTERRUPT])
def test_ctrl_c_then_leave(slow: Daemon, answer: str) -> None:
    with on_terminal(slow, "pagecache", "load", "--rate", "1MiB") as terminal:
        terminal.wait_for("of 64.0 MiB")
        terminal.type(INTERRUPT)
        terminal.wait_for(QUESTION)
        terminal.type(answer)
        # Not "done": what comes after `&&` would not be right now.
        assert terminal.wait() == 4
        operation = load(slow)
        assert f"holdfast op watch {operation['id']}" in terminal.shown
    assert operation["state"] == "running"
    slow.http.post(f"/v1/operations/{operation['id']}/cancel")
    until(lambda: load(slow)["state"] == "cancelled", what="the end of the load")


def test_local_work_cannot_be_left(slow: Daemon) -> None:
    local = ("--local", "--root", str(slow.root), "--state-dir", str(slow.state_dir))
    with on_terminal(slow, "pagecache", "load", "--rate", "1MiB", *local) as terminal:
        terminal.wait_for("of 64.0 MiB")
        terminal.type(INTERRUPT)
        terminal.wait_for("[c]ancel, [w]atch on? ")
        terminal.type("c\n")
        assert terminal.wait() == 1
        assert "was cancelled" in terminal.shown


def test_tables_fit_a_narrow_terminal(slow: Daemon) -> None:
    name = f"{'long' * 12}.db"
    read_all(write_file(slow.root / name, MIB))
    with on_terminal(slow, "pagecache", "show", columns=72) as terminal:
        assert terminal.wait() == 0
        table = terminal.shown.partition("SIZE")[2].splitlines()
        assert max(map(len, table)) <= 72
        assert name in "".join("".join(table).split())


def test_the_daemon_prints_lines_to_paste(slow: Daemon) -> None:
    slow.stop()
    with on_terminal(slow, "serve", "--config", str(slow.config)) as terminal:
        terminal.wait_for("To try it from another terminal")
        terminal.wait_for(f"S={slow.socket}")
        terminal.wait_for(f"curl {slow.url}/metrics")
        terminal.type(INTERRUPT)
        assert terminal.wait() == 0
