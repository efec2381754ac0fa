"""Rows of operations in a store of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
from holdfast.operations.store import (
    Selection,
    Store,
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


VERSION_1 = """
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
