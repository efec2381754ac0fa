"""An operation as a node answered it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FINAL = frozenset({"succeeded", "failed", "cancelled", "interrupted"})


class OperationRecord:
    """One run of long work, as last seen. `data` has all members, also those of newer nodes."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id} {self.kind} {self.state})"

    @property
    def id(self) -> str:
        """Its id, sortable by time; empty of one that was not started yet."""
        return str(self.data.get("id", ""))

    @property
    def kind(self) -> str:
        """For example `pagecache.load`; empty while it was never seen."""
        return str(self.data.get("kind", ""))

    @property
    def state(self) -> str:
        """`queued`, `running`, `succeeded`, `failed`, `cancelled`, `interrupted`; `unknown`."""
        return str(self.data.get("state", "unknown"))

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self.state in FINAL

    @property
    def outcome(self) -> str | None:
        """`ok`, `differs` or `partial` once it succeeded."""
        value: str | None = self.data.get("outcome")
        return value

    @property
    def progress(self) -> Mapping[str, Any]:
        """`phase`, `bytes_done`, `bytes_expected`, `eta_seconds` and more."""
        return self.data.get("progress") or {}

    @property
    def phase(self) -> str:
        """What it is doing; of a re-imaging, the node's state. Empty before the start."""
        return str(self.progress.get("phase", ""))

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What it came to, once it succeeded."""
        value: Mapping[str, Any] | None = self.data.get("result")
        return value

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The problem that it ended with, if it did not succeed."""
        value: Mapping[str, Any] | None = self.data.get("error")
        return value
