"""Tables and the progress line on terminals of 80 and 40 columns, and on one that cannot draw."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.commands.reimage import views as reimage_views
from holdfast.cli.commands.tune import views as tune_views
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.progress import live_parts
from holdfast.operations.ids import new_id
from holdfast.operations.model import Operation
from holdfast.reimage.models import ReimageStatus
from holdfast.tuning.models import Applied, TuningState
from tests.oracles.residency import pinned
from tests.support.capabilities.manifests import flip
from tests.support.command_line.terminal import Terminal
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment
from tests.support.machine.disk import write_file

MIB = 1 << 20
WIDTHS = (80, 40)
_FLEXIBLE = re.compile(r"[\d.,:+]*|ago|now|just|s|ms|min|h|d|%|B|[KMGT]iB|[█▏▎▍▌▋▊▉·]+")
"""Words that may be others a moment later."""


@pytest.fixture(scope="module")
def busy(shared_daemon: Daemon) -> Iterator[Daemon]:
    """Give a daemon with a row of every sort to show, and one operation that runs."""
    daemon = shared_daemon
    file = write_file(daemon.root / "keyspace-1" / "table-of-many-names" / "nb-1-big-Data.db", MIB)
    write_file(daemon.root / "keyspace-2" / "index.db", 8 * MIB)
    daemon.run("/v1/pagecache/dumps", {})
    daemon.run("/v1/manifests", {})
    flip(file, 4097)
    daemon.run("/v1/manifests/latest/verifications", {})
    for number in range(3):
        daemon.run("/v1/manifests", {"full": True, "include": [f"keyspace-{number}/**"]})
    slow = daemon.start("/v1/manifests", {"full": True, "bytes_per_second": MIB // 8})
    yield daemon
    daemon.http.post(f"/v1/operations/{slow['id']}/cancel")


def terminal(daemon: Daemon, *arguments: str, columns: int, **environment: str) -> Terminal:
    settings = clean_environment(HOLDFAST_SOCKET=str(daemon.socket), **environment)
    return Terminal([*HOLDFAST, *arguments], settings, columns=columns)


def processes() -> set[str]:
    """Return the names of all processes: a plan names those with open files of a device."""
    names = set()
    for file in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            names.update(file.read_text(errors="replace").split())
    return names


def assert_fits(shown: str, columns: int, whole: str) -> None:
    """Check that no line is too long, and that each word is one of the text without a limit."""
    for line in shown.splitlines():
        assert len(line) <= columns, line
    known = set(whole.split())
    for word in shown.split():
        if (
            word in known
            or word.strip("(),;") in processes()
            or _FLEXIBLE.fullmatch(word.strip("(),"))
        ):
            continue
        # The name of a directory or file is whole, in a path that continues in the next line.
        pieces = {piece for each in known for piece in re.findall(r"[^/,]+", each)}
        assert set(re.findall(r"[^/,]+", word)) <= pieces, f"{word!r} was cut"


TABLES = (
    ("op", "list"),
    ("op", "list", "--not-ok"),
    ("manifest", "list"),
    ("manifest", "show"),
    ("pagecache", "list"),
    ("pagecache", "show"),
    ("tune", "profiles"),
    ("tune", "profiles", "cassandra"),
    ("tune", "plan", "--all", "cassandra"),
    ("tune", "plan", "elasticsearch"),
    ("tune", "show"),
    ("token", "list"),
    ("config", "show"),
    ("node",),
    ("reimage", "show"),
)


_ALL = """
import json, sys
from holdfast.cli import execute
for number, command in enumerate(json.loads(sys.argv[1])):
    print(f"# {number}", flush=True)
    code = execute(command)
    print(f"# ended with {code}", flush=True)
"""
"""Runs many commands in one process, since starting it takes longer than each of them."""


def parts_of(shown: str) -> list[str]:
    parts = re.split(r"^# \d+\s", shown, flags=re.MULTILINE)[1:]
    assert len(parts) == len(TABLES)
    for part, command in zip(parts, TABLES, strict=True):
        assert re.search(r"^# ended with [03]\s", part, re.MULTILINE), (command, part)
    return parts


def test_tables_fit_and_break_no_word(busy: Daemon) -> None:
    commands = [[*command, "--quiet", "--config", str(busy.config)] for command in TABLES]
    program = [sys.executable, "-c", _ALL, json.dumps(commands)]
    environment = clean_environment(HOLDFAST_SOCKET=str(busy.socket))
    piped = subprocess.run(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    wholes = parts_of(piped.stdout.decode())
    for columns in WIDTHS:
        with Terminal(program, environment, columns=columns) as screen:
            assert screen.wait(60) == 0
        for part, whole in zip(parts_of(screen.shown), wholes, strict=True):
            assert_fits(part, columns, whole)


@pytest.mark.parametrize(
    ("command", "path", "member"),
    [
        (("op", "list"), "/v1/operations", "operations"),
        (("manifest", "list"), "/v1/manifests", "manifests"),
        (("pagecache", "list"), "/v1/pagecache/dumps", "dumps"),
    ],
)
def test_rows_stay_rows(busy: Daemon, command: tuple[str, ...], path: str, member: str) -> None:
    """At 80 columns a record is a line; at 40 its id begins one, and what matters is below it."""
    records = busy.http.get(path).json()[member]
    for columns in WIDTHS:
        with terminal(busy, *command, "--quiet", columns=columns) as screen:
            assert screen.wait() == 0
            lines = screen.shown.splitlines()
        assert max(map(len, lines)) <= columns
        began = [line for line in lines if not line.startswith(" ")]
        assert [line.split()[0] for line in began[1:]] == [record["id"] for record in records]
        if columns == 80:
            assert lines == began


def test_what_an_operation_came_to_is_shown_at_any_width(busy: Daemon) -> None:
    for columns in WIDTHS:
        with terminal(busy, "op", "list", "--not-ok", columns=columns) as screen:
            assert screen.wait() == 0
            row = screen.shown.partition("manifest.verify")[2]
            assert row.split()[0] == "differs"


def row(**members: Any) -> dict[str, Any]:
    return {
        "subsystem": "sysctl",
        "target": "",
        "name": "net.ipv4.tcp_slow_start_after_idle",
        "desired": "4096 87380 16777216",
        **members,
    }


def drift() -> TuningState:
    now = datetime.now(UTC).isoformat()
    drifted = row(observed="4096 131072 6291456", since=now, contested=True)
    return TuningState.model_validate(
        {
            "profile": "cassandra",
            "policy": "report",
            "persist": False,
            "profile_changed": False,
            "checked_at": now,
            "history": [],
            "problem": None,
            "applied_at": now,
            "settings": {"sysctl": 3},
            "drifted": [drifted, {**drifted, "name": "vm.swappiness", "observed": None}],
            "events": [
                {"time": now, "kind": "drifted", "message": "vm.swappiness is 60 and should be 1"}
            ],
        }
    )


def applied() -> dict[str, Any]:
    source = "DataStax: Recommended production settings for Apache Cassandra, and why they are so"
    before = "4096 131072 6291456"
    setting = row(action="set", observed=before, previous=before, source=source, note="as is known")
    return Applied.model_validate(
        {
            "plan": new_id(),
            "profile": "cassandra",
            "policy": "report",
            "persist": False,
            "applicable": True,
            "changes": 1,
            "written": 1,
            "settings": [setting],
            "notes": [],
        }
    ).model_dump(mode="json")


def reimaging() -> ReimageStatus:
    now = datetime.now(UTC).isoformat()
    lists = (
        "disks",
        "loses",
        "unknown",
        "space",
        "blocked",
        "carried",
        "notes",
        "trial",
        "fetched",
    )
    return ReimageStatus.model_validate(
        {
            **dict.fromkeys(ReimageStatus.model_fields),
            **{name: [] for name in lists},
            "state": "unconfirmed",
            "operation": new_id(),
            "checks": [
                {
                    "name": "manifest",
                    "passed": False,
                    "detail": "3 of 12,345 files differ from manifest 01M8F6S1ZD5S0V6Y3N2B7C9XEF",
                }
            ],
            "history": [
                {
                    "at": now,
                    "previous": "rebooting",
                    "state": "unconfirmed",
                    "why": "The new system runs, and not all of its checks passed.",
                }
            ],
        }
    )


@pytest.mark.parametrize("columns", WIDTHS)
def test_what_needs_another_machine_to_be_seen(
    columns: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drift, an apply and a re-imaging, through the functions that their commands print with."""
    shown = []
    state, write, status = drift(), applied(), reimaging()
    for width in (None, columns):
        monkeypatch.setattr(
            "holdfast.cli.terminal.output.terminal_width", lambda _stream, w=width: w
        )
        out = Output(as_json=False, quiet=True)
        tune_views.show_state(out, state)
        tune_views.show_applied(out, write)
        reimage_views.show_status(out, status)
        shown.append(capfd.readouterr().out)
    assert "vm.swappiness" in shown[1]
    assert_fits(shown[1], columns, shown[0])


def drawn(screen: Terminal) -> list[str]:
    """Return each state of the line that was drawn so far."""
    return [line.strip() for line in re.split(r"[\r\n]", screen.shown) if line.strip()]


@pytest.fixture(scope="module")
def cold(shared_daemon: Daemon) -> Daemon:
    """Give a daemon on which a load at 1 MiB/s takes half a minute."""
    daemon = shared_daemon
    with ExitStack() as pins:
        for number in range(4):
            path = daemon.root / f"keyspace-{number}" / f"nb-{number}-big-Data.db"
            pins.enter_context(pinned(write_file(path, 8 * MIB)))
        daemon.run("/v1/pagecache/dumps", {})
    return daemon


def slow_load(daemon: Daemon, **options: Any) -> Terminal:
    daemon.run("/v1/pagecache/evictions", {"paths": [str(daemon.root)]})
    return terminal(daemon, "pagecache", "load", "--rate", "1MiB", **options)


def cancel(daemon: Daemon) -> None:
    found = daemon.http.get("/v1/operations?state=running&kind=pagecache.load").json()
    (operation,) = found["operations"]
    daemon.http.post(f"/v1/operations/{operation['id']}/cancel")


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_progress_line_keeps_what_matters_most(cold: Daemon, columns: int) -> None:
    with slow_load(cold, columns=columns) as screen:
        screen.wait_for(" left", seconds=30)
        lines = [line for line in drawn(screen) if " left" in line]
        assert all(len(line) <= columns for line in drawn(screen))
        for line in lines:
            assert re.search(r"\d [KM]iB/s  .* left", line), line
            assert " %" in line
            if columns == 80:
                assert re.search(r"load: \w+", line), line
                assert "━" in line
        cancel(cold)
        assert screen.wait() == 1


@pytest.mark.parametrize("columns", [120, *WIDTHS])
def test_the_name_of_the_file_goes_first(columns: int) -> None:
    operation = Operation.model_validate(
        {
            "id": new_id(),
            "kind": "manifest.build",
            "state": "running",
            "actor": "uid:0",
            "created_at": datetime.now(UTC),
            "params": {},
            "progress": {
                "phase": "hashing",
                "current": "keyspace1/standard1-7f0e/nb-1-big-Data.db",
                "bytes_done": 76 * MIB,
                "bytes_expected": 300 * MIB,
                "bytes_per_second": 15 * MIB,
                "eta_seconds": 15.0,
            },
        }
    )
    parts = live_parts(operation, columns - 3)
    shown = [part for part in parts if isinstance(part, str)]
    assert sum(map(len, shown)) + 2 * (len(parts) - 1) < columns
    assert {"25.3 %", "15.0 MiB/s", "15 s left"} <= set(shown)
    assert ("build: hashing" in shown) == (len(parts) > len(shown)) == (columns >= 80)
    assert any("Data.db" in part for part in shown) == (columns >= 120)


def test_a_terminal_that_cannot_draw_gets_lines(cold: Daemon) -> None:
    with slow_load(cold, columns=80, TERM="dumb") as screen:
        screen.wait_for("load: ", seconds=30, times=2)
        assert "\x1b" not in screen.raw
        assert "━" not in screen.shown
        cancel(cold)
        assert screen.wait() == 1


def test_a_path_goes_on_after_a_slash(tmp_path: Path) -> None:
    from holdfast.cli.terminal.tables import wrap

    path = str(tmp_path / "a-directory-with-a-name" / "another-directory" / "file.db")
    lines = wrap(f"no tokens in {path}, and so on", 40, hang=2)
    assert all(len(line) <= 40 for line in lines)
    assert "".join(line.strip() for line in lines).count(path.rpartition("/")[2]) == 1
