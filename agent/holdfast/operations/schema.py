"""The tables of the record of operations, and how older ones are taken over."""

from __future__ import annotations

import sqlite3

from holdfast.operations.large import INLINE_BYTES, LargeTexts
from holdfast.process import logs

SCHEMA_VERSION = 4
_MOST_SECONDS = 60
"""More than it takes to move one result into a file."""

_SCHEMA = """
CREATE TABLE operations (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL CHECK (
        state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    actor TEXT NOT NULL,
    created_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    params TEXT NOT NULL,
    progress TEXT NOT NULL,
    result TEXT,
    error TEXT,
    resumed INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT UNIQUE,
    idempotency_digest TEXT,
    outcome TEXT CHECK (outcome IN ('ok', 'differs', 'partial')),
    params_apart INTEGER NOT NULL DEFAULT 0,
    result_apart INTEGER NOT NULL DEFAULT 0,
    traceparent TEXT
) STRICT;
CREATE INDEX operations_by_kind ON operations (kind, seq);
CREATE INDEX operations_by_state ON operations (state, seq);
"""
_TO_VERSION_4 = "ALTER TABLE operations ADD COLUMN traceparent TEXT;"
_TO_VERSION_2 = """
ALTER TABLE operations ADD COLUMN outcome TEXT CHECK (outcome IN ('ok', 'differs', 'partial'));
ALTER TABLE operations ADD COLUMN params_apart INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operations ADD COLUMN result_apart INTEGER NOT NULL DEFAULT 0;
UPDATE operations SET outcome = CASE
    WHEN kind IN ('manifest.verify', 'manifest.compare', 'reimage') AND
        NOT json_extract(result, '$.ok') THEN 'differs'
    WHEN kind = 'manifest.build' AND
        json_extract(result, '$.changed') + json_extract(result, '$.vanished')
        + json_extract(result, '$.errors') > 0 THEN 'partial'
    WHEN kind = 'pagecache.load' AND
        json_extract(result, '$.missing') + json_extract(result, '$.skipped_bytes') > 0
        THEN 'partial'
    WHEN kind = 'pagecache.evict' AND json_extract(result, '$.retained') > 0 THEN 'partial'
    ELSE 'ok' END
WHERE state = 'succeeded';
"""
"""The results of version 1 have what their outcome follows from; only what is plain is judged."""


def bring_up_to_date(connection: sqlite3.Connection, version: int, large: LargeTexts) -> None:
    """Make the tables, or take over those of an older version.

    What was interrupted is continued by the next call. Raises `sqlite3.Error` and `OSError`.
    """
    if version == 0:
        _execute(connection, _SCHEMA, SCHEMA_VERSION)
        return
    if version == 1:
        _execute(connection, _TO_VERSION_2, 2)
    if version <= 2:
        _move_apart(connection, large)
        _execute(connection, "", 3)
    if version <= 3:
        _execute(connection, _TO_VERSION_4, SCHEMA_VERSION)


def _execute(connection: sqlite3.Connection, script: str, version: int) -> None:
    connection.executescript(f"BEGIN IMMEDIATE;{script}PRAGMA user_version = {version};COMMIT;")


def _move_apart(connection: sqlite3.Connection, large: LargeTexts) -> None:
    """Put results that are too large for the database into files, and make it smaller."""
    too_large = connection.execute(
        "SELECT id FROM operations WHERE length(result) > ?", (INLINE_BYTES,)
    ).fetchall()
    for row in too_large:
        # There may be gigabytes of it, and the service manager waits only so long for each step.
        logs.notify(f"EXTEND_TIMEOUT_USEC={_MOST_SECONDS * 1_000_000}")
        (text,) = connection.execute("SELECT result FROM operations WHERE id = ?", row).fetchone()
        large.put(row[0], "result", text)
        connection.execute(
            "UPDATE operations SET result = NULL, result_apart = 1 WHERE id = ?", row
        )
    if too_large:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
