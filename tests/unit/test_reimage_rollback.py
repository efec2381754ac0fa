"""What is kept of an old system, and when it is put back by itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import Progress
from holdfast.operations.model import (
    Conflict,
    Operation,
    RequestError,
    Slug,
    State,
    UnknownOperation,
    now,
)
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.images.kinds import describe
from holdfast.reimage.images.models import DescribeParams
from holdfast.reimage.models import ReimageState, RollbackRequest, StageRequest
from holdfast.reimage.rollback import RollbackWatch, deadline

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
    assert [one.name for one in (tmp_path / "previous").iterdir()] == [SECOND]
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
    """The calls and operations of a machine that does as it is told, and remembers it."""

    attempt: Attempt
    ended: bool = True
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
        return self._operation(operation_id, State.FAILED if self.ended else State.RUNNING)

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
class Case:
    attempt: Attempt
    machine: Machine
    watch: RollbackWatch


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
    attempt.update(booted_at=now() - timedelta(seconds=age))
    attempt.move(state, "So it is.")
    machine = Machine(attempt)
    return Case(
        attempt, machine, RollbackWatch(attempt, threading.Lock(), machine, machine, "reimage")
    )


def test_what_is_overdue_is_put_back_step_by_step_and_once(tmp_path: Path) -> None:
    one = case(tmp_path, _S.BOOTED)
    one.watch.look()
    assert one.machine.did == ["cancel first"]
    one.machine.ended = False
    one.watch.look()
    assert len(one.machine.did) == 1, "its operation has not ended"
    one.machine.ended = True
    one.watch.look()
    job = one.attempt.require()
    assert (job.operation, job.automatic, job.rollback_of) == ("second", True, "first")
    one.watch.look()  # it is still being staged
    one.attempt.move(_S.STAGED, "Staged.")
    one.watch.look()
    one.watch.look()
    one.watch.look()
    assert one.machine.did == ["cancel first", "start reimage", "arm", "reboot"]


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
    one = case(tmp_path, state, **more)
    one.watch.look()
    assert one.machine.did == []


def test_there_is_no_second_one(tmp_path: Path) -> None:
    one = case(tmp_path, _S.UNCONFIRMED)
    one.machine.problem = RequestError(Slug.CONFLICT, "It is in the way.")
    one.watch.look()
    job = one.attempt.require()
    assert job.reason == "The automatic rollback was not begun: It is in the way."
    assert deadline(job) is None
    one.machine.problem = None
    # Also for the next process.
    again = Attempt(tmp_path)
    again.load()
    machine = Machine(again)
    RollbackWatch(again, threading.Lock(), machine, machine, "reimage").look()
    assert machine.did == []
    # And who then asks for it does every step.
    again.begin("by hand", request(again.store.previous.require().descriptor_sha256))
    assert not again.require().automatic


def test_it_waits_while_checks_are_made_again(tmp_path: Path) -> None:
    one = case(tmp_path, _S.UNCONFIRMED)
    one.machine.problem = Conflict(one.machine.get("other"))
    one.watch.look()
    assert one.attempt.require().rollback_begun is None
    one.machine.problem = None
    one.watch.look()
    assert one.machine.did == ["start reimage", "start reimage"]


def test_what_stops_it_is_told_and_it_does_not_go_on(tmp_path: Path) -> None:
    one = case(tmp_path, _S.UNCONFIRMED)
    one.watch.look()
    one.attempt.move(_S.STAGED, "Staged.")
    one.machine.problem = RequestError(Slug.CONFLICT, "There is no boot loader.")
    one.watch.look()
    one.machine.problem = None
    one.watch.look()
    assert one.machine.did == ["start reimage", "arm"]
    job = one.attempt.require()
    assert job.reason == "The automatic rollback stopped: There is no boot loader."
    assert job.state is _S.STAGED
