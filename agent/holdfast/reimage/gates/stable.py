"""Waits until a reading was good several times in a row: what comes and goes is not ready."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.operations.model import OperationFailed
from holdfast.privileged import Privileged, Refused
from holdfast.reimage.after_boot.commands import run_command
from holdfast.reimage.gates import probes
from holdfast.reimage.gates.cassandra import cassandra
from holdfast.reimage.gates.kafka import kafka
from holdfast.reimage.gates.probes import NotReadyError
from holdfast.reimage.models import Check
from holdfast.text.wording import sentence_of

if TYPE_CHECKING:
    from holdfast._engine import Progress
    from holdfast.config.confirm_when import ConfirmWhen

_BY_ADDRESS: dict[str, Callable[[str], str]] = {
    "redis": probes.redis,
    "memcached": probes.memcached,
    "postgresql": probes.postgresql,
    "zookeeper": probes.zookeeper,
    "kafka": kafka,
}


_OUTPUT_BYTES = 1 << 20
"""Of a command: a line of nodetool status takes about 120."""


@dataclass(frozen=True)
class Gates:
    """The checks of `reimage.confirm_when`, one after the other."""

    wanted: Sequence[ConfirmWhen] = field(default_factory=tuple)
    ca_file: Path | None = None

    @property
    def longest_seconds(self) -> float:
        """The longest that one of them waits."""
        return max((wanted.within_seconds for wanted in self.wanted), default=0.0)

    def examine(
        self, progress: Progress, privileged: Privileged, pause: Callable[[float], None]
    ) -> list[Check]:
        """Wait for each. `pause` sleeps, and raises `CancelledError` when it is time to end."""
        return [self._wait(wanted, progress, privileged, pause) for wanted in self.wanted]

    def _wait(
        self,
        wanted: ConfirmWhen,
        progress: Progress,
        privileged: Privileged,
        pause: Callable[[float], None],
    ) -> Check:
        progress.enter(f"waiting for {wanted.check}")
        deadline = time.monotonic() + wanted.within_seconds
        good, last = 0, "it was not read"
        while good < wanted.stable:
            if good or last != "it was not read":
                pause(min(wanted.every_seconds, max(0.0, deadline - time.monotonic())))
            if time.monotonic() >= deadline:
                return Check(
                    name=wanted.check,
                    passed=False,
                    detail=f"{wanted.target}: not good {wanted.stable} times in a row within "
                    f"{wanted.within_seconds:g} s; last: {last}.",
                )
            try:
                last = self._read(wanted, privileged, deadline, pause)
                good += 1
            except NotReadyError as error:
                good, last = 0, str(error)
        detail = f"{wanted.target}: {last}; good {wanted.stable} times in a row."
        return Check(name=wanted.check, passed=True, detail=detail)

    def _read(
        self,
        wanted: ConfirmWhen,
        privileged: Privileged,
        deadline: float,
        pause: Callable[[float], None],
    ) -> str:
        if wanted.check in _BY_ADDRESS:
            return _BY_ADDRESS[wanted.check](wanted.address)
        if wanted.check == "elasticsearch":
            return probes.elasticsearch(wanted.url, self._context(wanted.url))
        if wanted.check == "http":
            probes.http(wanted.url, self._context(wanted.url))
            return "answers"
        if wanted.check == "unit":
            return _unit(wanted.unit, privileged)
        left = max(0.1, deadline - time.monotonic())
        ended = run_command(wanted.command, left, lambda: pause(0), kept_bytes=_OUTPUT_BYTES)
        if not ended.passed:
            raise NotReadyError(ended.sentence.rstrip("."))
        if wanted.check == "cassandra":
            return cassandra(ended.output, wanted.address)
        return ended.sentence.rstrip(".")

    def _context(self, url: str) -> ssl.SSLContext | None:
        if not url.startswith("https:"):
            return None
        context = ssl.create_default_context()
        if self.ca_file is not None:
            try:
                context.load_verify_locations(self.ca_file)
            except OSError as error:
                raise NotReadyError(f"{self.ca_file} cannot be read: {error}") from error
        return context


def _unit(unit: str, privileged: Privileged) -> str:
    try:
        state = privileged.unit_state(unit)
    except (Refused, OSError, OperationFailed) as error:
        raise NotReadyError(
            f"its state cannot be read: {sentence_of(error).rstrip('.')}"
        ) from error
    if state != "active":
        raise NotReadyError(f"it is {state}")
    return "is active"
