"""The tests that documents name exist; each fault of re-imaging names those that try it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
_OPTIONS = TESTS / "vm/imager/test_options.py"
"""What may be asked for, and then goes well."""
DOCUMENTS = sorted((TESTS.parent / "docs").rglob("*.md"))
PAGE = (TESTS.parent / "docs" / "reimage.md").read_text()


def rows() -> list[list[str]]:
    """Return the cells of the table of faults, headings left out."""
    section = PAGE.partition("\n## Faults\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ") for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return [row for row in cells[1:] if not row[0].startswith("**")]


def defined_in(path: Path) -> set[str]:
    """Return the tests in a file, those in classes with the class's name."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (
                statement.name for statement in node.body if isinstance(statement, ast.FunctionDef)
            )
            found |= {f"{node.name}::{name}" for name in inner}
    return found


def named_in(text: str) -> list[tuple[str, str]]:
    """Return the files and tests that a text names; `::test` alone is of the file before it."""
    found, file = [], ""
    for name, test in re.findall(r"`(?:tests/)?((?:unit|system|vm)/\S+?\.py|)(?:::(\S+?))?`", text):
        file = name or file
        if name or test:
            found.append((file, test))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_a_document_names_exist(document: Path) -> None:
    for file, test in named_in(document.read_text()):
        if "*" in file:
            assert list(TESTS.glob(file)), file
        else:
            assert (TESTS / file).is_file(), file
            there = defined_in(TESTS / file)
            there |= {name.partition("::")[0] for name in there}
            assert not test or test in there, f"{file}::{test}"


def test_there_is_a_table() -> None:
    assert len(rows()) >= 30


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 4, row
    assert all(row), row
    named = re.findall(r"`([^`:]+)::([^`]+)`", row[3])
    assert named, row
    for file, test in named:
        assert test.rpartition("::")[2].startswith("test_"), test
        assert test in defined_in(TESTS / file), f"{file} has no {test}"


def test_every_test_of_the_imager_is_in_the_table() -> None:
    """What goes well needs no row."""
    reported = " ".join(row[3] for row in rows())
    for path in sorted({*(TESTS / "vm/imager").glob("test_*.py")} - {_OPTIONS}):
        for test in defined_in(path):
            if test.rpartition("::")[2].startswith("test_") and "nothing_is_wrong" not in test:
                assert f"`vm/imager/{path.name}::{test}`" in reported, test
