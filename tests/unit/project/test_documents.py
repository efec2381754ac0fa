"""What the documents refer to exists: files, headings, commands; and figures are as drawn."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from holdfast.cli.app import app
from tests.support.machine.ground import CHECKOUT

DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    """Return a document without its blocks of code."""
    return _FENCE.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """Return the fragments of a document's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        number = 0
        while (f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(f"{slug}-{number}" if number else slug)
    return found


def links(path: Path) -> list[str]:
    """Return where a document's links and pictures lead within the tree."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    return [target for target in targets if "://" not in target]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_each_document_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    left = [CHECKOUT / "README.md"]
    while left:
        document = left.pop()
        if document in seen or document.suffix != ".md" or not document.exists():
            continue
        seen.add(document)
        left += [(document.parent / link.partition("#")[0]).resolve() for link in links(document)]
    assert set(DOCUMENTS) - seen == set()


def commands() -> Iterator[tuple[str, str]]:
    """Return the document's name and the words of each command of ours in blocks of code."""
    for document in DOCUMENTS:
        for _, block in _FENCE.findall(document.read_text()):
            for line in block.splitlines():
                for part in re.findall(
                    r"(?:^|[|;&] |\(|sudo |\$ )(holdfast [a-z-][^|;&)#]*)", line
                ):
                    yield document.name, part


def known(words: list[str]) -> bool:
    """Return whether the command exists, with the options that are named."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if hasattr(command, "commands"):
        return not words or words[0].startswith("-")
    options = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    named = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    return named <= options | {"--help"}


def test_commands_in_documents_exist() -> None:
    found = list(commands())
    assert len(found) >= 40
    wrong = [(name, line) for name, line in found if not known(shlex.split(line)[1:])]
    assert not wrong


def test_figures_are_as_their_scripts_draw_them() -> None:
    done = subprocess.run(
        [sys.executable, CHECKOUT / "docs" / "img" / "figures.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
