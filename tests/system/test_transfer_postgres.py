"""A PostgreSQL that is written to moves to another node, and is there what it was here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Daemon, clean_environment
from tests.support.transfer import make_pair
from tests.support.waiting import until

_USER = 65_534
_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _PROGRAMS, reason="PostgreSQL is not installed"),
]


class Postgres:
    """A server on one data directory, as an unprivileged user, reached by its unix socket."""

    def __init__(self, data: Path, sockets: Path) -> None:
        self.data = data
        self.sockets = sockets
        self._as_user: tuple[str, ...] = ()
        if os.geteuid() == 0:
            self._as_user = (
                "setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--",
            )  # fmt: skip

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run a program of PostgreSQL; answer what it printed."""
        done = subprocess.run(
            self._command(program, *arguments),
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(PGHOST=str(self.sockets), PGUSER="bench", PGDATABASE="postgres"),
        )
        assert done.returncode == 0, (program, done.stderr)
        return done.stdout

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-c listen_addresses= -k {self.sockets}"
        # What the server prints must not keep a pipe open.
        log = self.sockets / "log"
        self.run("pg_ctl", "-D", self.data, "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        """Stop the server."""
        self.run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Have it written to."""
        bench = subprocess.Popen(
            self._command("pgbench", "-c", "2", "-T", "120", "-n"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean_environment(PGHOST=str(self.sockets), PGUSER="bench", PGDATABASE="postgres"),
        )
        try:
            yield
        finally:
            bench.terminate()
            bench.wait(30)

    def written(self) -> int:
        """Count the transactions of the benchmark."""
        return int(self.run("psql", "-Atc", "SELECT count(*) FROM pgbench_history"))

    def dump(self) -> str:
        """Answer all that is in it, without what differs from run to run of the program."""
        lines = self.run("pg_dump").splitlines()
        return "\n".join(line for line in lines if not line.startswith(("--", "\\")))

    def _command(self, program: str, *arguments: str | Path) -> list[str]:
        return [*self._as_user, str(_PROGRAMS[-1] / program), *map(str, arguments)]


def test_a_database_moves_while_it_is_written_to(
    start_daemon: Callable[..., Daemon], disk_dir: Path, tmp_path: Path
) -> None:
    pair = make_pair(start_daemon)
    for path in (disk_dir, pair.source.root.parent, pair.destination.root.parent):
        path.chmod(0o755)
    sockets = Path(pair.source.directory) / "pg"
    sockets.mkdir()
    if os.geteuid() == 0:
        os.chown(pair.offered, _USER, _USER)
        os.chown(sockets, _USER, _USER)
        pair.source.directory.chmod(0o755)
    pair.offered.chmod(0o700)
    here, there = Postgres(pair.offered, sockets), Postgres(pair.fetched, sockets)
    here.run("initdb", "-D", here.data, "-U", "bench", "-A", "trust", "--no-sync")
    here.start()
    try:
        here.run("pgbench", "-i", "-s", "2", "-q")
        ticket = pair.offer()["ticket"]
        with here.busy():
            until(lambda: here.written() > 20, what="transactions")
            first: dict[str, Any] = pair.pulled(ticket, passes=3, until_remaining=0)
            assert len(first["passes"]) == 3
            assert first["passes"][1]["sent_bytes"] < first["passes"][0]["sent_bytes"]
            problem = pair.refused(ticket, final=True)
            assert (problem["kind"], "postgres (" in problem["detail"]) == ("writers", True)
        content = here.dump()
    finally:
        here.stop()
    last = pair.pulled(ticket, final=True, page_cache=True)
    assert last["source_manifest"]["equal"], last
    assert last["page_cache"]["problem"] is None
    there.start()
    try:
        assert there.dump() == content
        there.run("pg_amcheck", "--install-missing", "--heapallindexed", "postgres")
    finally:
        there.stop()
