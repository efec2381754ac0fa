"""How a command ends: its exit codes, and its line when it cannot do what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What the shell sees."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DIFFERENCES = 3  # a check ran to its end and found that things differ
    LEFT_RUNNING = 4  # the person left an operation running: how it ends is not known


class CliError(Exception):
    """Ends the command: one sentence on what is wrong and what to do."""

    def __init__(
        self,
        message: str,
        code: ExitCode = ExitCode.FAILED,
        *,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.problem = problem
        """The problem document from the daemon, if there is one."""


class UsageError(CliError):
    """The command line itself does not make sense."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)
