"""Runs the shell sessions of a document as one session, and compares what is printed.

A session is a fenced block of the kind `console`: lines that begin with `$ ` are typed, the others
are what is printed. In what is printed, `…` matches anything within a line, and a line that is only
`…` any number of lines.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_BEFORE, _AFTER = "\x1e", "\x1f"
_SECONDS = 100.0


@dataclass
class Step:
    """A command of a document, and what the document shows that it prints."""

    command: str
    shown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ran:
    """What a step came to."""

    step: Step
    printed: str
    code: int

    def problem(self) -> str | None:
        """Return why this is not what the document shows; None if it is."""
        if self.code != 0:
            return f"`{self.step.command}` ended with {self.code}:\n{self.printed}"
        if self.step.shown and not matches(self.step.shown, self.printed):
            shown = "\n".join(self.step.shown)
            return f"`{self.step.command}` printed\n{self.printed}\nand the document shows\n{shown}"
        return None


def steps_of(markdown: str) -> list[Step]:
    """Return the steps of all sessions, in their order."""
    steps: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line.removeprefix("$ ")))
            elif steps:
                steps[-1].shown.append(line)
    for step in steps:
        while step.shown and not step.shown[-1].strip():
            step.shown.pop()
    return steps


def matches(shown: list[str], printed: str) -> bool:
    """Return whether a text is what a document shows."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else _line(line) + r"[ ]*\n" for line in shown
    )
    return re.fullmatch(pattern, printed.rstrip() + "\n") is not None


def _line(shown: str) -> str:
    return "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", shown))


def run_session(steps: list[Step], *, directory: Path, environment: Mapping[str, str]) -> list[Ran]:
    """Type the steps into one shell and return what each came to.

    What they start in the background is killed at the end. Raises `subprocess.TimeoutExpired`.
    """
    script = "set -o pipefail\n" + "".join(
        f"printf '{_BEFORE}'\n{step.command}\nprintf '{_AFTER}%d' \"$?\"\n" for step in steps
    )
    with tempfile.TemporaryFile("w+") as output:
        # A file, since what runs in the background would keep a pipe open.
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            start_new_session=True,
        )
        try:
            shell.wait(_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
        output.seek(0)
        parts = output.read().split(_BEFORE)[1:]
    assert len(parts) == len(steps), parts
    ran = []
    for step, part in zip(steps, parts, strict=True):
        printed, _, code = part.rpartition(_AFTER)
        ran.append(Ran(step, printed, int(code)))
    return ran
