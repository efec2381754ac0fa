"""The command line: a client of the API, `holdfast serve`, and `--local` work."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from holdfast.cli.terminal.errors import CliError, ExitCode, UsageError

__all__ = ["execute", "main"]

_COLLECT_AFTER = 250_000
"""Objects that are made before garbage is collected: modules make many, and none is garbage."""
_TITLES = {
    ExitCode.FAILED: "The command failed",
    ExitCode.USAGE: "The command line is not valid",
    ExitCode.DIFFERENCES: "Things differ",
    ExitCode.LEFT_RUNNING: "The operation was left running",
}


def main() -> None:
    """Run the command line of this process and end it."""
    gc.set_threshold(_COLLECT_AFTER)
    code = execute(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    sys.exit(code)


def execute(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; a failure is reported in one line."""
    from holdfast.cli.terminal.output import prepare_streams  # noqa: PLC0415 - quick to import main alone

    prepare_streams()
    as_json = "--json" in arguments[: _end_of_options(arguments)]
    try:
        return _call(arguments)
    except CliError as error:
        return _complain(error, as_json=as_json)
    except KeyboardInterrupt:
        return _complain(CliError("interrupted"), as_json=as_json)
    except BrokenPipeError:
        # The reader of the output has seen enough, as `head` does.
        _forget_stdout()
        return ExitCode.FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(CliError(f"{where}{error.strerror or error}"), as_json=as_json)


def _end_of_options(arguments: Sequence[str]) -> int:
    return arguments.index("--") if "--" in arguments else len(arguments)


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
            raise UsageError(_usage(message(), error)) from error
        if type(error).__name__ == "Abort":
            raise CliError("stopped") from error
        if type(error).__name__ == "ValidationError":
            from pydantic import ValidationError  # noqa: PLC0415

            from holdfast.text.wording import first  # noqa: PLC0415

            wrong = first(error) if isinstance(error, ValidationError) else ""
            raise CliError(
                "the daemon returned something that this command does not understand "
                f"({wrong}); are both of the same version?"
            ) from error
        if isinstance(error, CliError | OSError) or sys.flags.dev_mode:
            raise
        raise CliError(
            f"a defect of holdfast itself: {type(error).__name__}: {_first_line(error)}; "
            "PYTHONDEVMODE=1 in the environment shows where"
        ) from error
    return code if isinstance(code, int) else ExitCode.DONE


def _usage(message: str, error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "holdfast"
    text = " ".join(message.split()).rstrip(".")
    return f"{text}; see `{command} --help`"


def _complain(error: CliError, *, as_json: bool) -> int:
    """Print what is wrong on standard error: a sentence, or a problem document on one line."""
    from holdfast.cli.terminal.output import print_error  # noqa: PLC0415

    if as_json:
        import json  # noqa: PLC0415

        problem = {
            "type": "about:blank",
            "title": _TITLES[error.code],
            "detail": str(error),
            **(error.problem or {}),
            "exit_code": int(error.code),
        }
        print(json.dumps(problem), file=sys.stderr)
    else:
        print_error(str(error))
    return int(error.code)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).splitlines()[:3])


def _forget_stdout() -> None:
    """Keep the interpreter from complaining about the closed pipe when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
