"""How answers are written: JSON that reads well in a terminal, and lines of text for a person."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

import pydantic_core
from anyio import to_thread
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from starlette.responses import Response

from holdfast.operations.model import OperationSummary, ProgressReport, State
from holdfast.text.shortening import shortened

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def to_json(value: Any, *, indent: int | None = 2) -> bytes:
    """Write a model or plain data as UTF-8 JSON and a newline; `indent=None` keeps to one line.

    A string that no UTF-8 can hold (bytes of a file name, as `os.fsdecode` gives them) is written
    with U+FFFD in place of them, and a number that JSON has not as null: this is always valid JSON.
    """
    try:
        return _encode(value, indent)
    except PydanticSerializationError:
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        return _encode(_encodable(value), indent)


def _encode(value: Any, indent: int | None) -> bytes:
    # Ten times as fast as the standard library where it indents: a result may have 100000 files.
    return pydantic_core.to_json(value, indent=indent, inf_nan_mode="null") + b"\n"


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value


def printable(text: str) -> str:
    """Replace each lone surrogate by U+FFFD, so that the text can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


async def large_json(
    content: Any, headers: Mapping[str, str] | None = None, *, status: int = 200
) -> JsonResponse:
    """Return a response of what may be megabytes of JSON, written in a thread."""
    make = partial(JsonResponse, content, status_code=status, headers=headers)
    return await to_thread.run_sync(make)


class JsonResponse(Response):
    """An answer in pretty-printed JSON, from a model or plain data."""

    media_type = JSON

    def render(self, content: Any) -> bytes:
        """Write the body."""
        return to_json(content)


def size(count: float) -> str:
    """Write bytes in binary units: `1.2 GiB`, `640 KiB`, `12 B`."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return (
        f"{value:.0f} {_UNITS[unit]}"
        if value >= 99.95 or unit == 0
        else (f"{value:.1f} {_UNITS[unit]}")
    )


def duration(seconds: float) -> str:
    """Write a span of time: `3 s`, `2 min 05 s`, `1 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def progress_line(operation: OperationSummary, moment: datetime) -> str:
    """Return one line for a person on the progress of an operation.

    `12:00:01 hashing  1.2 GiB / 8.0 GiB  15 %  2.1 GiB/s  3 s left`
    """
    clock = moment.strftime("%H:%M:%S")
    if operation.state.final:
        return f"{clock} {operation.verdict}  {_ending(operation)}".rstrip()
    report = operation.progress
    parts = [f"{clock} {one_line(report.phase) or operation.state.value}", *_amounts(report)]
    if operation.state is State.RUNNING and report.bytes_per_second:
        parts.append(f"{size(report.bytes_per_second)}/s")
    if report.eta_seconds is not None:
        parts.append(f"{duration(report.eta_seconds)} left")
    if report.current:
        parts.append(one_line(shortened(report.current)))
    return "  ".join(parts)


def one_line(text: str) -> str:
    """Write control characters and lone surrogates as escapes, so that text cannot take lines."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _amounts(report: ProgressReport) -> list[str]:
    if report.bytes_done or report.bytes_expected:
        done, expected, show = report.bytes_done, report.bytes_expected, size
    elif report.files_done or report.files_expected:
        done, expected, show = report.files_done, report.files_expected, _files
    else:
        return []
    if expected is None:
        return [show(done)]
    # Rounded down: what is not complete never reads as 100 %.
    share = [f"{100 * done // expected} %"] if expected else []
    return [f"{show(done)} / {show(expected)}", *share]


def _files(count: float) -> str:
    return f"{count:.0f} file" if count == 1 else f"{count:.0f} files"


def _ending(operation: OperationSummary) -> str:
    if operation.error is not None:
        return one_line(f"{operation.error.title}: {operation.error.detail}")
    report = operation.progress
    parts = []
    if report.bytes_done:
        parts.append(size(report.bytes_done))
    if report.files_done:
        parts.append(_files(report.files_done))
    if operation.started_at is not None and operation.finished_at is not None:
        took = (operation.finished_at - operation.started_at).total_seconds()
        parts.append(f"in {took:.1f} s" if took < 10 else f"in {duration(took)}")
        if report.bytes_per_second:
            parts.append(f"{size(report.bytes_per_second)}/s")
    return "  ".join(parts)
