"""Runs `holdfast` in children of a process that has imported it, stopped until a tracer is there.

A traced program takes a second to import what it needs, each system call of it seen by the tracer.
`python forked.py` reads lines of JSON: `{"arguments": [...], "output": PATH, "errors": PATH}`. It
answers each with a line that has the process id of a child, which stops itself before it does
anything, and with another that has its exit status, once it has ended.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import holdfast
import holdfast.cli


class Forked:
    """Such a process, in which `holdfast` is run again and again."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self._output, self._errors = directory / "forked-output", directory / "forked-errors"

    def run(
        self, strace: Sequence[str], arguments: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a command under strace with these options. The status is negative for a signal."""
        assert self._process.stdin is not None
        request = {
            "arguments": arguments,
            "output": str(self._output),
            "errors": str(self._errors),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        child = self._answer()
        with subprocess.Popen(
            ["strace", "-f", *strace, "-p", str(child)], stderr=subprocess.PIPE, text=True
        ) as tracer:
            assert tracer.stderr is not None
            attached = tracer.stderr.readline()
            if "attached" not in attached:
                # It would stay stopped, and be waited for.
                os.kill(child, signal.SIGKILL)
                raise AssertionError(attached + tracer.stderr.read())
            os.kill(child, signal.SIGCONT)
            status = self._answer()
            tracer.stderr.read()
        return subprocess.CompletedProcess(
            arguments, status, self._output.read_text(), self._errors.read_text()
        )

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def main() -> None:
    """Run what is asked for until the end of the input."""
    for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(**request)
        os.waitpid(child, os.WUNTRACED)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(arguments: list[str], output: str, errors: str) -> NoReturn:
    for number, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.kill(os.getpid(), signal.SIGSTOP)
    sys.argv = ["holdfast", *arguments]
    holdfast.cli.main()
    raise AssertionError("the command line did not end its process")


if __name__ == "__main__":
    main()
