"""The record of operations on a real file: durability, guards, damage, versions, retention."""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.operations import store as store_module
from holdfast.operations.ids import new_id
from holdfast.operations.model import (
    Operation,
    OperationSummary,
    Problem,
    ProgressReport,
    Slug,
    State,
    now,
)
from holdfast.operations.results import Outcome
from holdfast.operations.schema import SCHEMA_VERSION
from holdfast.operations.store import (
    FILE_NAME,
    LARGE_NAME,
    LISTED_BYTES,
    Selection,
    Store,
    StoreError,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def make(kind: str = "test.work", **members: object) -> Operation:
    return Operation(
        id=new_id(),
        kind=kind,
        state=State.QUEUED,
        actor="tester",
        created_at=now(),
        params={"path": "/mnt/data/ü\n"},
    ).model_copy(update=members)


def add(store: Store, *, key: str | None = None, kind: str = "test.work") -> Operation:
    operation = make(kind)
    store.insert(operation, key, "digest")
    return operation


def end(store: Store, operation: Operation, state: State = State.SUCCEEDED) -> Operation:
    started = now()
    assert store.begin(operation.id, started)
    ended = operation.model_copy(
        update={
            "state": state,
            "started_at": started,
            "finished_at": now(),
            "progress": ProgressReport(phase="done", bytes_done=7, bytes_expected=7),
            "result": {"files": 3} if state is State.SUCCEEDED else None,
            "error": None if state is State.SUCCEEDED else Problem.of(Slug.NO_SPACE, "Full."),
        }
    )
    assert store.finish(ended)
    return ended


def recent(store: Store, limit: int = 99, **selected: Any) -> list[OperationSummary]:
    return store.page(Selection(**selected), limit).operations


def reopen(store: Store) -> Store:
    store.close()
    return Store(store.path.parent)


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


@pytest.mark.parametrize("state", [one for one in State if one.final])
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
    assert [one.id for one in everything] == [third.id, second.id, first.id]
    assert [one.id for one in recent(store, kind="a.one")] == [third.id, first.id]
    assert [one.id for one in recent(store, kind="a.one", state=State.QUEUED)] == [third.id]
    assert [one.id for one in recent(store, limit=1)] == [third.id]
    assert [one.operation.id for one in store.unfinished()] == [second.id, third.id]


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
    assert {one.id for one in recent(store)} == {
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
    assert [one.id for one in recent(store)] == [new.id]


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
        assert [one.id for one in recent(store, outcome=outcome)] == [operation_id]
    not_ok = {one.id for one in recent(store, not_ok=True)}
    assert not_ok == {failed.id, ended[Outcome.DIFFERS], ended[Outcome.PARTIAL]}


_VERSION_1 = """
CREATE TABLE operations (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    state TEXT NOT NULL CHECK (
        state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    actor TEXT NOT NULL, created_at TEXT NOT NULL, started_at TEXT, finished_at TEXT,
    params TEXT NOT NULL, progress TEXT NOT NULL, result TEXT, error TEXT,
    resumed INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT UNIQUE, idempotency_digest TEXT
) STRICT;
CREATE INDEX operations_by_kind ON operations (kind, seq);
CREATE INDEX operations_by_state ON operations (state, seq);
PRAGMA user_version = 1;
"""


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
        connection.executescript(_VERSION_1)
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


def _no_database(file: Path) -> None:
    file.write_bytes(b"this is no database at all" * 100)


def _flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for offset in range(4096, 8192):
        data[offset] ^= 0xFF
    file.write_bytes(data)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [_no_database, _flipped, _cut])
def test_a_damaged_file_is_moved_aside_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    store = Store(tmp_path)
    for _ in range(50):
        end(store, add(store))
    store.close()
    file = tmp_path / FILE_NAME
    assert callable(damage)
    damage(file)
    before = file.read_bytes()
    store = Store(tmp_path)
    try:
        assert recent(store) == []
        assert store.moved_aside is not None
        assert store.moved_aside.read_bytes() == before
        assert str(store.moved_aside) in caplog.text
        end(store, add(store))
    finally:
        store.close()


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StoreError, match="could not open its record of operations"):
        Store(tmp_path)


def test_a_full_disk_is_named_and_loses_nothing(store: Store) -> None:
    kept = add(store)
    # A limit on file size simulates the full disk: the kernel refuses to let the files grow.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = max(one.stat().st_size for one in store.path.parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(StoreError) as refused:
            _fill(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert refused.value.slug in (Slug.NO_SPACE, Slug.IO_ERROR)
    assert store.get(kept.id) == kept
    add(store)


def _fill(store: Store) -> None:
    for _ in range(10_000):
        add(store)


LARGE = {"files": ["x" * 1000] * 200}


def done(store: Store, operation: Operation, result: dict[str, Any]) -> Operation:
    store.begin(operation.id, now())
    members = {"state": State.SUCCEEDED, "outcome": Outcome.OK, "finished_at": now()}
    ended = operation.model_copy(update={**members, "result": result})
    assert store.finish(ended)
    return ended


def apart(store: Store) -> set[str]:
    directory = store.path.parent / LARGE_NAME
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def test_a_large_result_is_a_file_beside_the_database_and_read_back(store: Store) -> None:
    small, large = done(store, add(store), {"files": 3}), done(store, add(store), LARGE)
    assert apart(store) == {f"{large.id}.result.json"}
    again = reopen(store)
    with closing(again):
        for one in (small, large):
            found = again.get(one.id)
            assert found is not None
            assert found.result == one.result
        opened = again.open(large.id)
        assert opened is not None
        operation, file = opened
        assert operation.result is None
        assert file is not None
        with file:
            assert json.load(file) == LARGE
    assert store.path.stat().st_size < 100_000


def test_large_parameters_are_a_file_as_well_and_survive_a_restart(store: Store) -> None:
    operation = make(params={"paths": ["/mnt/data/" + "x" * 3000] * 100})
    store.insert(operation, "key", "digest")
    again = reopen(store)
    with closing(again):
        (left,) = again.unfinished()
        assert left.operation.params == operation.params
        assert again.by_key("key") == (operation, "digest")
        (listed,) = recent(again)
        assert listed.params is None


def test_files_of_forgotten_operations_and_of_none_are_removed(store: Store) -> None:
    kept = [done(store, add(store), LARGE) for _ in range(3)][1:]
    store.prune(keep=2, keep_days=1)
    names = {f"{one.id}.result.json" for one in kept}
    assert apart(store) == names
    # As a crash leaves them between the file and its row.
    directory = store.path.parent / LARGE_NAME
    (directory / f"{new_id()}.result.json").write_text("{}")
    (directory / f".{kept[0].id}.result.json.partial").write_text("{")
    reopen(store).close()
    assert apart(store) == names


def test_a_result_that_cannot_be_stored_is_told_and_nothing_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = add(store)
    store.begin(operation.id, now())
    (store.path.parent / LARGE_NAME).write_text("not a directory")
    ended = operation.model_copy(update={"state": State.SUCCEEDED, "result": LARGE})
    with pytest.raises(StoreError, match="could not write"):
        store.finish(ended)
    found = store.get(operation.id)
    assert found is not None
    assert found.state is State.RUNNING


def test_a_list_goes_on_where_the_last_part_ended(store: Store) -> None:
    made = [add(store, kind="a.one" if number % 3 else "a.two") for number in range(20)]
    seen: list[str] = []
    place = None
    while True:
        part = store.page(Selection(kind="a.one"), 5, place)
        seen += [one.id for one in part.operations]
        # What is new meanwhile comes before all of this.
        add(store, kind="a.one")
        place = part.next
        if place is None:
            break
        assert len(part.operations) == 5
    assert seen == [one.id for one in reversed(made) if one.kind == "a.one"]


def test_a_part_of_a_list_is_bounded_in_bytes_and_loses_nothing(store: Store) -> None:
    made = [make(params={"path": "x" * 4000}) for _ in range(600)]
    for one in made:
        store.insert(one, None, None)
    part = store.page(Selection(), 1000)
    assert 100 < len(part.operations) < 600
    assert sum(len(one.model_dump_json()) for one in part.operations) < 2 * LISTED_BYTES
    rest = store.page(Selection(), 1000, part.next)
    seen = [
        *part.operations,
        *rest.operations,
        *store.page(Selection(), 1000, rest.next).operations,
    ]
    assert [one.id for one in seen[:600]] == [one.id for one in reversed(made)]


def test_what_was_created_since_a_time_can_be_listed(store: Store) -> None:
    old = make(created_at=now() - timedelta(hours=2))
    new = make()
    for one in (old, new):
        store.insert(one, None, None)
    assert [one.id for one in recent(store, since=now() - timedelta(hours=1))] == [new.id]
    assert len(recent(store, since=now() - timedelta(hours=3))) == 2


def test_large_results_of_the_first_version_are_moved_out(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.executescript(_VERSION_1)
        text = json.dumps(LARGE | {"recall": 1.0, "missing": 0, "skipped_bytes": 0})
        for number in range(20):
            connection.execute(
                "INSERT INTO operations (id, kind, state, actor, created_at, params, progress,"
                " result) VALUES (?, 'pagecache.load', 'succeeded', 'tester',"
                " '2026-11-23T01:02:03.456Z', '{}', '{}', ?)",
                (f"one{number}", text),
            )
        connection.commit()
    for _ in range(2):
        with closing(Store(tmp_path)) as store:
            assert (tmp_path / FILE_NAME).stat().st_size < 100_000
            found = store.get("one7")
            assert found is not None
            assert (found.result, found.outcome) == (json.loads(text), Outcome.OK)


def test_a_database_that_is_large_is_not_read_through_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store(tmp_path)) as store:
        for _ in range(300):
            end(store, add(store))
        last = end(store, add(store))
    file = tmp_path / FILE_NAME
    data = bytearray(file.read_bytes())
    # In the middle, where only a check of all of it comes by.
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 64] = bytes(64)
    file.write_bytes(data)
    monkeypatch.setattr(store_module, "CHECKED_BYTES", len(data) - 1)
    with closing(Store(tmp_path)) as store:
        assert store.moved_aside is None
        assert store.get(last.id) == last
    monkeypatch.setattr(store_module, "CHECKED_BYTES", len(data))
    with closing(Store(tmp_path)) as store:
        assert store.moved_aside is not None
