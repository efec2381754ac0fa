"""The durable record of operations: SQLite in the state directory.

A row is committed, to the disk, before its work starts and when its state changes. What may be
lost in a power cut is only how far a running operation had come. State changes are guarded in
SQL: an update that finds another state than it expects changes nothing, so a final state stays.
"""

# ruff: noqa: S608 -- what is put into statements are constants of this module
from __future__ import annotations

import contextlib
import errno
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from holdfast.operations.ids import AMBIGUOUS_SHOWN
from holdfast.operations.large import INLINE_BYTES, LargeTexts, Part
from holdfast.operations.model import (
    Operation,
    OperationSummary,
    ProgressReport,
    RequestError,
    Slug,
    State,
    format_time,
    now,
)
from holdfast.operations.results import Outcome
from holdfast.operations.rows import (
    COLUMNS,
    SUMMARY_COLUMNS,
    operation_of,
    summary_of,
    to_text,
)
from holdfast.operations.schema import SCHEMA_VERSION, bring_up_to_date

log = logging.getLogger(__name__)

FILE_NAME = "operations.sqlite3"
LARGE_NAME = "results"
CHECKED_BYTES = 256 << 20
"""A database up to this size is read completely at the start; a larger one only as it is used."""
LISTED_BYTES = 1 << 20
"""A page of a list ends after this much, whatever the number of operations in it."""
BUSY_SECONDS = 10.0
_FINAL = ", ".join(f"'{state.value}'" for state in State if state.final)
_BAD_FILE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class StoreError(RequestError):
    """The record of operations cannot be read or written now."""


@dataclass(frozen=True)
class Selection:
    """Which operations a list has. `not_ok`: final, and not succeeded with the outcome `ok`."""

    kind: str | None = None
    state: State | None = None
    outcome: Outcome | None = None
    not_ok: bool = False
    since: datetime | None = None


@dataclass(frozen=True)
class Listed:
    """A part of a list, newest first."""

    operations: list[OperationSummary]
    next: int | None
    """Where the next part begins; None after the last."""


@dataclass(frozen=True)
class Unfinished:
    """An operation that was queued or running when the store was last used."""

    operation: Operation
    resumed: bool
    """It ran before and was cut short."""
    crashes: int
    """How often the daemon ended without warning while it ran."""


@dataclass(frozen=True)
class LastSuccess:
    """When a kind last succeeded, and how long that took."""

    finished_at: datetime
    seconds: float


class Store:
    """Operations in SQLite. Every method may block on the disk and may raise `StoreError`."""

    def __init__(self, directory: Path) -> None:
        """Open the store in `directory`; a damaged file is moved aside, never deleted."""
        self.path = directory / FILE_NAME
        self._large = LargeTexts(directory / LARGE_NAME)
        self.moved_aside: Path | None = None
        with _as_store_error("open"):
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if not _damaged(error):
                    raise
                self._move_aside(error)
                self._open()
            self._large.retain(
                {row[0] for row in self._reader.execute("SELECT id FROM operations")}
            )

    def close(self) -> None:
        """Close the files; the write-ahead log is folded in."""
        for connection in (self._progress, self._reader, self._writer):
            connection.close()

    def insert(self, operation: Operation, key: str | None, digest: str | None) -> None:
        """Add a queued operation, on the disk when this returns."""
        params, apart = self._set_apart(operation.id, "params", operation.params)
        self._write(
            f"INSERT INTO operations ({COLUMNS}, idempotency_key, idempotency_digest)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                operation.id,
                operation.kind,
                operation.state.value,
                None,
                operation.actor,
                operation.traceparent,
                format_time(operation.created_at),
                None,
                None,
                params or "{}",
                operation.progress.model_dump_json(),
                None,
                None,
                apart,
                False,
                key,
                digest,
            ),
        )

    def begin(self, operation_id: str, at: datetime) -> bool:
        """Turn queued into running. The time of the first start is kept when it runs again."""
        return self._write(
            "UPDATE operations SET state = 'running', started_at = coalesce(started_at, ?)"
            " WHERE id = ? AND state = 'queued'",
            (format_time(at), operation_id),
        )

    def finish(self, operation: Operation) -> bool:
        """Turn queued or running into the final state of `operation`, with its outcome."""
        result, apart = self._set_apart(operation.id, "result", operation.result)
        return self._write(
            "UPDATE operations SET state = ?, outcome = ?, finished_at = ?, progress = ?,"
            " result = ?, result_apart = ?, error = ?"
            " WHERE id = ? AND state IN ('queued', 'running')",
            (
                operation.state.value,
                operation.outcome and operation.outcome.value,
                format_time(operation.finished_at or now()),
                operation.progress.model_dump_json(),
                result,
                apart,
                None if operation.error is None else operation.error.model_dump_json(),
                operation.id,
            ),
        )

    def requeue(self, operation_id: str, progress: ProgressReport, *, crashed: bool) -> bool:
        """Put a running operation back in the queue, to be resumed."""
        return self._write(
            "UPDATE operations SET state = 'queued', resumed = 1, crashes = crashes + ?,"
            " progress = ? WHERE id = ? AND state = 'running'",
            (int(crashed), progress.model_dump_json(), operation_id),
        )

    def save_progress(self, operation_id: str, progress: ProgressReport) -> None:
        """Note how far a running operation is, unless that would have to wait for others."""
        try:
            self._progress.execute(
                "UPDATE operations SET progress = ? WHERE id = ? AND state = 'running'",
                (progress.model_dump_json(), operation_id),
            )
        except sqlite3.Error as error:
            # The next one comes in seconds; only the state changes must not be lost.
            log.debug("progress of %s was not saved: %s", operation_id, error)

    def get(self, operation_id: str) -> Operation | None:
        """Return one operation as recorded, with its result however large it is."""
        row = self._row(operation_id)
        return None if row is None else self._whole(row)

    def open(self, operation_id: str) -> tuple[Operation, BinaryIO | None] | None:
        """Return one operation as recorded, and the file of a large result in place of it."""
        row = self._row(operation_id)
        if row is None:
            return None
        with _as_store_error("read"):
            file = self._large.open(operation_id, "result") if row[-1] else None
        return self._whole((*row[:-1], False)), file

    def find(self, beginning: str) -> list[str]:
        """Return the newest ids that begin like this, one more than is shown at most."""
        rows = self._read(
            "SELECT id FROM operations WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?",
            (beginning, f"{beginning}~", AMBIGUOUS_SHOWN + 1),
        )
        return [row[0] for row in rows]

    def by_key(self, key: str) -> tuple[Operation, str] | None:
        """Return the operation made under an idempotency key, and the digest of its request."""
        rows = self._read(
            f"SELECT {COLUMNS}, idempotency_digest FROM operations WHERE idempotency_key = ?",
            (key,),
        )
        return (self._whole(rows[0][:-1]), rows[0][-1]) if rows else None

    def page(self, selection: Selection, limit: int, before: int | None = None) -> Listed:
        """Return operations without results, newest first: those `before` a place in the list."""
        conditions = ["1"]
        values: list[Any] = []
        for condition, value in (
            ("seq < ?", before),
            ("kind = ?", selection.kind),
            ("state = ?", selection.state),
            ("outcome = ?", selection.outcome),
            ("created_at >= ?", selection.since and format_time(selection.since)),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if selection.not_ok:
            conditions.append(f"state IN ({_FINAL}) AND outcome IS NOT 'ok'")
        rows = self._read(
            f"SELECT {SUMMARY_COLUMNS} FROM operations WHERE {' AND '.join(conditions)}"
            " ORDER BY seq DESC LIMIT ?",
            (*values, limit + 1),
        )
        size = 0
        for count, row in enumerate(rows):
            size += sum(len(cell) for cell in row if isinstance(cell, str))
            if count and (count == limit or size > LISTED_BYTES):
                rows, last = rows[:count], rows[count - 1]
                return Listed([summary_of(row) for row in rows], last[0])
        return Listed([summary_of(row) for row in rows], None)

    def unfinished(self) -> list[Unfinished]:
        """Return what is queued or running, in the order in which it was asked for."""
        rows = self._read(
            f"SELECT {COLUMNS}, resumed, crashes FROM operations"
            " WHERE state IN ('queued', 'running') ORDER BY seq",
            (),
        )
        return [Unfinished(self._whole(row[:-2]), bool(row[-2]), row[-1]) for row in rows]

    def last_successes(self) -> dict[str, LastSuccess]:
        """Return for each kind when it last succeeded."""
        rows = self._read(
            "SELECT kind, started_at, max(finished_at) FROM operations"
            " WHERE state = 'succeeded' GROUP BY kind",
            (),
        )
        found: dict[str, LastSuccess] = {}
        for kind, started, finished in rows:
            end = datetime.fromisoformat(finished)
            begin = datetime.fromisoformat(started)
            found[kind] = LastSuccess(end, max(0.0, (end - begin).total_seconds()))
        return found

    def prune(self, keep: int, keep_days: int) -> int:
        """Forget final operations beyond `keep` or older than `keep_days`; return how many."""
        oldest = format_time(now() - timedelta(days=keep_days))
        with self._writing() as connection:
            cursor = connection.execute(
                f"DELETE FROM operations WHERE state IN ({_FINAL}) AND (finished_at < ? OR seq <="
                f" (SELECT seq FROM operations WHERE state IN ({_FINAL})"
                " ORDER BY seq DESC LIMIT 1 OFFSET ?)) RETURNING id",
                (oldest, keep),
            )
            forgotten = [row[0] for row in cursor.fetchall()]
        with _as_store_error("remove files of"):
            self._large.remove(forgotten)
        return len(forgotten)

    def _open(self) -> None:
        connections: list[sqlite3.Connection] = []
        try:
            writer = _connect(self.path, connections, synchronous="FULL")
            self._migrate(writer)
            reader = _connect(self.path, connections, synchronous="FULL", query_only=True)
            # Saving progress never waits: neither for the disk nor for a commit under way.
            progress = _connect(self.path, connections, synchronous="NORMAL", busy_seconds=0)
            progress.execute("PRAGMA wal_autocheckpoint = 0")
        except BaseException:
            for connection in connections:
                connection.close()
            raise
        self._writer, self._reader, self._progress = writer, reader, progress
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                Slug.UNAVAILABLE,
                f"{self.path} was written by a newer holdfast (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); install that version again, or move the file away.",
            )
        if self.path.stat().st_size <= CHECKED_BYTES:
            # Damage is better found now than by the first request that hits it.
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise _Damage(verdict)
        bring_up_to_date(connection, version, self._large)

    def _move_aside(self, error: sqlite3.DatabaseError) -> None:
        stamp = now().strftime("%Y%m%dT%H%M%S.%fZ")
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            source = self.path.with_name(self.path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                source.rename(aside.with_name(aside.name + suffix))
        self.moved_aside = aside
        log.error(
            "the record of operations %s is damaged (%s); it was moved to %s and a new one was "
            "started: earlier operations and idempotency keys are not known any more",
            self.path,
            error,
            aside,
        )

    def _set_apart(
        self, operation_id: str, part: Part, value: dict[str, Any] | None
    ) -> tuple[str | None, bool]:
        """Return the text for the database, or put it into a file if it is large."""
        if value is None:
            return None, False
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        if len(text) <= INLINE_BYTES:
            return to_text(value), False
        with _as_store_error("write"):
            self._large.put(operation_id, part, text)
        return None, True

    def _row(self, operation_id: str) -> tuple[Any, ...] | None:
        rows = self._read(f"SELECT {COLUMNS} FROM operations WHERE id = ?", (operation_id,))
        return rows[0] if rows else None

    def _whole(self, row: tuple[Any, ...]) -> Operation:
        """Make an operation of a row, with what lies apart from it."""
        *head, params, progress, result, error, params_apart, result_apart = row
        with _as_store_error("read"):
            if params_apart:
                with self._large.open(head[0], "params") as file:
                    params = file.read()
            if result_apart:
                with self._large.open(head[0], "result") as file:
                    result = file.read()
        return operation_of((*head, params, progress, result, error))

    def _write(self, statement: str, values: tuple[Any, ...]) -> bool:
        """Run one statement, committed to the disk; return whether it changed a row."""
        with self._writing() as connection:
            return connection.execute(statement, values).rowcount == 1

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _as_store_error("write"), self._write_lock:
            yield self._writer

    def _read(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with _as_store_error("read"), self._read_lock:
            return self._reader.execute(statement, values).fetchall()


class _Damage(sqlite3.DatabaseError):
    """The check of the file found damage."""


def _damaged(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, _Damage) or (code is not None and code & 0xFF in _BAD_FILE)


def _connect(
    path: Path,
    connections: list[sqlite3.Connection],
    *,
    synchronous: str,
    busy_seconds: float = BUSY_SECONDS,
    query_only: bool = False,
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    connections.append(connection)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        log.warning("%s uses journal mode %s, as its file system allows no WAL", path, mode)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA query_only = {int(query_only)}")
    return connection


@contextlib.contextmanager
def _as_store_error(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        slug = Slug.NO_SPACE if error.errno in {errno.ENOSPC, errno.EDQUOT} else Slug.IO_ERROR
        raise StoreError(
            slug, f"holdfast could not {what} its record of operations: {error}."
        ) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        slug = {sqlite3.SQLITE_FULL: Slug.NO_SPACE, sqlite3.SQLITE_BUSY: Slug.UNAVAILABLE}.get(
            code, Slug.IO_ERROR
        )
        raise StoreError(
            slug, f"holdfast could not {what} its record of operations: {error}."
        ) from error
