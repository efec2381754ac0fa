"""Two nodes: a source that offers, and a destination that pulls."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.daemon.harness import Daemon, free_port
from tests.support.machine.disk import write_file

MIB = 1 << 20


@dataclass
class Pair:
    """A source and a destination, each a daemon of its own."""

    source: Daemon
    destination: Daemon
    port: int
    name: str = "db"
    """Of the directory, on both."""

    @property
    def offered(self) -> Path:
        """The directory that tests offer."""
        return self.source.root / self.name

    @property
    def fetched(self) -> Path:
        """The directory that tests fetch it into."""
        return self.destination.root / self.name

    def offer(self, **body: Any) -> dict[str, Any]:
        """Make an offer; answer it with its ticket."""
        answer = self.source.http.post(
            "/v1/transfers/offers", json={"path": str(self.offered)} | body
        )
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def body(self, ticket: Any, **members: Any) -> dict[str, Any]:
        """Return the body of a pull."""
        return {"ticket": ticket, "path": str(self.fetched)} | members

    def start(self, ticket: Any, **members: Any) -> dict[str, Any]:
        """Start a pull; return the operation."""
        return self.destination.start("/v1/transfers", self.body(ticket, **members))

    def pull(self, ticket: Any, **members: Any) -> dict[str, Any]:
        """Pull, and return the operation once it ended."""
        return self.destination.finish(self.start(ticket, **members))

    def pulled(self, ticket: Any, **members: Any) -> dict[str, Any]:
        """Pull, which must succeed; return the result."""
        operation = self.pull(ticket, **members)
        assert operation["state"] == "succeeded", operation
        result: dict[str, Any] = operation["result"]
        return result

    def refused(self, ticket: Any, **members: Any) -> dict[str, Any]:
        """Pull, which must be refused or fail; return the problem."""
        answer = self.destination.http.post("/v1/transfers", json=self.body(ticket, **members))
        if answer.status_code != 202:
            problem: dict[str, Any] = answer.json()
            return problem
        operation = self.destination.finish(answer.json())
        assert operation["state"] == "failed", operation
        failed: dict[str, Any] = operation["error"]
        return failed


def make_pair(start_daemon: Callable[..., Daemon], **settings: Any) -> Pair:
    """Start both; `settings` are those of the destination."""
    port = free_port()
    source = start_daemon(transfer={"listen": f"127.0.0.1:{port}"})
    pair = Pair(source, start_daemon(**settings), port)
    pair.offered.mkdir()
    return pair


def fill(directory: Path, *, small: int = 40, large: int = 3 * MIB) -> None:
    """Make a tree with what trees have: sizes, holes, links, empty directories, modes, times."""
    for number in range(small):
        file = directory / f"part{number % 4}" / f"f{number}"
        file.parent.mkdir(exist_ok=True)
        write_file(file, 100 + number * 997, seed=number)
    write_file(directory / "large", large, seed=99)
    with (directory / "holes").open("wb") as file_:
        file_.truncate(8 * MIB)
        file_.seek(4 * MIB)
        file_.write(b"island")
    (directory / "empty").mkdir(exist_ok=True)
    (directory / "link").symlink_to("large")
    os.link(directory / "large", directory / "again")
    (directory / "part0" / "f0").chmod(0o640)
    os.utime(directory / "part0" / "f0", ns=(1, 1_234_567_890_123_456_789))


def tree(directory: Path) -> dict[str, Any]:
    """Describe all of a tree but holdfast's own: content, kind, mode, owner, time, link."""
    return dict(_described(directory, directory))


def _described(directory: Path, top: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".holdfast"):
            continue
        name, status = str(path.relative_to(top)), path.lstat()
        what: Any = None
        if path.is_symlink():
            what = str(path.readlink())
        elif path.is_file():
            what = path.read_bytes()
        yield (
            name,
            (
                stat.S_IFMT(status.st_mode),
                status.st_mode,
                status.st_uid,
                status.st_nlink if stat.S_ISREG(status.st_mode) else 0,
                0 if stat.S_ISLNK(status.st_mode) else status.st_mtime_ns,
                what,
            ),
        )
        if stat.S_ISDIR(status.st_mode):
            yield from _described(path, top)


def save_ticket(file: Path, ticket: Any) -> Path:
    """Write a ticket as the command line prints it."""
    file.write_text(json.dumps(ticket) + "\n")
    file.chmod(0o600)
    return file
