"""The command line: a client of the API, `holdfast serve`, and `--local` work."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from holdfast.cli.errors import CliError, ExitCode

__all__ = ["main", "run"]

_COLLECT_AFTER = 50_000
"""Objects that are made before garbage is collected: modules make many, and none is garbage."""


def main() -> None:
    """Run the command line of this process and end it."""
    gc.set_threshold(_COLLECT_AFTER)
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and answer its exit code; what went wrong is said in one line."""
    from holdfast.cli.output import prepare_streams  # noqa: PLC0415 - quick to import main alone

    prepare_streams()
    try:
        return _call(arguments)
    except CliError as error:
        return _complain(str(error), error.code)
    except KeyboardInterrupt:
        return _complain("interrupted", ExitCode.FAILED)
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `head` does.
        _forget_stdout()
        return ExitCode.FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", ExitCode.FAILED)


def _call(arguments: Sequence[str]) -> int:
    from holdfast.cli.app import app  # noqa: PLC0415

    try:
        code = app(list(arguments), prog_name="holdfast", standalone_mode=False)
    except Exception as error:
        # typer brings its own copy of click, or uses the real one: known by what they offer.
        message = getattr(error, "format_message", None)
        if message is not None:
            if not message():
                return ExitCode.USAGE  # a group without a command, whose help was shown
            return _complain(_usage(message(), error), ExitCode.USAGE)
        if type(error).__name__ == "Abort":
            return _complain("stopped", ExitCode.FAILED)
        if type(error).__name__ == "ValidationError":
            return _complain(
                "the daemon answered something this command does not understand "
                f"({_first_line(error)}); are both of the same version?",
                ExitCode.FAILED,
            )
        if isinstance(error, CliError | OSError) or sys.flags.dev_mode:
            raise
        return _complain(
            f"a defect of holdfast itself: {type(error).__name__}: {_first_line(error)}; "
            "PYTHONDEVMODE=1 in the environment shows where",
            ExitCode.FAILED,
        )
    return code if isinstance(code, int) else ExitCode.DONE


def _usage(message: str, error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "holdfast"
    text = " ".join(message.split()).rstrip(".")
    return f"{text}; see `{command} --help`"


def _complain(message: str, code: ExitCode) -> int:
    from holdfast.cli.units import printable  # noqa: PLC0415

    text = message[:1].lower() + message[1:] if message[1:2].islower() else message
    print(f"holdfast: {printable(text).replace(chr(92) * 2, chr(92))}", file=sys.stderr)
    return int(code)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).splitlines()[:3])


def _forget_stdout() -> None:
    """Keep the interpreter from complaining about the closed pipe when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
