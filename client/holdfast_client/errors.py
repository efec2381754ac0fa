"""Exceptions: what a node refused, how an operation ended, and what is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast_client.record import OperationRecord

Why = Literal["no-connection", "silent", "broken"]
"""Of what is not reachable: nothing accepts, nothing is said in time, or it broke off."""
PREFIX = "/problems/"
"""What the `type` of every problem of the daemon begins with; the imager's does not."""


class HoldfastError(Exception):
    """Base class of everything that this package raises on purpose."""


class Unreachable(HoldfastError):
    """No whole answer came; `sent` if the last request may have been received."""

    def __init__(
        self, message: str, *, sent: bool = True, why: Why = "broken", reason: str = ""
    ) -> None:
        super().__init__(message)
        self.sent = sent
        self.why = why
        self.reason = reason or message
        """What the operating system or the protocol says, without the node's name."""


class UnexpectedAnswer(HoldfastError):
    """What answered is not holdfast, or a proxy in front of it; `status` if it is no success."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NodeImaging(HoldfastError):
    """The imager answers in the daemon's place: the node is being written."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or "The imager answers in the daemon's place."))
        self.status = status
        self.problem = problem


class ProblemError(HoldfastError):
    """The node answered with a problem (RFC 9457); subclasses name its type."""

    slug = ""

    def __init__(
        self, status: int, problem: Mapping[str, Any], retry_after: float | None = None
    ) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or status))
        self.status = status
        self.problem = problem
        """All members, also those beyond the standard ones."""
        self.retry_after = retry_after
        """Seconds after which the node asked to be called again; None if it did not."""

    @property
    def type(self) -> str:
        """The stable name of this kind of problem, `/problems/<slug>`."""
        return str(self.problem.get("type", "about:blank"))

    @property
    def errors(self) -> list[dict[str, str]]:
        """Which fields are to blame: `field` and `message` of each."""
        return list(self.problem.get("errors") or ())


class InvalidRequest(ProblemError):
    """A value is missing or not valid."""

    slug = "invalid-request"


class UnknownField(InvalidRequest):
    """A field or query parameter does not exist on this node."""

    slug = "unknown-field"


class OutsideRoots(InvalidRequest):
    """A path is not in a root of this node."""

    slug = "outside-roots"


class BadRecord(ProblemError):
    """An upload is torn, damaged, or of a kind that is not known."""

    slug = "bad-record"


class Unauthenticated(ProblemError):
    """There was no token, or none that counts."""

    slug = "unauthenticated"


class TooManyFailures(ProblemError):
    """Too many requests without a valid token came from this address."""

    slug = "too-many-failures"


class QueueFull(ProblemError):
    """Too many operations are waiting."""

    slug = "queue-full"


class Forbidden(ProblemError):
    """The token's scope does not suffice."""

    slug = "forbidden"


class NotPermitted(ProblemError):
    """The node's operating system does not permit it."""

    slug = "not-permitted"


class NotFound(ProblemError):
    """There is no such route, operation, dump, manifest, report or file."""

    slug = "not-found"


class MethodNotAllowed(ProblemError):
    """The node does not have the method here."""

    slug = "method-not-allowed"


class NotAcceptable(ProblemError):
    """There is no representation of the media type that was asked for."""

    slug = "not-acceptable"


class Conflict(ProblemError):
    """Something else is in the way, or the attempt is not the one that was meant."""

    slug = "conflict"


class HeldBack(ProblemError):
    """The node may not go down now: `problem["gate"]` is what says no."""

    slug = "held-back"


class IdempotencyMismatch(ProblemError):
    """The idempotency key was used for another request."""

    slug = "idempotency-mismatch"


class TooLarge(ProblemError):
    """The body is too large."""

    slug = "too-large"


class UnsupportedMediaType(ProblemError):
    """The body has another media type than the route takes."""

    slug = "unsupported-media-type"


class Internal(ProblemError):
    """An error that nobody expected; the node's log has it under `problem["incident"]`."""

    slug = "internal"


class IoError(ProblemError):
    """Reading or writing failed on the node."""

    slug = "io-error"


class Unavailable(ProblemError):
    """A root is missing, or the daemon is stopping: `problem["reasons"]`."""

    slug = "unavailable"


class NoSpace(ProblemError):
    """The state volume is full, or would be below its floor of free space."""

    slug = "no-space"


class Cancelled(ProblemError):
    """An operation was cancelled."""

    slug = "cancelled"


class Interrupted(ProblemError):
    """An operation was interrupted and cannot resume."""

    slug = "interrupted"


class InsufficientMemory(ProblemError):
    """The node has too little memory for it."""

    slug = "insufficient-memory"


class NotReimaged(ProblemError):
    """The old system runs."""

    slug = "not-reimaged"


class NotConfirmed(ProblemError):
    """The new system runs and a check failed, or nothing proves which system runs."""

    slug = "not-confirmed"


def _classes() -> dict[str, type[ProblemError]]:
    found: dict[str, type[ProblemError]] = {}
    pending = [ProblemError]
    while pending:
        base = pending.pop()
        pending.extend(base.__subclasses__())
        found[base.slug] = base
    return found


BY_SLUG = _classes()
"""The exception of each type of problem; `ProblemError` itself under the empty name."""


def problem_error(
    status: int, problem: Mapping[str, Any], retry_after: float | None = None
) -> ProblemError:
    """Build the exception for a problem; of a type that is not known yet, a `ProblemError`."""
    slug = str(problem.get("type", "")).removeprefix(PREFIX)
    # The imager's problems have no type.
    known = BY_SLUG.get(slug) or (Unauthenticated if status == 401 else ProblemError)
    return known(status, problem, retry_after)


class OperationError(HoldfastError):
    """How an operation ended that was waited for; `operation` is its last known record."""

    def __init__(self, message: str, operation: OperationRecord) -> None:
        super().__init__(message)
        self.operation = operation


class OperationFailed(OperationError):
    """The node says so: it ended as failed, cancelled or interrupted. `problem` says why."""

    def __init__(self, operation: OperationRecord) -> None:
        self.problem = problem_error(
            int((operation.error or {}).get("status", 0)), operation.error or {}
        )
        why = f": {self.problem}" if operation.error else ""
        super().__init__(
            f"Operation {operation.id} ({operation.kind or 'not known'}) ended as "
            f"{operation.state}{why}",
            operation,
        )


class OperationLost(OperationError):
    """How it ended is not known: the node is away, or does not know the operation."""


class OperationUnfinished(OperationError):
    """The time is up, and the node answers: the operation is still queued or running."""


class AttemptChanged(OperationError):
    """Another caller disarmed this attempt at re-imaging."""
