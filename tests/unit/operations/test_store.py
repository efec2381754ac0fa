"""The record of operations on a real file: durability, guards, damage, versions, retention."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.operations.model import (
    ProgressReport,
    State,
    now,
)
from holdfast.operations.results import Outcome
from holdfast.operations.schema import SCHEMA_VERSION
from holdfast.operations.store import (
    FILE_NAME,
    LISTED_BYTES,
    Selection,
    Store,
    StoreError,
)
from tests.support.daemon.operation_rows import VERSION_1, add, end, make, recent, reopen, store

__all__ = ["store"]


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_what_was_recorded_is_read_back_by_another_process(
    store: Store, tmp_path: Path, state: State
) -> None:
    ended = end(store, add(store), state)
    second = Store(tmp_path)
    try:
        assert second.get(ended.id) == ended
    finally:
        second.close()


def test_an_unknown_operation_is_none(store: Store) -> None:
    assert store.get("nothing") is None
    assert store.by_key("nothing") is None


def test_commits_are_forced_to_the_disk(store: Store) -> None:
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("state", [state for state in State if state.final])
def test_a_final_state_never_changes(store: Store, state: State) -> None:
    ended = end(store, add(store), state)
    assert not store.begin(ended.id, now())
    assert not store.requeue(ended.id, ProgressReport(), crashed=True)
    assert not store.finish(ended.model_copy(update={"state": State.FAILED, "result": None}))
    store.save_progress(ended.id, ProgressReport(bytes_done=1))
    assert store.get(ended.id) == ended


def test_only_queued_operations_begin_and_only_running_ones_go_back(store: Store) -> None:
    operation = add(store)
    assert not store.requeue(operation.id, ProgressReport(), crashed=False)
    assert store.begin(operation.id, now())
    assert not store.begin(operation.id, now())
    assert store.requeue(operation.id, ProgressReport(bytes_done=5), crashed=True)
    (left,) = store.unfinished()
    assert left.resumed
    assert left.crashes == 1
    assert left.operation.state is State.QUEUED
    assert left.operation.progress.bytes_done == 5


def test_the_time_of_the_first_start_is_kept(store: Store) -> None:
    operation, first = add(store), now()
    store.begin(operation.id, first)
    store.requeue(operation.id, ProgressReport(), crashed=False)
    store.begin(operation.id, first + timedelta(hours=1))
    found = store.get(operation.id)
    assert found is not None
    assert found.started_at == first


def test_progress_of_a_running_operation_is_kept(store: Store) -> None:
    operation = add(store)
    store.begin(operation.id, now())
    store.save_progress(operation.id, ProgressReport(bytes_done=12, bytes_expected=20))
    again = reopen(store)
    found = again.get(operation.id)
    again.close()
    assert found is not None
    assert found.progress.bytes_done == 12


def test_saving_progress_does_not_wait_for_a_commit_under_way(store: Store) -> None:
    operation = add(store)
    store.begin(operation.id, now())
    store._writer.execute("BEGIN IMMEDIATE")
    store.save_progress(operation.id, ProgressReport(bytes_done=12))
    store._writer.execute("COMMIT")
    found = store.get(operation.id)
    assert found is not None
    assert found.progress.bytes_done == 0


def test_lists_are_newest_first_and_can_be_narrowed(store: Store) -> None:
    first = end(store, add(store, kind="a.one"))
    second = add(store, kind="a.two")
    third = add(store, kind="a.one")
    everything = recent(store)
    assert [operation.id for operation in everything] == [third.id, second.id, first.id]
    assert [operation.id for operation in recent(store, kind="a.one")] == [third.id, first.id]
    assert [operation.id for operation in recent(store, kind="a.one", state=State.QUEUED)] == [
        third.id
    ]
    assert [operation.id for operation in recent(store, limit=1)] == [third.id]
    assert [unfinished.operation.id for unfinished in store.unfinished()] == [second.id, third.id]


def test_an_idempotency_key_belongs_to_one_operation(store: Store) -> None:
    operation = add(store, key="k")
    with pytest.raises(StoreError):
        add(store, key="k")
    again = reopen(store)
    known = again.by_key("k")
    again.close()
    assert known == (operation, "digest")


def test_the_last_success_of_each_kind_is_known(store: Store) -> None:
    end(store, add(store, kind="a.one"))
    last = end(store, add(store, kind="a.one"))
    end(store, add(store, kind="a.two"), State.FAILED)
    successes = store.last_successes()
    assert set(successes) == {"a.one"}
    assert successes["a.one"].finished_at == last.finished_at


def test_old_operations_are_forgotten_with_their_keys_but_never_unfinished_ones(
    store: Store,
) -> None:
    waiting = add(store, key="waiting")
    running = add(store)
    store.begin(running.id, now())
    ended = [end(store, add(store, key=f"k{number}")) for number in range(5)]
    assert store.prune(keep=2, keep_days=1) == 3
    assert {operation.id for operation in recent(store)} == {
        waiting.id,
        running.id,
        ended[3].id,
        ended[4].id,
    }
    assert store.by_key("k0") is None
    assert store.by_key("k4") is not None
    assert store.by_key("waiting") is not None


def test_operations_that_ended_long_ago_are_forgotten(store: Store) -> None:
    old, new = add(store), add(store)
    for operation, at in ((old, now() - timedelta(days=3)), (new, now())):
        store.begin(operation.id, at)
        store.finish(
            operation.model_copy(update={"state": State.SUCCEEDED, "finished_at": at, "result": {}})
        )
    assert store.prune(keep=100, keep_days=2) == 1
    assert [operation.id for operation in recent(store)] == [new.id]


def test_the_outcome_is_recorded_and_narrows_lists(store: Store) -> None:
    ended = {}
    for outcome in Outcome:
        operation = add(store)
        store.begin(operation.id, now())
        done = {"state": State.SUCCEEDED, "outcome": outcome, "result": {}, "finished_at": now()}
        store.finish(operation.model_copy(update=done))
        ended[outcome] = operation.id
    failed = end(store, add(store), State.FAILED)
    add(store)
    for outcome, operation_id in ended.items():
        found = store.get(operation_id)
        assert found is not None
        assert found.outcome is outcome
        assert [operation.id for operation in recent(store, outcome=outcome)] == [operation_id]
    not_ok = {operation.id for operation in recent(store, not_ok=True)}
    assert not_ok == {failed.id, ended[Outcome.DIFFERS], ended[Outcome.PARTIAL]}


@pytest.mark.parametrize(
    ("kind", "state", "result", "outcome"),
    [
        ("manifest.verify", "succeeded", {"ok": False, "mismatched": 1}, Outcome.DIFFERS),
        ("manifest.verify", "succeeded", {"ok": True}, Outcome.OK),
        ("manifest.compare", "succeeded", {"ok": False}, Outcome.DIFFERS),
        (
            "manifest.build",
            "succeeded",
            {"changed": 0, "vanished": 1, "errors": 0},
            Outcome.PARTIAL,
        ),
        ("manifest.build", "succeeded", {"changed": 0, "vanished": 0, "errors": 0}, Outcome.OK),
        ("pagecache.load", "succeeded", {"missing": 0, "skipped_bytes": 4096}, Outcome.PARTIAL),
        ("pagecache.evict", "succeeded", {"retained": 4096}, Outcome.PARTIAL),
        ("tuning.apply", "succeeded", {"written": 1}, Outcome.OK),
        ("manifest.verify", "failed", None, None),
        ("manifest.verify", "queued", None, None),
    ],
)
def test_a_record_of_the_first_version_is_taken_over_with_outcomes(
    tmp_path: Path, kind: str, state: str, result: object, outcome: Outcome | None
) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.executescript(VERSION_1)
        connection.execute(
            "INSERT INTO operations (id, kind, state, actor, created_at, params, progress, result)"
            " VALUES ('one', ?, ?, 'tester', '2026-11-23T01:02:03.456Z', '{}', '{}', ?)",
            (kind, state, json.dumps(result) if result is not None else None),
        )
        connection.commit()
    for _ in range(2):
        with closing(Store(tmp_path)) as store:
            found = store.get("one")
            assert found is not None
            assert (found.outcome, found.result) == (outcome, result)


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer holdfast"):
        Store(tmp_path)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
    connection.close()


def test_a_list_goes_on_where_the_last_part_ended(store: Store) -> None:
    made = [add(store, kind="a.one" if number % 3 else "a.two") for number in range(20)]
    seen: list[str] = []
    place = None
    while True:
        part = store.page(Selection(kind="a.one"), 5, place)
        seen += [operation.id for operation in part.operations]
        # What is new meanwhile comes before all of this.
        add(store, kind="a.one")
        place = part.next
        if place is None:
            break
        assert len(part.operations) == 5
    assert seen == [operation.id for operation in reversed(made) if operation.kind == "a.one"]


def test_a_part_of_a_list_is_bounded_in_bytes_and_loses_nothing(store: Store) -> None:
    made = [make(params={"path": "x" * 4000}) for _ in range(600)]
    for operation in made:
        store.insert(operation, None, None)
    part = store.page(Selection(), 1000)
    assert 100 < len(part.operations) < 600
    assert sum(len(operation.model_dump_json()) for operation in part.operations) < 2 * LISTED_BYTES
    rest = store.page(Selection(), 1000, part.next)
    seen = [
        *part.operations,
        *rest.operations,
        *store.page(Selection(), 1000, rest.next).operations,
    ]
    assert [operation.id for operation in seen[:600]] == [
        operation.id for operation in reversed(made)
    ]


def test_what_was_created_since_a_time_can_be_listed(store: Store) -> None:
    old = make(created_at=now() - timedelta(hours=2))
    new = make()
    for operation in (old, new):
        store.insert(operation, None, None)
    assert [operation.id for operation in recent(store, since=now() - timedelta(hours=1))] == [
        new.id
    ]
    assert len(recent(store, since=now() - timedelta(hours=3))) == 2
