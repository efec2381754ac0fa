"""What passes between the daemon and the helper: a line of JSON each way, over a unix socket."""

from __future__ import annotations

import socket
import time
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from holdfast.privileged.boot.models import (
    ArmReport,
    ArmRequest,
    DisarmReport,
    DisarmRequest,
    ForgetLifeboatRequest,
    ForgottenReport,
    IdentityEvidence,
    IdentityRequest,
    Inhibitor,
    InhibitorsRequest,
    OutcomeReport,
    OutcomeRequest,
    RebootRequest,
    TrialReport,
    TryRequest,
    UnitRequest,
)
from holdfast.privileged.open_files import Writers
from holdfast.privileged.writes import Write
from holdfast.tuning.changes.requests import (
    TuneChange,
    TuneEnforce,
    TuneRecover,
    TuneReport,
    TuneRollback,
)

MAX_LINE = 3 << 20
"""Bytes. The largest request is a file of 1 MiB, in JSON."""


class PerformRequest(BaseModel, defer_build=True):
    """Do one write."""

    model_config = ConfigDict(extra="forbid")

    do: Literal["write"] = "write"
    write: Write


class OpenFilesRequest(BaseModel, defer_build=True):
    """Count the regular files of a mounted file system that processes have open."""

    model_config = ConfigDict(extra="forbid")

    do: Literal["open_files"] = "open_files"
    mount_point: Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]


class WritersRequest(BaseModel, defer_build=True):
    """Find the files that processes may write to, on the file system of a directory."""

    model_config = ConfigDict(extra="forbid")

    do: Literal["writers"] = "writers"
    directory: Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]


AnyRequest = (
    PerformRequest
    | TuneChange
    | TuneRollback
    | TuneRecover
    | TuneEnforce
    | OpenFilesRequest
    | WritersRequest
    | ArmRequest
    | TryRequest
    | DisarmRequest
    | OutcomeRequest
    | IdentityRequest
    | RebootRequest
    | InhibitorsRequest
    | UnitRequest
    | ForgetLifeboatRequest
)
Request = Annotated[AnyRequest, Field(discriminator="do")]


@cache
def request_adapter() -> TypeAdapter[AnyRequest]:
    """Return what reads a request: for the helper alone, as it builds the models of all of them."""
    return TypeAdapter(Request)


class Answer(BaseModel, defer_build=True):
    """How it went: done, refused, or an error of the operating system."""

    refused: str | None = None
    """A sentence; nothing was written."""
    errno: int | None = None
    reason: str = ""
    """Belongs to `errno`."""
    file: str | None = None
    open_files: dict[str, int] | None = None
    """How many, by `name (pid)`."""
    writers: Writers | None = None
    tune: TuneReport | None = None
    inhibitors: list[Inhibitor] | None = None
    unit_state: str | None = None
    arm: ArmReport | None = None
    disarm: DisarmReport | None = None
    outcome: OutcomeReport | None = None
    evidence: IdentityEvidence | None = None
    trial: TrialReport | None = None
    forgotten: ForgottenReport | None = None


class LineError(Exception):
    """The other end sent something that is not one line, or too long a line."""


def receive_line(
    connection: socket.socket, rest: bytearray, seconds: float | None = None
) -> bytes | None:
    """Read one line; None at the end of the connection.

    `rest` keeps what came after it for the next call. With `seconds`, all of the line has to be
    there within that time. Raises `LineError`, `OSError`.
    """
    end_of_time = None if seconds is None else time.monotonic() + seconds
    while True:
        if end_of_time is not None:
            left = end_of_time - time.monotonic()
            if left <= 0:
                raise LineError(f"no whole line came within {seconds:g} seconds")
            connection.settimeout(left)
        end = rest.find(b"\n")
        if end >= 0:
            line = bytes(rest[:end])
            del rest[: end + 1]
            return line
        if len(rest) > MAX_LINE:
            raise LineError(f"a line is longer than {MAX_LINE} bytes")
        chunk = connection.recv(64 << 10)
        if not chunk:
            if rest:
                raise LineError("the connection ended within a line")
            return None
        rest += chunk
