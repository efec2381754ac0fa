"""Real datastores for the benchmark `warm`: PostgreSQL, and RocksDB as a store of sorted tables."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.lsm import TICK
from tests.bench.tree import File, Tree

_QUERY = """\\set r random_zipfian(1, {rows}, 1.1)
\\set aid permute(:r, {rows}) + 1
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
"""
_PER_SCALE = 100_000


@dataclass(frozen=True)
class Work:
    """Reads that a store has answered."""

    began: float
    """Seconds since the epoch."""
    ended: Mapping[int, int]
    """How many ended in which hundredth of a second since the epoch."""

    @property
    def seconds(self) -> float:
        """From the beginning of the first to the end of the last."""
        return (max(self.ended) + 1) * TICK - self.began

    def between(self, start: float, end: float) -> int:
        """Count those that ended between two moments, in seconds since the epoch."""
        first, behind = round(start / TICK), round(end / TICK)
        return sum(self.ended.get(tick, 0) for tick in range(first, behind))


class Store(ABC):
    """A datastore with data in a directory, which answers reads of rows that are hot by chance."""

    name: str

    def __init__(self, root: Path) -> None:
        self.root = root
        self.groups: list[Path] = []
        """Control groups that its processes are started in, by the file that takes them."""

    @abstractmethod
    def prepare(self) -> None:
        """Write the data, unless it is there."""

    @abstractmethod
    def draw(self, count: int, seed: int) -> None:
        """Do before `start` what is no part of it: choose the rows of `work_for`."""

    @abstractmethod
    def start(self) -> None:
        """Start it."""

    @abstractmethod
    def work(self, count: int, seed: int) -> Work:
        """Read `count` rows."""

    @abstractmethod
    def work_for(self, seconds: int, seed: int) -> Work:
        """Read rows for so long, of those of `draw` where that chooses them."""

    @abstractmethod
    def stop(self) -> int:
        """Stop it; return the bytes that it has read from the device."""

    @property
    def directory(self) -> Path:
        """The directory that has its data and nothing else."""
        return self.root

    @abstractmethod
    def data(self) -> list[Path]:
        """List the files that hold its data, in the order of a walk."""

    def confined(self, *command: str | Path, user: str | None = None) -> list[str]:
        """Make a command that is run by a user in the control groups."""
        enter = "".join(f"echo $$ > {group} && " for group in self.groups)
        change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        return ["sh", "-c", f'{enter}exec "$@"', "sh", *change, *map(str, command)]

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
            self.confined(
                *(self._programs / "pg_ctl", "-D", self.root / "data", "-w"),
                *("-l", self.root / "log", *arguments),
                user=self._user,
            ),
            cwd="/",
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

    def draw(self, count: int, seed: int) -> None:
        """Do nothing: pgbench draws as it goes."""

    def start(self) -> None:
        """Start the server."""
        self._control("start")

    def _pid(self) -> int:
        return int((self.root / "data/postmaster.pid").read_text().split()[0])

    def work(self, count: int, seed: int) -> Work:
        """Run single-row queries from four connections."""
        return self._bench(f"-t {count // 4}", seed)

    def work_for(self, seconds: int, seed: int) -> Work:
        """Run single-row queries from four connections."""
        return self._bench(f"-T {seconds}", seed)

    def _bench(self, extent: str, seed: int) -> Work:
        log = self.root / "transactions"
        options = f"-n -M prepared -c 4 --random-seed={seed} -U postgres {extent}".split()
        where = ("-h", str(self.root), "-f", str(self.root / "query.sql"))
        self._run("pgbench", *options, *where, "-l", f"--log-prefix={log}", "bench")
        began, ended = float("inf"), Counter[int]()
        for part in self.root.glob("transactions.*"):
            for line in part.read_text().splitlines():
                _, _, took, _, second, fraction = map(int, line.split())
                moment = second + fraction / 1e6
                began = min(began, moment - took / 1e6)
                ended[int(moment / TICK)] += 1
            part.unlink()
        return Work(began, ended)

    def stop(self) -> int:
        """Stop the server, whose count includes its children that have ended."""
        read = psutil.Process(self._pid()).io_counters().read_bytes
        self._control("stop", "-m", "fast")
        return int(read)

    @property
    def directory(self) -> Path:
        """The directory of tables and indexes."""
        return self.root / "data/base"

    def data(self) -> list[Path]:
        """List the files of tables and indexes."""
        return sorted(path for path in self.directory.glob("*/*") if path.is_file())


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

    def draw(self, count: int, seed: int) -> None:
        """Start the process, and draw the keys to read."""
        self._launch()
        self._ask(f"draw {count} {seed}")

    def start(self) -> None:
        """Open the store."""
        self._launch()
        self._ask("open")

    def _launch(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                self.confined(*self._command("serve")),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def _ask(self, request: str) -> str:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"RocksDB ended at `{request}`")
        return answer

    def work(self, count: int, seed: int) -> Work:
        """Read keys one after the other."""
        self._ask(f"draw {count} {seed}")
        return self._read(0)

    def work_for(self, seconds: int, seed: int) -> Work:
        """Read keys one after the other."""
        del seed
        return self._read(seconds)

    def _read(self, seconds: int) -> Work:
        answer = json.loads(self._ask(f"read {seconds}"))
        return Work(answer["began"], {int(tick): n for tick, n in answer["ended"].items()})

    def stop(self) -> int:
        """End the process."""
        assert self._process is not None
        read = psutil.Process(self._process.pid).io_counters().read_bytes
        self._process.communicate()
        self._process = None
        return int(read)

    def data(self) -> list[Path]:
        """List the tables."""
        return sorted(self.root.glob("*.sst"))
