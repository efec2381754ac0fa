"""The command line's help: complete, quick, and with examples that work."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from holdfast.cli.app import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


ALL = list(commands(typer.main.get_command(app)))


def test_every_command_of_the_design_is_there() -> None:
    names = {" ".join(path) for path, _ in ALL}
    assert names >= {
        "serve",
        "node",
        *(f"pagecache {verb}" for verb in ("show", "dump", "load", "evict", "list", "delete")),
        *(f"pagecache {verb}" for verb in ("export", "import")),
        *(f"manifest {verb}" for verb in ("build", "verify", "diff", "report", "show", "list")),
        *(f"manifest {verb}" for verb in ("delete", "export", "import")),
        *(f"image {verb}" for verb in ("describe", "verify")),
        *(f"op {verb}" for verb in ("list", "show", "watch", "cancel")),
        *(f"config {verb}" for verb in ("check", "show")),
        *(f"token {verb}" for verb in ("create", "list", "revoke")),
    }


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_help_has_a_text_and_examples_that_parse(path: tuple[str, ...], command: Any) -> None:
    assert command.help
    assert "Examples" in command.epilog
    examples = [line for line in command.epilog.splitlines() if "$ " in line]
    assert examples
    for line in examples:
        words = shlex.split(line.partition("$ ")[2].replace("\\[", "["), comments=True)
        while words and words[0] != "holdfast":  # sudo, variables, the left side of a pipe
            words.pop(0)
        for end in ("|", ">", "&&"):
            words = words[: words.index(end)] if end in words else words
        assert parses(words[1:]), line


def parses(words: list[str]) -> bool:
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        context = command.make_context("holdfast", list(words), resilient_parsing=True)
        words = [*context._protected_args, *context.args]
        if not words:
            return True
        command = command.commands[words.pop(0)]
    command.make_context("holdfast", words)
    return True


def test_every_option_says_what_it_is_for() -> None:
    for path, command in ALL:
        for parameter in command.params:
            if parameter.name not in {"help", "ctx"}:
                assert getattr(parameter, "help", None), (path, parameter.name)


def test_lists_of_commands_show_the_beginning_of_their_help() -> None:
    """A group has it without making the command; see `holdfast.cli.registration.groups`."""
    lists = 0
    for _, command in ALL:
        for name, entry in getattr(command, "entries", {}).items():
            beginning = command.commands[name].help.strip().partition("\n\n")[0]
            assert entry.about == " ".join(beginning.split()), name
            lists += 1
    assert lists == len(ALL) - 1  # all but the root


def modules_after(*arguments: str, code: int = 0) -> set[str]:
    """Return what is imported once a command line has run, which must end with `code`."""
    program = (
        "import json, sys\n"
        "from holdfast.cli import execute\n"
        f"code = execute({list(arguments)!r})\n"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    ended, modules = json.loads(done.stderr.splitlines()[-1])
    assert ended == code, done.stderr
    return set(modules)


def test_help_loads_neither_the_client_nor_the_server() -> None:
    heavy = {"httpx", "pydantic", "pydantic_settings", "fastapi", "uvicorn", "sqlite3"}
    assert not heavy & modules_after("pagecache", "load", "--help")


def test_the_list_of_commands_loads_none_of_them() -> None:
    loaded = modules_after("--help")
    assert "holdfast.cli.app" in loaded
    assert not [name for name in loaded if name.startswith("holdfast.cli.commands.")]
    assert "rich" not in modules_after("--version")


def test_a_client_of_the_socket_imports_neither_httpx_nor_models(tmp_path: Path) -> None:
    """Also where no daemon answers, which the same modules report."""
    socket = ["--socket", str(tmp_path / "none")]
    modules = modules_after("op", "list", "--json", *socket, code=1)
    assert "holdfast_client.socket_exchange" in modules
    assert not {"httpx", "asyncio", "pydantic", "rich"} & modules
    assert "httpx" in modules_after("op", "list", "--url", "http://127.0.0.1:1", code=1)
