"""The files of the record of operations: damage, full disks, large results beside the database."""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from holdfast.operations import store as store_module
from holdfast.operations.ids import new_id
from holdfast.operations.model import (
    Operation,
    Slug,
    State,
    now,
)
from holdfast.operations.results import Outcome
from holdfast.operations.store import (
    FILE_NAME,
    LARGE_NAME,
    Store,
    StoreError,
)
from tests.support.daemon.operation_rows import VERSION_1, add, end, make, recent, reopen, store

__all__ = ["store"]


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
    size = max(path.stat().st_size for path in store.path.parent.iterdir())
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
        for made in (small, large):
            found = again.get(made.id)
            assert found is not None
            assert found.result == made.result
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
    names = {f"{operation.id}.result.json" for operation in kept}
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


def test_large_results_of_the_first_version_are_moved_out(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.executescript(VERSION_1)
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
