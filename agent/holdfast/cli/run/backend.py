"""What commands ask of a node, by whichever way it is done: by its daemon or in this process.

Documents are those of the HTTP API, as dictionaries. What is refused is a `CliError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from holdfast.cli.run.runs import Run
    from holdfast.pagecache.residency import GroupBy

Document = dict[str, Any]


class Records(Protocol):
    """The stored records of one capability: dumps, or manifests."""

    def list(self) -> Document:
        """Return the list of the stored records, newest first."""

    def show(self, record: str) -> Document:
        """Describe a record; `latest` is the newest."""

    def delete(self, record: str) -> None:
        """Delete a record."""

    def content(self, record: str, form: str) -> Iterator[bytes]:
        """Yield the bytes of a record in one of its file formats."""

    def store(self, chunks: Iterator[bytes]) -> Document:
        """Store a record made elsewhere, once it is known to be whole, and describe it."""


class Profiles(Protocol):
    """Kernel settings by profile."""

    def state(self) -> Document:
        """Describe what is applied and what has drifted from it."""

    def plan(self, body: Mapping[str, Any]) -> Document:
        """Describe what applying a profile would change."""

    def list(self) -> Document:
        """Return the list of the profiles."""

    def show(self, name: str) -> Document:
        """Describe a profile."""

    def change(self, kind: str, body: Mapping[str, Any]) -> Run | Document:
        """Start `tuning.apply` or `tuning.rollback`; the result itself where it is quick."""


class Backend(Protocol):
    """Everything that commands with `--local` can do in both ways."""

    @property
    def dumps(self) -> Records:
        """Dumps of the page cache."""

    @property
    def manifests(self) -> Records:
        """Manifests."""

    @property
    def profiles(self) -> Profiles:
        """Kernel settings."""

    def residency(
        self, *, path: str | None, depth: int, top: int, by: GroupBy | None = None
    ) -> Document:
        """Describe what is in memory below `path`, or of every root."""

    def report(self, operation: str) -> Iterator[bytes]:
        """Yield the lines of the report of a verification or comparison, without their ends."""

    def running(self, kind: str) -> str | None:
        """Return the id of an operation of this kind that is running, if there is one."""

    def start(self, kind: str, body: Mapping[str, Any]) -> Run:
        """Check parameters and start an operation."""
