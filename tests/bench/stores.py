"""Real datastores for the benchmark `warm`: PostgreSQL, and RocksDB as a store of sorted tables."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.bench.tree import File, Tree

_QUERY = """\\set r random_zipfian(1, {rows}, 1.1)
\\set aid permute(:r, {rows}) + 1
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
"""
_PER_SCALE = 100_000


class Store(ABC):
    """A datastore with data in a directory, which answers reads of rows that are hot by chance."""

    name: str

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def prepare(self) -> None:
        """Write the data, unless it is there."""

    @abstractmethod
    def start(self) -> int:
        """Start it; return the id of the process that is to be confined."""

    @abstractmethod
    def work(self, count: int, seed: int) -> float:
        """Read `count` rows; return the seconds that it took."""

    @abstractmethod
    def stop(self) -> int:
        """Stop it; return the bytes that it has read from the device."""

    @abstractmethod
    def data(self) -> list[Path]:
        """List the files that hold its data, in the order of a walk."""

    def tree(self) -> Tree:
        """Return these files as a tree."""
        paths = [path for path in self.data() if path.stat().st_size]
        return Tree(self.root, tuple(File(str(path), path.stat().st_size) for path in paths))


class Postgres(Store):
    """Debian's PostgreSQL with pgbench's tables."""

    name = "PostgreSQL"

    def __init__(self, root: Path, scale: int) -> None:
        super().__init__(root)
        self._scale = scale
        self._programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path())
        self._user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None

    @staticmethod
    def is_here() -> bool:
        """Whether it is installed."""
        return any(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))

    def _run(self, program: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd="/",
            user=self._user,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr[-1000:]}")
        return done.stdout

    def _control(self, *arguments: str | Path) -> None:
        # Its server keeps standard output open, so that nobody may wait for the end of that.
        subprocess.run(
            [
                *(self._programs / "pg_ctl", "-D", self.root / "data", "-w"),
                *("-l", self.root / "log", *arguments),
            ],
            cwd="/",
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )

    def prepare(self) -> None:
        """Make a cluster and its tables."""
        self.root.mkdir(exist_ok=True)
        if self._user:
            shutil.chown(self.root, self._user)
        if not (self.root / "complete").exists():
            shutil.rmtree(self.root / "data", ignore_errors=True)
            self._run("initdb", "-A", "trust", "-U", "postgres", self.root / "data")
            with (self.root / "data/postgresql.conf").open("a") as file:
                file.write(
                    f"listen_addresses = ''\nunix_socket_directories = '{self.root}'\n"
                    "shared_buffers = 64MB\nautovacuum = off\nfsync = off\n"
                    "wal_level = minimal\nmax_wal_senders = 0\n"
                )
            self._control("start")
            bench = ("-h", str(self.root), "-U", "postgres")
            self._run("createdb", *bench, "bench")
            self._run("pgbench", *bench, "-i", "-q", "-s", str(self._scale), "bench")
            self._run("psql", *bench, "-c", "checkpoint", "bench")
            self._control("stop", "-m", "fast")
            (self.root / "complete").touch()
        query = self.root / "query.sql"
        query.write_text(_QUERY.format(rows=self._scale * _PER_SCALE))
        query.chmod(0o644)

    def start(self) -> int:
        """Start the server."""
        self._control("start")
        return self._pid()

    def _pid(self) -> int:
        return int((self.root / "data/postmaster.pid").read_text().split()[0])

    def work(self, count: int, seed: int) -> float:
        """Run single-row queries from four connections."""
        options = f"-n -M prepared -c 4 --random-seed={seed} -U postgres -t {count // 4}".split()
        where = ("-h", str(self.root), "-f", str(self.root / "query.sql"))
        report = self._run("pgbench", *options, *where, "bench")
        line = next(line for line in report.splitlines() if line.startswith("tps"))
        return count / float(line.split()[2])

    def stop(self) -> int:
        """Stop the server, whose count includes its children that have ended."""
        read = psutil.Process(self._pid()).io_counters().read_bytes
        self._control("stop", "-m", "fast")
        return int(read)

    def data(self) -> list[Path]:
        """List the files of tables and indexes."""
        return sorted(path for path in self.root.glob("data/base/*/*") if path.is_file())


class RocksDb(Store):
    """RocksDB in a process of its own (`tests/bench/lsm.py`)."""

    name = "RocksDB"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._process: subprocess.Popen[str] | None = None

    @staticmethod
    def is_here() -> bool:
        """Whether its binding is installed."""
        return importlib.util.find_spec("rocksdict") is not None

    def _command(self, verb: str) -> Sequence[str]:
        return [sys.executable, "-m", "tests.bench.lsm", str(self.root), verb]

    def prepare(self) -> None:
        """Write the tables and merge them into one level."""
        complete = self.root.with_name(f"{self.root.name}.complete")
        if not complete.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            subprocess.run(self._command("fill"), check=True)
            complete.touch()

    def start(self) -> int:
        """Start the process."""
        self._process = subprocess.Popen(
            self._command("serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._answer() != "ready":
            raise RuntimeError("RocksDB did not start")
        return self._process.pid

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def work(self, count: int, seed: int) -> float:
        """Read keys one after the other."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count} {seed}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def stop(self) -> int:
        """End the process."""
        assert self._process is not None
        read = psutil.Process(self._process.pid).io_counters().read_bytes
        self._process.communicate()
        return int(read)

    def data(self) -> list[Path]:
        """List the tables."""
        return sorted(self.root.glob("*.sst"))
