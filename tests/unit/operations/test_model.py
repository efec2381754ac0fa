"""Ids, times, states and problems, as they are seen outside."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from holdfast.operations.ids import UlidFactory, decode, encode, new_id
from holdfast.operations.kinds import Registry
from holdfast.operations.model import (
    FieldError,
    Operation,
    Problem,
    Slug,
    State,
    format_time,
)
from tests.support.daemon.operations import Work, kind_of


def test_ids_sort_by_time_and_tell_it() -> None:
    before = time.time_ns() // 1_000_000
    made = new_id()
    after = time.time_ns() // 1_000_000
    assert encode(before << 80) <= made < encode((after + 1) << 80)
    assert len(made) == 26


def test_ids_are_unique_and_increase_also_within_a_millisecond_and_across_threads() -> None:
    factory = UlidFactory()
    assert (ids := [factory() for _ in range(2000)]) == sorted(set(ids))
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda _: [factory() for _ in range(500)], range(8)))
    assert all(batch == sorted(batch) for batch in batches)
    assert len({id_ for batch in batches for id_ in batch}) == 4000


def test_ids_increase_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = UlidFactory()
    first = factory()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert factory() > first


def test_ids_follow_those_that_another_process_made_by_a_clock_that_was_ahead() -> None:
    factory = UlidFactory()
    known = encode((time.time_ns() // 1_000_000 + 10**12) << 80)
    factory.follow(known)
    assert factory() > known
    factory.follow(new_id())
    assert factory() > known
    for wrong in ("", "x" * 26, known.replace(known[-1], "U"), "8" + known[1:]):
        with pytest.raises(ValueError, match=r"ULID|substring"):
            factory.follow(wrong)


def test_encoding_is_that_of_ulids() -> None:
    # The example of the ULID specification: its largest value.
    assert encode(2**128 - 1) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
    assert encode(0) == "0" * 26
    assert decode(encode(2**127 + 12345)) == 2**127 + 12345


def test_final_states() -> None:
    assert {state.value for state in State if not state.final} == {"queued", "running"}


def test_operation_json_is_that_of_the_contract() -> None:
    moment = datetime(2026, 11, 23, 1, 2, 3, 456789, UTC)
    operation = Operation(
        id="01JD",
        kind="manifest.build",
        state=State.RUNNING,
        actor="someone",
        created_at=moment,
        params={"root": "/mnt/data"},
    )
    assert json.loads(operation.model_dump_json()) == {
        "id": "01JD",
        "kind": "manifest.build",
        "state": "running",
        "outcome": None,
        "actor": "someone",
        "traceparent": None,
        "created_at": "2026-11-23T01:02:03.456Z",
        "started_at": None,
        "finished_at": None,
        "params": {"root": "/mnt/data"},
        "progress": {
            "phase": "",
            "current": None,
            "bytes_done": 0,
            "bytes_expected": None,
            "files_done": 0,
            "files_expected": None,
            "bytes_per_second": 0,
            "expected_hits": None,
            "eta_seconds": None,
        },
        "result": None,
        "error": None,
    }


def test_times_are_told_in_utc() -> None:
    there = timezone(timedelta(hours=2))
    assert format_time(datetime(2026, 1, 1, 1, 0, 0, 0, there)) == "2025-12-31T23:00:00.000Z"


def test_problem_json_has_errors_and_other_members_only_when_given() -> None:
    assert Problem.of(Slug.NO_SPACE, "Full.").model_dump() == {
        "type": "/problems/no-space",
        "title": "No space left",
        "status": 507,
        "detail": "Full.",
    }
    problem = Problem.of(
        Slug.CONFLICT, "Busy.", errors=[FieldError(field="a.0", message="no")], operation="01JD"
    )
    dumped = json.loads(problem.model_dump_json())
    assert dumped["errors"] == [{"field": "a.0", "message": "no"}]
    assert dumped["operation"] == "01JD"
    assert Problem.model_validate_json(problem.model_dump_json()) == problem
    assert problem.slug == "conflict"


def test_every_problem_type_has_a_title_and_a_status() -> None:
    for slug in Slug:
        assert slug.summary
        assert 400 <= slug.status < 600


def test_a_problem_about_a_name_that_is_not_utf8_can_be_told() -> None:
    assert "bad\\udcff" in Problem.of(Slug.IO_ERROR, "bad\udcff").model_dump_json().replace(
        "\\\\", "\\"
    )


def test_a_kind_is_registered_once() -> None:
    registry = Registry()
    registry.register(kind_of(Work()))
    with pytest.raises(ValueError, match="registered twice"):
        registry.register(kind_of(Work()))
    assert registry.names() == ("test.work",)
