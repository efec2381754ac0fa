"""A real PostgreSQL, of Debian's packages."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon.harness import clean_environment

USER = 65_534
"""Whom the server runs as where tests run as root, as which it does not."""
_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

needs_postgres = pytest.mark.skipif(not _PROGRAMS, reason="PostgreSQL is not installed")


class Postgres:
    """A server on one data directory, as an unprivileged user, reached by its unix socket."""

    def __init__(self, data: Path, sockets: Path) -> None:
        self.data = data
        self.sockets = sockets
        self._as_user: tuple[str, ...] = ()
        if os.geteuid() == 0:
            self._as_user = (
                "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--",
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
