"""Operations over crashes, shutdowns and stores that fail, on the real store and real threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from holdfast.operations.ids import new_id
from holdfast.operations.model import (
    Conflict,
    Operation,
    ProgressReport,
    RequestError,
    ShuttingDown,
    Slug,
    State,
    now,
)
from holdfast.operations.service import MAX_CRASHES
from holdfast.operations.store import Store
from tests.support.daemon.operations import (
    Params,
    Work,
    directed,
    ended,
    kind_of,
    operations,
    start,
)
from tests.support.waiting import until


def test_after_a_crash_nothing_is_lost_or_shown_as_running(tmp_path: Path) -> None:
    """Rows as a killed daemon leaves them: one running of each sort, one queued."""
    work = Work()
    kinds = (kind_of(work), kind_of(work, "test.resumable", resumable=True))
    _leave(tmp_path, ("test.work", True), ("test.resumable", True), ("test.work", False))
    work.release_all()
    with operations(tmp_path, *kinds) as service:
        lost, resumed, queued = reversed(service.list())
        assert lost.state is State.INTERRUPTED
        assert lost.finished_at is not None
        assert lost.error is not None
        assert lost.error.slug == "interrupted"
        assert "ended without warning" in lost.error.detail
        assert ended(service, resumed).state is State.SUCCEEDED
        assert ended(service, queued).state is State.SUCCEEDED
        assert {context.id: context.resumed for context in work.contexts} == {
            resumed.id: True,
            queued.id: False,
        }


def _leave(directory: Path, *rows: tuple[str, bool]) -> list[Operation]:
    """Write unfinished rows and close the store without any further ado."""
    store = Store(directory)
    left = []
    for kind, running in rows:
        operation = Operation(
            id=new_id(),
            kind=kind,
            state=State.QUEUED,
            actor="tester",
            created_at=now(),
            params=Params().model_dump(),
        )
        store.insert(operation, None, None)
        if running:
            store.begin(operation.id, now())
        left.append(operation)
    store.close()
    return left


def test_an_operation_that_kills_the_daemon_each_time_is_not_resumed_for_ever(
    tmp_path: Path,
) -> None:
    (operation,) = _leave(tmp_path, ("test.resumable", True))
    store = Store(tmp_path)
    for _ in range(MAX_CRASHES - 1):
        store.requeue(operation.id, ProgressReport(), crashed=True)
        store.begin(operation.id, now())
    store.close()
    work = Work()
    with operations(tmp_path, kind_of(work, "test.resumable", resumable=True)) as service:
        found = service.get(operation.id)
    assert found.state is State.INTERRUPTED
    assert found.error is not None
    assert f"{MAX_CRASHES} times" in found.error.detail
    assert work.contexts == []


def test_what_this_version_cannot_run_any_more_is_interrupted(tmp_path: Path) -> None:
    (operation,) = _leave(tmp_path, ("test.gone", False))
    with operations(tmp_path, kind_of(Work())) as service:
        found = service.get(operation.id)
    assert found.state is State.INTERRUPTED
    assert found.error is not None
    assert "This version" in found.error.detail


def test_resumed_operations_still_hold_their_resources(tmp_path: Path) -> None:
    _leave(tmp_path, ("test.work", True))
    work = Work()
    with operations(tmp_path, kind_of(work, resumable=True, exclusive=True)) as service:
        with pytest.raises(Conflict):
            start(service)
        work.release_all()


def test_shutdown_records_running_work_and_leaves_the_rest_for_the_next_start(
    tmp_path: Path,
) -> None:
    work = Work()
    kinds = (kind_of(work), kind_of(work, "test.resumable", resumable=True))
    with operations(tmp_path, *kinds, max_running=2) as service:
        plain = start(service)
        work.wait_begun()
        resumable = start(service, "test.resumable")
        directed(work.wait_begun()).bytes_done = 9
        queued = start(service)
        service.shutdown(5.0)
        with pytest.raises(ShuttingDown):
            start(service)
        interrupted = service.get(plain.id)
        assert interrupted.state is State.INTERRUPTED
        assert interrupted.error is not None
        assert "daemon was stopped" in interrupted.error.detail
    store = Store(tmp_path)
    assert {left.operation.id: left.resumed for left in store.unfinished()} == {
        resumable.id: True,
        queued.id: False,
    }
    assert {left.operation.state for left in store.unfinished()} == {State.QUEUED}
    (row,) = [left for left in store.unfinished() if left.resumed]
    assert row.operation.progress.bytes_done == 9
    assert row.crashes == 0
    store.close()
    work.release_all()
    with operations(tmp_path, *kinds) as service:
        assert ended(service, resumable).state is State.SUCCEEDED
        assert ended(service, queued).state is State.SUCCEEDED
        assert service.get(plain.id) == interrupted


def test_what_a_client_cancelled_is_cancelled_also_when_the_daemon_stops(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work, resumable=True)) as service:
        operation = start(service)
        work.wait_begun()
        service.cancel(operation.id)
        service.shutdown(5.0)
        assert service.get(operation.id).state is State.CANCELLED


def test_work_that_does_not_stop_is_recorded_all_the_same(tmp_path: Path) -> None:
    work = Work(deaf=True)
    with operations(tmp_path, kind_of(work)) as service:
        operation = start(service)
        context = work.wait_begun()
        service.shutdown(0.1)
        assert service.get(operation.id).state is State.INTERRUPTED
        work.release(context)
        until(lambda: threading.active_count() == 1, what="the end of the thread")
        assert service.get(operation.id).state is State.INTERRUPTED


def test_no_thread_is_left_and_none_exists_while_idle(tmp_path: Path) -> None:
    before = threading.active_count()
    work = Work()
    work.release_all()
    with operations(tmp_path, kind_of(work)) as service:
        assert threading.active_count() == before
        ended(service, start(service))
        # Only the ticker, asleep until something runs again.
        until(lambda: threading.active_count() <= before + 1, what="the end of the thread")
    assert threading.active_count() == before


def test_an_outcome_that_could_not_be_recorded_is_recorded_later(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work)) as service:
        operation = start(service)
        context = work.wait_begun()
        # Another connection that holds the write lock and a store that gives up at once simulate a
        # disk that is full for a while.
        blocker = Store(tmp_path)
        service._store._writer.execute("PRAGMA busy_timeout = 0")
        blocker._writer.execute("BEGIN IMMEDIATE")
        work.release(context)
        assert ended(service, operation).state is State.SUCCEEDED
        recorded = blocker.get(operation.id)
        assert recorded is not None
        assert recorded.state is State.RUNNING
        blocker._writer.execute("COMMIT")
        blocker.close()
    store = Store(tmp_path)
    found = store.get(operation.id)
    store.close()
    assert found is not None
    assert found.state is State.SUCCEEDED


def test_a_start_that_cannot_be_recorded_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work, exclusive=True)) as service:
        blocker = Store(tmp_path)
        service._store._writer.execute("PRAGMA busy_timeout = 0")
        blocker._writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(RequestError) as refused:
            start(service)
        assert refused.value.slug is Slug.UNAVAILABLE
        blocker._writer.execute("COMMIT")
        blocker.close()
        assert work.contexts == []
        start(service)
        work.release_all()
