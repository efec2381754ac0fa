"""The model of an operation, as stored and as returned, and the problems it can report."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)

from holdfast.operations.results import Outcome


def now() -> datetime:
    """Return the time in UTC, to the millisecond: what is stored is what is returned."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, for example `2026-11-23T01:02:03.456Z`."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


Timestamp = Annotated[
    datetime,
    PlainSerializer(format_time, return_type=str, when_used="json-unless-none"),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]


class State(StrEnum):
    """Where an operation is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether an operation in this state never changes again."""
        return self not in (State.QUEUED, State.RUNNING)


class Slug(StrEnum):
    """The vocabulary of problems; a problem's `type` is `/problems/<slug>`."""

    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    IDEMPOTENCY_MISMATCH = "idempotency-mismatch"
    INVALID_REQUEST = "invalid-request"
    UNKNOWN_FIELD = "unknown-field"
    OUTSIDE_ROOTS = "outside-roots"
    UNAUTHENTICATED = "unauthenticated"
    TOO_MANY_FAILURES = "too-many-failures"
    QUEUE_FULL = "queue-full"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too-large"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_ACCEPTABLE = "not-acceptable"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    BAD_RECORD = "bad-record"
    NOT_PERMITTED = "not-permitted"
    NO_SPACE = "no-space"
    IO_ERROR = "io-error"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    INSUFFICIENT_MEMORY = "insufficient-memory"
    NOT_REIMAGED = "not-reimaged"
    NOT_CONFIRMED = "not-confirmed"
    HELD_BACK = "held-back"

    @property
    def summary(self) -> str:
        """The `title` of every problem of this type."""
        return _VOCABULARY[self][0]

    @property
    def status(self) -> int:
        """The HTTP status that goes with this type."""
        return _VOCABULARY[self][1]


_VOCABULARY: dict[Slug, tuple[str, int]] = {
    Slug.NOT_FOUND: ("Not found", 404),
    Slug.CONFLICT: ("Conflicts with the present state", 409),
    Slug.IDEMPOTENCY_MISMATCH: ("The idempotency key was used for another request", 409),
    Slug.INVALID_REQUEST: ("The request is not valid", 422),
    Slug.UNKNOWN_FIELD: ("The request has an unknown field", 422),
    Slug.OUTSIDE_ROOTS: ("The path is outside the configured roots", 422),
    Slug.UNAUTHENTICATED: ("Authentication is needed", 401),
    Slug.TOO_MANY_FAILURES: ("Too many failed attempts to authenticate", 429),
    Slug.QUEUE_FULL: ("Too many operations are waiting", 429),
    Slug.FORBIDDEN: ("Not allowed", 403),
    Slug.TOO_LARGE: ("The body is too large", 413),
    Slug.METHOD_NOT_ALLOWED: ("The method is not allowed here", 405),
    Slug.NOT_ACCEPTABLE: ("No acceptable representation", 406),
    Slug.UNSUPPORTED_MEDIA_TYPE: ("The media type is not supported", 415),
    Slug.BAD_RECORD: ("The record cannot be trusted", 422),
    Slug.NOT_PERMITTED: ("The operating system does not permit it", 403),
    Slug.NO_SPACE: ("No space left", 507),
    Slug.IO_ERROR: ("Input or output failed", 500),
    Slug.CANCELLED: ("Cancelled", 409),
    Slug.INTERRUPTED: ("Interrupted", 503),
    Slug.INTERNAL: ("Internal error", 500),
    Slug.UNAVAILABLE: ("Not available now", 503),
    Slug.INSUFFICIENT_MEMORY: ("Not enough memory", 507),
    Slug.NOT_REIMAGED: ("The machine was not re-imaged", 409),
    Slug.NOT_CONFIRMED: ("The new system is not confirmed", 409),
    Slug.HELD_BACK: ("The machine may not go down now", 409),
}


class FieldError(BaseModel, defer_build=True):
    """What is wrong with one field of a request."""

    field: str = Field(description="Dotted path of the field, for example `paths.0`.")
    message: str


class Problem(BaseModel, defer_build=True):
    """Problem details of RFC 9457; members beyond the standard ones are allowed."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`/problems/<slug>`: a stable name for this kind of problem.")
    title: str
    status: int = Field(ge=100, le=599)
    detail: str = Field(description="What is wrong here and what to do about it.")
    errors: list[FieldError] | None = None

    @classmethod
    def of(
        cls,
        slug: Slug,
        detail: str,
        *,
        status: int | None = None,
        errors: list[FieldError] | None = None,
        **members: Any,
    ) -> Problem:
        """Make a problem of the vocabulary; `members` become extension members.

        `status` is for the rare answer whose status is not the usual one of its type.
        """
        return cls(
            type=f"/problems/{slug.value}",
            title=slug.summary,
            status=slug.status if status is None else status,
            # The name of a file may hold bytes that no JSON text can.
            detail=detail.encode(errors="backslashreplace").decode(),
            errors=errors,
            **members,
        )

    @property
    def slug(self) -> str:
        """The last part of `type`."""
        return self.type.rpartition("/")[2]

    @model_serializer(mode="wrap")
    def _without_empty_errors(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        members: dict[str, Any] = handler(self)
        if self.errors is None:
            members.pop("errors", None)
        return members


class ProgressReport(BaseModel, defer_build=True):
    """How far an operation has come, by what was really done; done never exceeds expected."""

    phase: str = Field(default="", description="One or two words; empty before the start.")
    current: str | None = Field(
        default=None, description="The largest file that is being worked on, where it is reported."
    )
    bytes_done: int = Field(default=0, ge=0)
    bytes_expected: int | None = Field(default=None, ge=0)
    files_done: int = Field(default=0, ge=0)
    files_expected: int | None = Field(default=None, ge=0)
    bytes_per_second: int = Field(
        default=0,
        ge=0,
        description="Over the last five seconds while running; over the whole run once it ended. "
        "Of loads, builds and verifications it is what was read; 0 of what reads no files.",
    )
    expected_hits: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Of loads in the order that dumps decide: the share of the expected uses of "
        "the dump's pages that falls on those in memory by now. Null of anything else.",
    )
    eta_seconds: float | None = Field(
        default=None,
        ge=0,
        description="Time left as the work goes now; null in its first seconds and when not known.",
    )


class OperationSummary(BaseModel, defer_build=True):
    """One run of long work as lists have it: without its result."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="Sortable by time (ULID).")
    kind: str = Field(examples=["pagecache.load"])
    state: State
    outcome: Outcome | None = Field(
        default=None,
        description="What one that succeeded came to. `ok`: all that was asked for. `differs`: a "
        "check found differences. `partial`: something was left out or could not be done; `result` "
        "names it. Null until it succeeded, and for any other end.",
    )
    actor: str = Field(description="Who asked for it.")
    traceparent: str | None = Field(
        default=None,
        description="The trace that the call which started it belongs to (W3C Trace Context).",
    )
    created_at: Timestamp
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    params: dict[str, Any] | None = Field(
        default=None, description="What was asked for; null where that is more than 4 KiB."
    )
    progress: ProgressReport = Field(default_factory=ProgressReport)
    error: Problem | None = None

    @property
    def verdict(self) -> str:
        """The word for how it stands: its outcome where that is not `ok`, else its state."""
        if self.outcome in (None, Outcome.OK):
            return self.state.value
        return self.outcome.value


class Operation(OperationSummary):
    """One run of long work."""

    params: dict[str, Any] = Field(description="What was asked for.")
    result: dict[str, Any] | None = None

    def summary(self, params_bytes: int) -> OperationSummary:
        """Return it without its result, and without parameters of more than `params_bytes`."""
        members = {name: getattr(self, name) for name in OperationSummary.model_fields}
        if len(json.dumps(self.params)) > params_bytes:
            members["params"] = None
        return OperationSummary.model_construct(**members)


class RequestError(Exception):
    """A request that cannot be served, refused before any operation was started."""

    def __init__(self, slug: Slug, detail: str, field: str | None = None, **members: Any) -> None:
        """`members` become extension members of the problem."""
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.field = field
        self.members = members
        self.retry_after: int | None = None
        """Seconds after which to try again, where that is known."""

    @property
    def problem(self) -> Problem:
        """What a client receives."""
        errors = [FieldError(field=self.field, message=self.detail)] if self.field else None
        return Problem.of(self.slug, self.detail, errors=errors, **self.members)


class OperationFailed(Exception):  # noqa: N818  # these names are the words used everywhere
    """Raised by a kind's run function: the operation ends as failed with this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class UnknownOperation(Exception):  # noqa: N818
    """No operation has this id; it never existed or was removed with age."""

    def __init__(self, operation_id: str) -> None:
        super().__init__(f"There is no operation {operation_id!r}.")
        self.operation_id = operation_id


class Conflict(Exception):  # noqa: N818
    """A queued or running operation holds a resource that the new one needs."""

    def __init__(self, running: Operation) -> None:
        super().__init__(
            f"Operation {running.id} ({running.kind}) is {running.state.value} and conflicts with "
            "this request; wait for it or cancel it."
        )
        self.running = running


class IdempotencyMismatch(Exception):  # noqa: N818
    """The idempotency key belongs to an operation that was asked for with another body."""

    def __init__(self, existing: Operation) -> None:
        super().__init__(
            f"The idempotency key was already used for operation {existing.id} ({existing.kind}) "
            "with another body; use a new key for a new request."
        )
        self.existing = existing


class ShuttingDown(Exception):  # noqa: N818
    """The daemon is stopping and starts nothing new."""

    def __init__(self) -> None:
        super().__init__("The daemon is shutting down; try again when it is back.")
