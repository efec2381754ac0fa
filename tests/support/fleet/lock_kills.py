"""Kills processes that take and release the fleet's lock, and finds a lock that leaked or was lost.

`python -m tests.support.fleet.lock_kills KILLS SEED`, with both kinds of lock managers; ends with a
line for each, and with 1 at the first fault. Each round is a process of its own on the state of its
predecessor: a node that arms, asks, and orders a reboot or not, and is killed at any moment. The
manager grants the lock at once, and loses one answer of ten.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.operations.model import now
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.interlock.fleet_lock import Answer, FleetLock, Verdict
from holdfast.reimage.interlock.lock_keeper import LockKeeper
from holdfast.reimage.models import StageRequest
from holdfast.reimage.states import ReimageState
from tests.support.waiting import until

_S = ReimageState
_NODE = "n"


class Manager(FleetLock):
    """A lock manager in a file, so that it outlives every process that asks it."""

    file: Path
    kind: str

    def acquire(self) -> Answer:
        _shortly()
        self.file.write_text(self.id)
        return self._answered(Answer(Verdict.YES, "Yes."))

    def release(self) -> Answer:
        _shortly()
        if self.kind == "airlock" or self.file.exists():
            self.file.unlink(missing_ok=True)
        return self._answered(Answer(Verdict.YES, "Yes."))

    @staticmethod
    def _answered(answer: Answer) -> Answer:
        _shortly()
        return Answer(Verdict.UNKNOWN, "Lost.") if random.random() < 0.1 else answer


def _shortly() -> None:
    time.sleep(random.random() * 0.002)


def _manager(kind: str, file: Path) -> Manager:
    made = Manager("http://localhost", _NODE, "default")
    object.__setattr__(made, "file", file)
    object.__setattr__(made, "kind", kind)
    return made


def _node(state_dir: Path, manager: Manager) -> tuple[Attempt, LockKeeper]:
    attempt = Attempt(state_dir)
    attempt.load()
    keeper = LockKeeper(attempt, state_dir, manager, lambda _entry: None)
    keeper.load()
    assert keeper.damage is None, keeper.damage
    return attempt, keeper


def _live(state_dir: Path, manager: Manager) -> None:
    """Be a node until killed: ask for the lock, and go down under it or not."""
    attempt, keeper = _node(state_dir, manager)
    keeper.start()
    while True:
        job = attempt.job
        if job is None or job.state in (_S.CONFIRMED, _S.IDLE):
            attempt.begin(str(time.monotonic_ns()), StageRequest(descriptor="https://x.example/"))
        elif job.state is _S.STAGING:
            attempt.move(_S.STAGED, "Staged.")
        elif job.state is _S.STAGED:
            attempt.move(_S.ARMED, "Armed.", boot_id=attempt.boot_id)
        elif job.state is _S.ARMED:
            granted = keeper.acquire(job.operation).verdict is Verdict.YES
            if granted and random.random() < 0.5:
                keeper.ordered(job.operation)
                attempt.move(_S.REBOOTING, "Ordered.", rebooted_at=now())
            keeper.settle()
        elif job.state is _S.REBOOTING:
            attempt.move(_S.BOOTED, "Booted.", booted_at=now())
        elif random.random() < 0.3:
            attempt.confirmed("Good.")
        _shortly()


@contextmanager
def _forked() -> Iterator[int]:
    """Yield 0 in a process of its own, and its id here."""
    pid = os.fork()
    if pid == 0:
        random.seed()
        try:
            yield 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    yield pid


def run(kind: str, kills: int, seed: int) -> None:
    """Kill that many processes. Raises `AssertionError` at a lock that leaked or was lost."""
    moments = random.Random(seed)
    held = 0
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        # Models are built when they are first used, which takes longer than a process lives here.
        attempt, keeper = _node(Path(directory), _manager(kind, Path(directory) / "lock"))
        attempt.begin("warm", StageRequest(descriptor="https://x.example/"))
        keeper.acquire("warm")
        _node(Path(directory), _manager(kind, Path(directory) / "lock"))
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        state_dir, manager = Path(directory), _manager(kind, Path(directory) / "lock")
        for number in range(kills):
            with _forked() as pid:
                if pid == 0:
                    _live(state_dir, manager)
                time.sleep(moments.random() * 0.03)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            attempt, keeper = _node(state_dir, manager)
            state = attempt.state
            if state in (_S.REBOOTING, _S.BOOTED):
                held += 1
                assert manager.file.exists(), f"kill {number}: lost in state {state}"
            if manager.file.exists():
                assert keeper.held, f"kill {number}: leaked in state {state}"
        attempt, keeper = _node(state_dir, manager)
        attempt.load()
        if attempt.state in (_S.REBOOTING, _S.BOOTED):
            attempt.update(state=_S.CONFIRMED)
        keeper.start()
        until(lambda: not keeper.held, what="a lock that is given back at the end")
        keeper.stop(5)
        assert not manager.file.exists(), "leaked at the end"
    sys.stdout.write(f"{kind}: {kills} kills, {held} of them with a lock that has to be held\n")


if __name__ == "__main__":
    for each in ("airlock", "poseidon"):
        run(each, int(sys.argv[1]), int(sys.argv[2]))
