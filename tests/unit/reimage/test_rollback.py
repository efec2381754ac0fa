"""What is kept of an old system, and when it is put back by itself."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import Progress
from holdfast.operations.model import (
    Conflict,
    Operation,
    ProgressReport,
    RequestError,
    Slug,
    State,
    UnknownOperation,
    now,
)
from holdfast.reimage.after_boot.confirmation_clock import ConfirmationClock, waits
from holdfast.reimage.after_boot.rollback import RollbackWatch
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.images.kinds import describe
from holdfast.reimage.images.models import DescribeParams
from holdfast.reimage.models import Check, RollbackRequest, StageRequest
from holdfast.reimage.states import ReimageState

FIRST, SECOND = "1" * 32, "2" * 32
_S = ReimageState


def keep(state_dir: Path, nonce: str, name: str, *, minutes: int = 0) -> str:
    """Put a system where the imager keeps it, and answer its descriptor's digest."""
    place = state_dir / "previous" / nonce
    place.mkdir(parents=True)
    (place / "image").write_bytes(name.encode().ljust(1 << 20, b"\0"))
    params = DescribeParams(
        file=place / "image",
        output=place / "descriptor.json",
        name=name,
        image_version="1",
        created=now() + timedelta(minutes=minutes),
    )
    return describe(params, Progress()).descriptor_sha256


def request(sha256: str = "0" * 64, **more: Any) -> StageRequest:
    return StageRequest(
        descriptor="https://images.example/a.json", descriptor_sha256=sha256, **more
    )


def test_the_newest_is_there_until_it_is_replaced_or_forgotten(tmp_path: Path) -> None:
    store = Attempt(tmp_path).store.previous
    assert store.found() is None
    with pytest.raises(RequestError):
        store.require()
    store.prepare()
    old = keep(tmp_path, FIRST, "old")
    new = keep(tmp_path, SECOND, "new", minutes=1)
    found = store.require()
    assert (found.descriptor_sha256, found.name) == (new, "new")
    # What came back to the old system has replaced nothing.
    store.withdraw(SECOND)
    assert store.require().descriptor_sha256 == old
    store.arrived(SECOND)  # which kept nothing
    assert store.require().descriptor_sha256 == old
    new = keep(tmp_path, SECOND, "new", minutes=1)
    store.arrived(SECOND)
    assert [path.name for path in (tmp_path / "previous").iterdir()] == [SECOND]
    (tmp_path / "previous" / f"{FIRST}.partial").mkdir()
    store.prepare()
    assert store.require().descriptor_sha256 == new
    attempt = Attempt(tmp_path)
    attempt.begin("operation", request())
    attempt.clear_images()
    assert store.require().descriptor_sha256 == new
    store.forget()
    store.forget()
    assert store.found() is None


def test_what_cannot_be_understood_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    store = Attempt(tmp_path).store.previous
    keep(tmp_path, FIRST, "old")
    (tmp_path / "previous" / FIRST / "descriptor.json").write_bytes(b"{}")
    assert store.found() is None


def test_an_attempt_with_a_kept_image_is_a_rollback(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    attempt.begin("first", request())
    assert not attempt.require().restores
    sha256 = keep(tmp_path, FIRST, "old")
    attempt.begin("second", request(sha256))
    job = attempt.require()
    assert (job.restores, job.rollback_of, job.automatic) == (True, "first", False)


@dataclass
class Machine:
    """The calls and operations of a machine that does as requested, and remembers it."""

    attempt: Attempt
    ended: bool = True
    bytes_checked: int = 0
    problem: Exception | None = None
    did: list[str] = field(default_factory=list)

    def rollback(self, request: RollbackRequest) -> StageRequest:
        kept = self.attempt.store.previous.require()
        return StageRequest(
            descriptor="file:///kept", descriptor_sha256=kept.descriptor_sha256, identity=[]
        )

    def check(self, params: StageRequest) -> None:
        """Nothing is in the way."""

    def arm(self) -> Any:
        self._do("arm")
        self.attempt.move(_S.ARMED, "Armed.")

    def reboot(self) -> Any:
        self._do("reboot")
        self.attempt.move(_S.REBOOTING, "Rebooted.")

    def start(self, kind: str, params: StageRequest, *, actor: str) -> tuple[Operation, bool]:
        self._do(f"start {kind}")
        self.attempt.begin("second", params)
        return self._operation("second", State.RUNNING), True

    def get(self, operation_id: str) -> Operation:
        if operation_id == "forgotten":
            raise UnknownOperation(operation_id)
        found = self._operation(operation_id, State.FAILED if self.ended else State.RUNNING)
        progress = ProgressReport(phase="verifying data", bytes_done=self.bytes_checked)
        return found.model_copy(update={"progress": progress})

    def cancel(self, operation_id: str, *, actor: str) -> Operation:
        self._do(f"cancel {operation_id}")
        self.attempt.unconfirmed("Not confirmed in time.")
        return self.get(operation_id)

    def _do(self, what: str) -> None:
        self.did.append(what)
        if self.problem is not None:
            raise self.problem

    @staticmethod
    def _operation(operation: str, state: State) -> Operation:
        return Operation(
            id=operation, kind="reimage", state=state, actor="a", created_at=now(), params={}
        )


@dataclass
class Clocks:
    """Both clocks of a machine, and its number of this boot."""

    boot_id: str = "first-boot"
    up: float = 10.0
    wall: datetime = field(default_factory=now)
    synchronised: bool = False

    def clock(self) -> ConfirmationClock:
        return ConfirmationClock(
            self.boot_id,
            boottime=lambda: self.up,
            wall=lambda: self.wall,
            synchronised=lambda: self.synchronised,
        )

    def passes(self, seconds: float) -> None:
        self.up += seconds
        self.wall += timedelta(seconds=seconds)


@dataclass
class Case:
    attempt: Attempt
    machine: Machine
    clocks: Clocks
    watch: RollbackWatch

    def reboot(self, boot_id: str, off_seconds: float) -> None:
        """Have another boot of the same system, and its holdfast read what was remembered."""
        self.clocks.boot_id, self.clocks.up = boot_id, 0.0
        self.clocks.wall += timedelta(seconds=off_seconds)
        self.attempt = Attempt(self.attempt.store.images.parent)
        self.attempt.load()
        self.machine = Machine(self.attempt)
        self.watch = _watch(self.attempt, self.machine, self.clocks)


def _watch(attempt: Attempt, machine: Machine, clocks: Clocks) -> RollbackWatch:
    return RollbackWatch(
        attempt, threading.Lock(), machine, machine, "reimage", clock=clocks.clock()
    )


def case(tmp_path: Path, state: ReimageState, *, age: int = 61, **more: Any) -> Case:
    """A new system of that age, with the old one kept."""
    wishes: dict[str, Any] = {
        "save_previous": True,
        "rollback": "automatic",
        "confirm_seconds": 60,
    } | more
    attempt = Attempt(tmp_path)
    attempt.begin("first", request(**wishes))
    keep(tmp_path, attempt.require().nonce, "old")
    clocks = Clocks()
    attempt.update(booted_at=clocks.wall, waiting=clocks.clock().begin())
    attempt.update(state=state)
    clocks.passes(age)
    machine = Machine(attempt)
    return Case(attempt, machine, clocks, _watch(attempt, machine, clocks))


def test_what_is_overdue_is_put_back_step_by_step_and_once(tmp_path: Path) -> None:
    scene = case(tmp_path, _S.BOOTED)
    scene.machine.ended = False
    scene.attempt.update(checks=[Check(name="data", passed=True, detail="It waits for a person.")])
    scene.watch.check()
    assert scene.machine.did == ["cancel first"]
    scene.watch.check()
    assert len(scene.machine.did) == 1, "its operation has not ended"
    scene.machine.ended = True
    scene.watch.check()
    job = scene.attempt.require()
    assert (job.operation, job.automatic, job.rollback_of) == ("second", True, "first")
    scene.watch.check()  # it is still being staged
    scene.attempt.move(_S.STAGED, "Staged.")
    scene.watch.check()
    scene.watch.check()
    scene.watch.check()
    assert scene.machine.did == ["cancel first", "start reimage", "arm", "reboot"]


@pytest.mark.parametrize(
    ("state", "more"),
    [
        (_S.CONFIRMED, {}),
        (_S.FAILED, {}),
        (_S.UNCONFIRMED, {"age": 50}),
        (_S.UNCONFIRMED, {"rollback": "never"}),
    ],
)
def test_nothing_else_leads_there(tmp_path: Path, state: ReimageState, more: Any) -> None:
    scene = case(tmp_path, state, **more)
    scene.watch.check()
    assert scene.machine.did == []


def test_there_is_no_second_one(tmp_path: Path) -> None:
    scene = case(tmp_path, _S.UNCONFIRMED)
    scene.machine.problem = RequestError(Slug.CONFLICT, "It is in the way.")
    scene.watch.check()
    job = scene.attempt.require()
    assert job.reason == "The automatic rollback was not started: It is in the way."
    assert not waits(job)
    scene.machine.problem = None
    # Also for the next process.
    again = Attempt(tmp_path)
    again.load()
    machine = Machine(again)
    _watch(again, machine, scene.clocks).check()
    assert machine.did == []
    # And who then asks for it does every step.
    again.begin("by hand", request(again.store.previous.require().descriptor_sha256))
    assert not again.require().automatic


def test_it_waits_while_checks_are_made_again(tmp_path: Path) -> None:
    scene = case(tmp_path, _S.UNCONFIRMED)
    scene.machine.problem = Conflict(scene.machine.get("other"))
    scene.watch.check()
    assert scene.attempt.require().rollback_begun is None
    scene.machine.problem = None
    scene.watch.check()
    assert scene.machine.did == ["start reimage", "start reimage"]


def test_what_stops_it_is_told_and_it_does_not_go_on(tmp_path: Path) -> None:
    scene = case(tmp_path, _S.UNCONFIRMED)
    scene.watch.check()
    scene.attempt.move(_S.STAGED, "Staged.")
    scene.machine.problem = RequestError(Slug.CONFLICT, "There is no boot loader.")
    scene.watch.check()
    scene.machine.problem = None
    scene.watch.check()
    assert scene.machine.did == ["start reimage", "arm"]
    job = scene.attempt.require()
    assert job.reason == "The automatic rollback stopped: There is no boot loader."
    assert job.state is _S.STAGED


@pytest.mark.parametrize("hours", [1, -1, 24 * 365])
def test_a_clock_that_is_stepped_puts_nothing_back(tmp_path: Path, hours: int) -> None:
    scene = case(tmp_path, _S.UNCONFIRMED, age=2)
    scene.clocks.wall += timedelta(hours=hours)
    scene.clocks.synchronised = True
    for _ in range(50):
        scene.watch.check()
        scene.clocks.passes(1)
    assert scene.machine.did == []
    scene.clocks.passes(10)
    scene.watch.check()
    assert scene.machine.did == ["start reimage"], "a minute has passed"


def test_time_counts_on_over_boots_without_the_time_of_day(tmp_path: Path) -> None:
    scene = case(tmp_path, _S.UNCONFIRMED, age=40)
    scene.watch.check()  # 40 s, which are remembered
    scene.reboot("second-boot", off_seconds=86_400)
    scene.watch.check()
    scene.clocks.passes(15)
    scene.watch.check()
    assert scene.machine.did == [], "nobody knows how long it was off"
    scene.clocks.passes(6)
    scene.watch.check()
    assert scene.machine.did == ["start reimage"]


def test_the_time_between_boots_counts_once_both_ends_were_synchronised(tmp_path: Path) -> None:
    scene = case(tmp_path, _S.UNCONFIRMED, age=5)
    scene.clocks.wall += timedelta(hours=5)  # NTP: the first time of day was wrong
    scene.clocks.synchronised = True
    scene.watch.check()
    scene.clocks.synchronised = False
    scene.reboot("second-boot", off_seconds=30)
    scene.watch.check()
    scene.clocks.passes(10)
    scene.watch.check()
    assert scene.machine.did == [], "by the boot clocks 15 s, by an unsynchronised one 45 s"
    scene.clocks.synchronised = True
    scene.clocks.passes(16)
    scene.watch.check()
    assert scene.machine.did == ["start reimage"], "by the time of day 61 s"


def test_checks_that_progress_are_not_broken_off(tmp_path: Path) -> None:
    scene = case(tmp_path, _S.BOOTED)
    scene.machine.ended = False
    for _ in range(10):
        scene.machine.bytes_checked += 1 << 20
        scene.watch.check()
        scene.clocks.passes(100)
    assert scene.machine.did == []
    scene.watch.check()
    scene.clocks.passes(130)
    scene.watch.check()
    assert scene.machine.did == ["cancel first"], "they have stood still for two minutes"


def test_the_clock_is_that_of_the_kernel_since_its_boot() -> None:
    module = "holdfast.reimage.after_boot.confirmation_clock"
    code = f"from {module} import *; print(boottime(), synchronised())"
    unshare = ("unshare", "--time", "--boottime", "7200", "--fork")
    reported = []
    for within in ((), unshare):
        done = subprocess.run(
            [*within, sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        if within and done.returncode != 0:
            pytest.skip(f"needs a time namespace: {done.stderr.strip()[-100:]}")
        reported.append(done.stdout.split())
    assert 7200 <= float(reported[1][0]) - float(reported[0][0]) < 7300
    assert reported[0][1] in ("True", "False")
