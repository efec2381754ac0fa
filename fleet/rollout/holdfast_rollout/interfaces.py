"""What the steps need of the world, and what the workflows need of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]


class Away(Exception):  # noqa: N818 - the node's condition, not a fault of the caller
    """No answer of the daemon: it is unreachable, or the imager is in its place.

    `imaging` is true of the latter. Whether the request was carried out is not known.
    """

    def __init__(self, message: str, *, imaging: bool = False) -> None:
        super().__init__(message)
        self.imaging = imaging


class Refused(Exception):  # noqa: N818 - the node's answer
    """The node answered with a problem: `slug` is its type, `gate` what holds a reboot back."""

    def __init__(
        self,
        message: str,
        *,
        slug: str = "",
        gate: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.slug = slug
        self.gate = gate
        self.retry_after = retry_after


@dataclass(frozen=True)
class NodeStatus:
    """What a node reports of itself."""

    state: str
    operation: str | None = None
    image_sha256: str | None = None
    """Of the descriptor of the attempt."""
    reason: str | None = None
    checked: bool = False
    """Whether the checks of the new system were made."""
    blocked: Sequence[str] = ()


@dataclass(frozen=True)
class OperationStatus:
    """An operation of a node, as last seen."""

    id: str
    state: str
    phase: str = ""
    problem: str | None = None
    """The slug of the problem that it ended with."""
    detail: str = ""
    bytes_done: int = 0
    bytes_expected: int | None = None
    bytes_per_second: float | None = None

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self.state in ("succeeded", "failed", "cancelled", "interrupted")


class NodeApi(Protocol):
    """Calls of one node. Each is one request, and raises `Away` or `Refused`."""

    async def status(self) -> NodeStatus:
        """Return the state of its re-imaging."""

    async def boot_id(self) -> str:
        """Return the id of the boot that it runs in."""

    async def features(self) -> Sequence[str]:
        """Return what its holdfast can do."""

    async def stage(self, image: Json, key: str) -> OperationStatus:
        """Start to fetch and verify an image."""

    async def operation(self, operation: str, wait: float) -> OperationStatus:
        """Return an operation once it ends, or as it is after `wait` seconds."""

    async def take(self, step: str, operation: str, key: str) -> str:
        """Arm, disarm, reboot or confirm; return the state."""

    async def rollback(self, operation: str, key: str) -> OperationStatus:
        """Start to stage the system that was kept."""

    async def cancel(self, operation: str, key: str) -> None:
        """Ask an operation to end."""


class Clock(Protocol):
    """Time."""

    def now(self) -> float:
        """Return the POSIX time in seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


@dataclass(frozen=True)
class Reading:
    """What a command, gate or source of alerts showed."""

    good: bool
    detail: str = ""


class Surroundings(Protocol):
    """What is asked besides the nodes."""

    async def hook(self, name: str, variables: dict[str, str]) -> Reading:
        """Run a hook; good if there is none."""

    async def gate(self, number: int, variables: dict[str, str]) -> Reading:
        """Read a gate once."""

    async def alerts(self) -> Reading:
        """Read all sources of alerts; good if none fires, and not if one cannot be read."""

    async def notify(self, event: Json) -> None:
        """Pass an event on; a failure is logged, and stops nothing."""


class Board(Protocol):
    """Where a roll is shown while it runs. Nothing is decided by it."""

    def node(self, name: str, members: Json) -> None:
        """Show members of a node: state, attempt, reason, times, progress."""

    def roll(self, members: Json) -> None:
        """Show members of the roll."""

    def requested(self, name: str) -> None:
        """Count a request to a node."""


class Engine(Protocol):
    """A durable engine, as one running workflow sees it.

    What a call returned is recorded: a workflow that is run again after its process was killed
    gets the same values, and continues at the first call that was not recorded.
    """

    async def step(self, name: str, arguments: Json) -> Json:
        """Run a step of `steps.Steps` by its name. It may be run again until it is recorded."""

    async def start_node(self, workflow: str, job: Json) -> None:
        """Start the workflow of a node, once for each id."""

    async def send(self, workflow: str, message: Json) -> None:
        """Put a message into the mailbox of a workflow, once."""

    async def receive(self, seconds: float) -> Json | None:
        """Take the oldest message of the own mailbox; None if none came in time."""

    async def now(self) -> float:
        """Return the POSIX time, recorded."""

    async def sleep(self, seconds: float) -> None:
        """Wait; after a restart for what is left of it."""

    async def publish(self, key: str, members: Json) -> None:
        """Show where the workflow is, to this process and to others: `roll` or `node:NAME`."""
