"""How many operations may wait, what waits for nothing, and who may cancel."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.operations.model import Operation, State
from holdfast.operations.queue import QUEUED_PER_ACTOR, QUEUED_PER_KIND, QueueFullError
from holdfast.operations.service import Operations
from holdfast.scopes import Scope
from tests.support.daemon.api import served
from tests.support.daemon.operations import Params, Work, kind_of, operations


def ask(
    service: Operations, number: int, kind: str = "test.work", actor: str = "a"
) -> tuple[Operation, bool]:
    return service.start(kind, Params(name=str(number)), actor=actor)


def test_a_caller_may_let_only_so_many_wait_and_others_still_can(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work), max_running=1) as service:
        ask(service, 0)
        work.wait_begun()
        for number in range(QUEUED_PER_ACTOR):
            ask(service, number)
        with pytest.raises(QueueFullError, match=f"{QUEUED_PER_ACTOR} operations of a are waiting"):
            ask(service, 99)
        ask(service, 99, actor="b")
        # The end of one frees a slot for the next.
        work.release(work.contexts[0])
        work.wait_begun()
        ask(service, 100)
        work.release_all()


def test_callers_together_may_let_only_so_many_of_a_kind_wait(tmp_path: Path) -> None:
    work = Work()
    kinds = kind_of(work), kind_of(work, "test.other")
    with operations(tmp_path, *kinds, max_running=1) as service:
        ask(service, 0, actor="first")
        work.wait_begun()
        for number in range(QUEUED_PER_KIND):
            ask(service, number, actor=f"actor {number}")
        with pytest.raises(QueueFullError, match=r"of kind test\.work are waiting"):
            ask(service, 99, actor="another")
        ask(service, 99, "test.other", actor="another")
        work.release_all()


def test_the_same_request_again_is_answered_though_the_queue_is_full(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work), max_running=1) as service:
        first, _ = service.start("test.work", Params(), actor="a", idempotency_key="k")
        work.wait_begun()
        for number in range(QUEUED_PER_ACTOR):
            ask(service, number)
        again, created = service.start("test.work", Params(), actor="a", idempotency_key="k")
        assert (again.id, created) == (first.id, False)
        work.release_all()


def test_the_bound_holds_after_a_restart(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work), max_running=1) as service:
        ask(service, 0)
        work.wait_begun()
        waiting = [ask(service, number)[0] for number in range(QUEUED_PER_ACTOR)]
        # As a version without bounds may have left it.
        surplus = [
            operation.model_copy(update={"id": f"{operation.id[:-3]}{number:03}"})
            for number, operation in enumerate(waiting)
        ]
        for refused in surplus:
            service._store.insert(refused, None, None)
    again = Work()
    with operations(tmp_path, kind_of(again), max_running=1) as service:
        again.wait_begun()
        with pytest.raises(QueueFullError):
            ask(service, 99)
        states = [service.get(operation.id).state for operation in (*waiting, *surplus)]
        assert states.count(State.QUEUED) == QUEUED_PER_ACTOR
        assert states[-1] is State.INTERRUPTED
        error = service.get(surplus[-1].id).error
        assert error is not None
        assert "are waiting already" in error.detail
        again.release_all()


@pytest.mark.parametrize("places", [1, 2, 4])
def test_what_is_urgent_waits_for_nothing_else(tmp_path: Path, places: int) -> None:
    work, load = Work(), Work()
    kinds = kind_of(work), kind_of(load, "test.load", urgent=True)
    with operations(tmp_path, *kinds, max_running=places) as service:
        for number in range(places + 3):
            ask(service, number)
        ordinary = max(1, places - 1)
        for _ in range(ordinary):
            work.wait_begun()
        assert len(service.list(state=State.RUNNING)) == ordinary
        first = ask(service, 0, "test.load")[0]
        assert load.wait_begun().id == first.id
        # Nor does it leave its place to others while it is there.
        assert len(service.list(state=State.RUNNING)) == ordinary + 1
        work.release_all()
        load.release_all()


def test_a_caller_whose_queue_is_full_may_still_load(tmp_path: Path) -> None:
    work, load = Work(), Work()
    kinds = kind_of(work), kind_of(load, "test.load", urgent=True)
    with operations(tmp_path, *kinds, max_running=2) as service:
        ask(service, 0)
        work.wait_begun()
        for number in range(QUEUED_PER_ACTOR):
            ask(service, number)
        ask(service, 0, "test.load")
        load.wait_begun()
        work.release_all()
        load.release_all()


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("needed", [Scope.OPERATE, Scope.ADMIN])
def test_cancelling_needs_the_scope_that_starting_needed(
    tmp_path: Path, needed: Scope, queued: bool
) -> None:
    work = Work()
    with served(tmp_path, kind_of(work, scope=needed)) as server:
        started = [ask(server.operations, number)[0] for number in range(5 if queued else 1)]
        work.wait_begun()
        target = started[-1]
        state = server.operations.get(target.id).state
        assert state is (State.QUEUED if queued else State.RUNNING)
        path = f"/v1/operations/{target.id}/cancel"
        for scope in (scope_ for scope_ in Scope if not scope_.includes(needed)):
            with server.tcp(scope.value) as client:
                refused = client.post(path)
            assert refused.status_code == 403
            if scope is Scope.OPERATE:
                assert "`admin`" in refused.json()["detail"]
            assert server.operations.get(target.id).state is state
        with server.tcp(needed.value) as client:
            assert client.post(path).status_code == 202
            ended = client.get(f"/v1/operations/{target.id}", params={"wait": 20}).json()
            assert ended["state"] == "cancelled"
            # Nor may others try to after its end, as if they could.
            with server.tcp("read") as reader:
                assert reader.post(path).status_code == 403
        work.release_all()


def test_settings_re_imaging_and_transfers_need_admin_to_be_cancelled(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        services = server.services
        scopes = {
            kind.name: kind.scope
            for capability in services.capabilities
            for kind in capability.kinds()
        }
    admin = {name for name, scope in scopes.items() if scope is Scope.ADMIN}
    assert admin == {
        "tuning.apply",
        "tuning.rollback",
        "reimage",
        "reimage.check",
        "transfer.pull",
        "transfer.repair",
    }
