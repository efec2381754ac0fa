"""Starting, queueing, cancelling and ending operations, on the real store and real threads."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast._engine import NotPermittedError, RecordError
from holdfast.operations.model import (
    Conflict,
    IdempotencyMismatch,
    Operation,
    OperationFailed,
    Problem,
    RequestError,
    Slug,
    State,
    UnknownOperation,
)
from holdfast.operations.store import Store
from tests.support.daemon.operations import (
    Params,
    Result,
    Work,
    directed,
    ended,
    kind_of,
    operations,
    start,
)
from tests.support.waiting import until


def test_an_operation_runs_to_its_result(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work)) as service:
        operation = start(service, name="four")
        assert operation.params == {"name": "four", "size": 0}
        assert operation.actor == "tester"
        context = work.wait_begun()
        assert context.id == operation.id
        assert not context.resumed
        running = service.get(operation.id)
        assert running.state is State.RUNNING
        assert running.started_at is not None
        assert running.result is None
        counters = directed(context)
        counters.phase, counters.bytes_expected, counters.bytes_done = "reading", 10, 4
        assert service.get(operation.id).progress.bytes_done == 4
        assert service.list()[0].progress.bytes_done == 4
        counters.bytes_done, counters.files_done = 10, 2
        work.release(context)
        done = ended(service, operation)
        assert done.state is State.SUCCEEDED
        assert done.result == {"name": "four"}
        assert done.error is None
        assert done.finished_at is not None
        assert (done.progress.bytes_done, done.progress.files_done) == (10, 2)
        assert done.progress.phase == "reading"
    with operations(tmp_path, kind_of(work)) as service:
        assert service.get(operation.id) == done


def test_the_row_is_on_the_disk_before_the_work_begins(tmp_path: Path) -> None:
    seen: list[Operation | None] = []

    def look(context: object) -> Result:
        other = Store(tmp_path)
        seen.append(other.get(getattr(context, "id", "")))
        other.close()
        return Result(name="")

    work = Work(outcome=look)
    work.release_all()
    with operations(tmp_path, kind_of(work)) as service:
        ended(service, start(service))
    assert seen[0] is not None
    assert seen[0].state is State.RUNNING


def test_only_so_many_run_and_others_wait_in_order(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work), max_running=2) as service:
        started = [start(service, name=str(number)) for number in range(5)]
        contexts = [work.wait_begun(), work.wait_begun()]
        assert [service.get(operation.id).state.value for operation in started] == [
            "running",
            "running",
            "queued",
            "queued",
            "queued",
        ]
        for expected in started[2:]:
            work.release(work.contexts[-1])
            assert work.wait_begun().id == expected.id
        work.release_all()
        for operation in started:
            assert ended(service, operation).state is State.SUCCEEDED
        assert len(contexts) == 2
        assert [operation.id for operation in service.list()] == [
            operation.id for operation in reversed(started)
        ]
        assert service.list(state=State.QUEUED) == []


def test_operations_that_share_a_resource_conflict_while_unfinished(tmp_path: Path) -> None:
    work = Work()
    kinds = (
        kind_of(work, "test.first", exclusive=True),
        kind_of(work, "test.second", exclusive=True),
    )
    with operations(tmp_path, *kinds, max_running=1) as service:
        running = start(service, "test.first", name="shared")
        queued = start(service, "test.first", name="other")
        context = work.wait_begun()
        with pytest.raises(Conflict, match=running.id) as conflict:
            start(service, "test.second", name="shared")
        assert conflict.value.running.state is State.RUNNING
        with pytest.raises(Conflict) as conflict:
            start(service, "test.second", name="other")
        assert conflict.value.running.id == queued.id
        assert len(service.list()) == 2
        work.release(context)
        ended(service, running)
        start(service, "test.second", name="shared")
        work.release_all()


def test_two_that_conflict_never_both_start(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work, exclusive=True), max_running=8) as service:
        barrier = threading.Barrier(8)

        def attempt(_: int) -> bool:
            barrier.wait()
            try:
                start(service)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(8))) == 1
        work.release_all()


def test_an_idempotency_key_answers_the_same_operation_also_after_a_restart(
    tmp_path: Path,
) -> None:
    work = Work()
    kinds = (kind_of(work, exclusive=True), kind_of(work, "test.other"))
    with operations(tmp_path, *kinds) as service:
        first, created = service.start(
            "test.work", Params(), actor="one", idempotency_key="key of one"
        )
        assert created
        # It would conflict with itself, were the key not looked up first.
        again, created = service.start(
            "test.work", Params(name="one"), actor="one", idempotency_key="key of one"
        )
        assert not created
        assert again.id == first.id
        work.release_all()
        done = ended(service, first)
    with operations(tmp_path, *kinds) as service:
        again, created = service.start(
            "test.work", Params(), actor="one", idempotency_key="key of one"
        )
        assert not created
        assert again == done
        for kind, params in (("test.work", Params(size=1)), ("test.other", Params())):
            with pytest.raises(IdempotencyMismatch, match="another body") as mismatch:
                service.start(kind, params, actor="one", idempotency_key="key of one")
            assert mismatch.value.existing.id == first.id
        assert len(service.list()) == 1


def test_a_request_is_checked_unless_its_key_has_started_it(tmp_path: Path) -> None:
    work = Work()
    work.release_all()
    gone = False

    def check(_params: Params) -> None:
        if gone:
            raise RequestError(Slug.NOT_FOUND, "It is gone.")

    with operations(tmp_path, replace(kind_of(work), check=check)) as service:
        first = service.start("test.work", Params(), actor="one", idempotency_key="k")[0]
        done = ended(service, first)
        gone = True
        again = service.start("test.work", Params(), actor="one", idempotency_key="k")
        assert again == (done, False)
        with pytest.raises(IdempotencyMismatch):
            service.start("test.work", Params(size=2), actor="one", idempotency_key="k")
        with pytest.raises(RequestError, match="It is gone"):
            service.start("test.work", Params(), actor="one", idempotency_key="another")
        assert len(service.list()) == 1


def test_one_key_used_by_many_at_once_makes_one_operation(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work)) as service:

        def attempt(_: int) -> tuple[str, bool]:
            operation, created = service.start(
                "test.work", Params(), actor="one", idempotency_key="k"
            )
            return operation.id, created

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(attempt, range(16)))
        assert len({id_ for id_, _ in answers}) == 1
        assert sum(created for _, created in answers) == 1
        work.release_all()


@pytest.mark.parametrize("key", ["", "x" * 256, "line\nbreak"])
def test_an_unfit_idempotency_key_is_refused(tmp_path: Path, key: str) -> None:
    with operations(tmp_path, kind_of(Work())) as service:
        with pytest.raises(RequestError) as refused:
            start(service, idempotency_key=key)
        assert refused.value.slug is Slug.INVALID_REQUEST
        assert service.list() == []


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    with operations(tmp_path, kind_of(Work())) as service:
        for call in (service.get, service.cancel):
            with pytest.raises(UnknownOperation, match="no operation 'nothing'"):
                call("nothing")


def test_a_queued_operation_is_cancelled_at_once_and_never_runs(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work), max_running=1) as service:
        running = start(service)
        work.wait_begun()
        queued = start(service)
        cancelled = service.cancel(queued.id, actor="an operator")
        assert cancelled.state is State.CANCELLED
        assert cancelled.started_at is None
        assert cancelled.error is not None
        assert "an operator" in cancelled.error.detail
        assert service.cancel(queued.id) == cancelled
        work.release_all()
        ended(service, running)
        assert service.get(queued.id) == cancelled
        assert [context.id for context in work.contexts] == [running.id]


def test_a_running_operation_is_cancelled_within_a_second(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work)) as service:
        operation = start(service)
        directed(work.wait_begun()).bytes_done = 5
        service.cancel(operation.id, actor="an operator")

        def final() -> Operation | None:
            found = service.get(operation.id)
            return found if found.state.final else None

        cancelled = until(final, seconds=1.0, what="the cancellation")
        assert cancelled.state is State.CANCELLED
        assert cancelled.error is not None
        assert cancelled.error.slug == "cancelled"
        assert cancelled.progress.bytes_done == 5
        assert service.cancel(operation.id) == cancelled


def test_cancelling_what_has_ended_changes_nothing(tmp_path: Path) -> None:
    work = Work()
    work.release_all()
    with operations(tmp_path, kind_of(work)) as service:
        done = ended(service, start(service))
        assert service.cancel(done.id) == done


def test_work_that_was_done_before_it_heard_of_its_cancellation_succeeded(tmp_path: Path) -> None:
    work = Work(deaf=True)
    with operations(tmp_path, kind_of(work)) as service:
        operation = start(service)
        context = work.wait_begun()
        service.cancel(operation.id)
        work.release(context)
        assert ended(service, operation).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "slug", "words"),
    [
        (
            OperationFailed(Problem.of(Slug.INSUFFICIENT_MEMORY, "Mine.")),
            "insufficient-memory",
            "Mine.",
        ),
        (RequestError(Slug.NOT_FOUND, "Gone."), "not-found", "Gone."),
        (RecordError("the trailer is missing"), "bad-record", "the trailer is missing."),
        (NotPermittedError("may not probe /x"), "not-permitted", "may not probe /x."),
        (OSError(errno.ENOSPC, "No space left on device", "/d/x"), "no-space", "'/d/x'"),
        (OSError(errno.EDQUOT, "Quota exceeded", "/d/x"), "no-space", "Quota exceeded"),
        (PermissionError(errno.EACCES, "Permission denied", "/d/x"), "not-permitted", "'/d/x'"),
        (OSError(errno.EIO, "Input/output error", b"/d/\xff"), "io-error", "\\xff"),
        (ValueError("window too small"), "invalid-request", "window too small."),
        (MemoryError(), "insufficient-memory", "memory"),
    ],
)
def test_what_goes_wrong_is_named(
    tmp_path: Path, error: Exception, slug: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise error

    work = Work(outcome=fail)
    work.release_all()
    with operations(tmp_path, kind_of(work)) as service:
        failed = ended(service, start(service))
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert failed.error.slug == slug
    assert words in failed.error.detail
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "outcome",
    [lambda _: 1 // 0, lambda _: Params(), lambda _: Params.model_validate({"size": "x"})],
)
def test_an_unexpected_error_is_logged_and_not_told(
    tmp_path: Path, outcome: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(outcome)
    work = Work(outcome=outcome)
    work.release_all()
    with operations(tmp_path, kind_of(work)) as service:
        failed = ended(service, start(service))
    assert failed.error is not None
    assert failed.error.slug == "internal"
    assert failed.id in failed.error.detail
    assert "Traceback" in caplog.text


def test_rows_are_bounded(tmp_path: Path) -> None:
    work = Work()
    work.release_all()
    with operations(tmp_path, kind_of(work), keep=3) as service:
        for _ in range(6):
            last = ended(service, start(service))
        until(lambda: len(service.list()) == 3, what="the removal of old rows")
        assert service.list()[0].id == last.id


def test_figures_add_up(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work), kind_of(work, "test.never")) as service:
        first, second = start(service), start(service)
        for context in (work.wait_begun(), work.wait_begun()):
            counters = directed(context)
            counters.bytes_done, counters.bytes_expected, counters.read_bytes = 3, 10, 7
        figures = service.figures()
        assert figures["test.work"].running == 2
        assert figures["test.work"].progress.bytes_done == 6
        assert figures["test.work"].progress.bytes_expected == 20
        assert figures["test.work"].read_bytes == 14
        assert figures["test.never"].started == 0
        service.cancel(second.id)
        ended(service, second)
        work.release_all()
        ended(service, first)
        figures = service.figures()
        assert figures["test.work"].started == 2
        assert figures["test.work"].running == 0
        assert figures["test.work"].read_bytes == 14
        assert figures["test.work"].finished == {State.SUCCEEDED: 1, State.CANCELLED: 1}
        assert figures["test.work"].last_duration is not None
    with operations(tmp_path, kind_of(work)) as service:
        again = service.figures()["test.work"]
        assert again.started == 0
        assert again.last_success == figures["test.work"].last_success
