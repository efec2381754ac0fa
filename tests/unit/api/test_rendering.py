from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.api.http.rendering import duration, one_line, printable, progress_line, size, to_json
from holdfast.operations.model import Operation, Problem, ProgressReport, Slug, State

MOMENT = datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC)
GIB = 1 << 30


def operation(state: State, **progress: object) -> Operation:
    return Operation(
        id="01",
        kind="test.work",
        state=state,
        actor="me",
        created_at=MOMENT,
        started_at=MOMENT,
        finished_at=MOMENT + timedelta(seconds=4) if state.final else None,
        params={},
        progress=ProgressReport.model_validate(progress),
    )


def test_json_is_pretty_utf8_and_ends_its_line() -> None:
    assert to_json({"ä": [1, "☃"]}) == '{\n  "ä": [\n    1,\n    "☃"\n  ]\n}\n'.encode()
    assert to_json({"a": 1}, indent=None) == b'{"a":1}\n'


def test_json_of_names_that_are_not_utf8() -> None:
    name = os.fsdecode(b"caf\xe9 \xff")
    assert json.loads(to_json({name: [name]}).decode("utf-8")) == {
        "caf\ufffd \ufffd": ["caf\ufffd \ufffd"]
    }
    assert printable("plain") == "plain"


def test_json_never_has_numbers_that_json_has_not() -> None:
    assert json.loads(to_json({"a": float("nan")})) == {"a": None}


def test_json_of_a_model_with_a_name_that_is_not_utf8() -> None:
    failed = operation(State.FAILED).model_copy(update={"params": {"path": "/caf\udce9"}})
    written = json.loads(to_json(failed))
    assert written["params"] == {"path": "/caf\ufffd"}
    assert written["created_at"] == "2026-11-23T12:00:01.000Z"


def test_a_line_while_running() -> None:
    running = operation(
        State.RUNNING,
        phase="hashing",
        bytes_done=int(1.2 * GIB) + 1,
        bytes_expected=8 * GIB,
        bytes_per_second=int(2.1 * GIB),
        eta_seconds=3.2,
    )
    assert (
        progress_line(running, MOMENT)
        == "12:00:01 hashing  1.2 GiB / 8.0 GiB  15 %  2.1 GiB/s  3 s left"
    )


def test_lines_of_other_states() -> None:
    assert progress_line(operation(State.QUEUED), MOMENT) == "12:00:01 queued"
    counting = operation(State.RUNNING, phase="scanning", files_done=1)
    assert progress_line(counting, MOMENT) == "12:00:01 scanning  1 file"
    almost = operation(State.RUNNING, phase="x", bytes_done=999, bytes_expected=1000)
    assert "99 %" in progress_line(almost, MOMENT)
    done = operation(State.SUCCEEDED, bytes_done=GIB, files_done=3, bytes_per_second=GIB // 4)
    assert (
        progress_line(done, MOMENT) == "12:00:01 succeeded  1.0 GiB  3 files  in 4.0 s  256 MiB/s"
    )
    failed = operation(State.FAILED).model_copy(
        update={"error": Problem.of(Slug.NO_SPACE, "disk\nfull")}
    )
    assert progress_line(failed, MOMENT) == "12:00:01 failed  No space left: disk\\nfull"


def test_a_line_stays_one_line() -> None:
    hostile = operation(State.RUNNING, phase="a\r\nb\x1b[2J")
    assert progress_line(hostile, MOMENT) == "12:00:01 a\\r\\nb\\x1b[2J"
    assert one_line("\udcff").isascii()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1023, "1.0 KiB"), (640 << 10, "640 KiB"), (2**63, "8.0 EiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (4200, "1 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
