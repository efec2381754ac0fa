"""The outcome of a trial is used again only where a trial would find the same."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from holdfast.privileged.boot.models import TryRequest
from holdfast.privileged.trial.kept import KeptTrials
from holdfast.privileged.trial.models import TrialRow
from tests.support.disks.trials import IMAGER, Node, ext4_disk, node
from tests.support.waiting import until

__all__ = ["node"]

NOT_READ = "was not read again"


def answer(*rows: tuple[str, str]) -> str:
    fields = [{"check": check, "outcome": outcome, "detail": "x"} for check, outcome in rows]
    return json.dumps({"rows": fields})


PASSED = answer(("copy", "passed"), ("mount", "passed"), ("write", "passed"))


@dataclass
class Counted:
    """A machine whose trials are counted, with a /proc and a place for outcomes of its own."""

    node: Node
    imager: Path
    runs: Path
    record: Path
    proc: Path

    def tries(self, **changes: object) -> tuple[int, list[TrialRow]]:
        """Try the image; return how often that started the program, and the rows."""
        machine = replace(self.node.boot.machine, proc=self.proc)
        boot = replace(
            self.node.boot,
            machine=machine,
            imager=self.imager,
            kept_trials=KeptTrials(self.record),
        )
        before = len(self.runs.read_text())
        rows = boot.try_image(TryRequest(arming=self.node.arming(**changes))).rows
        return len(self.runs.read_text()) - before, rows


@pytest.fixture
def counted(node: Node) -> Counted:
    node.stage(ext4_disk(node.directory, size_mib=16))
    proc = node.directory / "proc"
    proc.mkdir()
    for name in ("self", "swaps", "1"):
        (proc / name).symlink_to(f"/proc/{name}")
    (proc / "version").write_text("Linux version 6.1.0-40 #1")
    (node.directory / "runs").touch()
    made = Counted(
        node,
        imager=node.directory / "imager",
        runs=node.directory / "runs",
        record=node.directory / "records/trials.json",
        proc=proc,
    )
    program(made, PASSED)
    settled(node.image)
    return made


def program(counted: Counted, says: str) -> None:
    """Have a program try that notes that it was started."""
    script = f"#!/bin/sh\ncat >/dev/null\nprintf x >> {counted.runs}\necho '{says}'\n"
    counted.imager.write_text(script)
    counted.imager.chmod(0o755)


def settled(image: Path) -> None:
    """Wait until a later write leaves another time than the image has."""
    until(
        lambda: time.time_ns() - image.stat().st_ctime_ns > 100_000_000,
        what="a later time than the image's",
    )


def copied(rows: list[TrialRow]) -> str:
    return next(row.detail for row in rows if row.check == "copy")


def test_an_unchanged_image_is_tried_once(counted: Counted) -> None:
    runs, rows = counted.tries()
    assert (runs, NOT_READ in copied(rows)) == (1, False)
    runs, again = counted.tries()
    assert (runs, NOT_READ in copied(again)) == (0, True)
    assert [(row.check, row.outcome) for row in again] == [(row.check, row.outcome) for row in rows]
    assert (counted.record.stat().st_mode & 0o777, counted.record.stat().st_uid) == (
        0o600,
        os.geteuid(),
    )
    # Other wishes are another outcome, which is kept beside it.
    assert [counted.tries(identity=["hostname"])[0] for _ in range(2)] == [1, 0]
    assert counted.tries()[0] == 0


def change_image(counted: Counted) -> None:
    with counted.node.image.open("r+b") as file:
        file.write(b"x")


def replace_image(counted: Counted) -> None:
    """Put another file in its place, with the same size and time of modification."""
    image, times = counted.node.image, counted.node.image.stat()
    other = image.with_name("other")
    other.write_bytes(image.read_bytes())
    other.replace(image)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))


def write_and_turn_back_the_time(counted: Counted) -> None:
    times = counted.node.image.stat()
    change_image(counted)
    os.utime(counted.node.image, ns=(times.st_atime_ns, times.st_mtime_ns))


def describe_otherwise(counted: Counted) -> None:
    path = counted.node.image.with_name("descriptor.json")
    counted.node.redescribe(json.loads(path.read_text()) | {"image_version": "2"})


def change_the_hostname(counted: Counted) -> None:
    counted.node.boot.machine.path("/etc/hostname").write_text("another\n")


def rebuild_the_kernel(counted: Counted) -> None:
    (counted.proc / "version").write_text("Linux version 6.1.0-40 #2")


def install_another_imager(counted: Counted) -> None:
    program(counted, PASSED + " ")


def let_others_write(counted: Counted) -> None:
    counted.record.chmod(0o666)


def damage_the_record(counted: Counted) -> None:
    counted.record.write_text("{")


def write_another_version(counted: Counted) -> None:
    document = json.loads(counted.record.read_text()) | {"version": 2}
    counted.record.write_text(json.dumps(document))


def give_it_away(counted: Counted) -> None:
    os.chown(counted.record, 12345, -1)


@pytest.mark.parametrize(
    "change",
    [
        change_image,
        replace_image,
        write_and_turn_back_the_time,
        describe_otherwise,
        change_the_hostname,
        rebuild_the_kernel,
        install_another_imager,
        let_others_write,
        damage_the_record,
        write_another_version,
        give_it_away,
    ],
    ids=lambda change: change.__name__,
)
def test_what_changed_is_tried_again(counted: Counted, change: Callable[[Counted], None]) -> None:
    counted.tries()
    assert counted.tries()[0] == 0
    change(counted)
    runs, rows = counted.tries()
    assert (runs, NOT_READ in copied(rows)) == (1, False)


@pytest.mark.parametrize(
    "says",
    [
        answer(("copy", "passed"), ("mount", "failed")),
        answer(("copy", "passed"), ("mount", "passed"), ("write", "not_tried")),
        answer(("mount", "not_tried")),
        answer(("copy", "not_tried")),
    ],
)
def test_what_failed_or_was_not_tried_is_not_kept(counted: Counted, says: str) -> None:
    program(counted, says)
    assert [counted.tries()[0] for _ in range(2)] == [1, 1]
    assert not counted.record.exists()


def test_an_image_that_is_written_meanwhile_is_not_kept(counted: Counted) -> None:
    script = counted.imager.read_text().replace("printf", f"touch {counted.node.image}; printf")
    counted.imager.write_text(script)
    assert [counted.tries()[0] for _ in range(2)] == [1, 1]


def test_the_imagers_own_outcome_is_kept(node: Node, counted: Counted) -> None:
    counted.imager = IMAGER
    first, second = (counted.tries()[1] for _ in range(2))
    assert (NOT_READ in copied(first), NOT_READ in copied(second)) == (False, True)
    assert [row for row in first if row.check != "copy"] == [
        row for row in second if row.check != "copy"
    ]


def test_without_a_place_for_it_the_outcome_is_shown_all_the_same(counted: Counted) -> None:
    counted.record = Path("/proc/none/trials.json")
    assert [counted.tries()[0] for _ in range(2)] == [1, 1]
