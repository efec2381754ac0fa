"""Comments, docstrings and documents use the words of docs/STYLE.md."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_ALLOWED: dict[str, str] = {}
"""By file, a phrase in which the plain word is meant; none needs one so far."""


def words() -> list[str]:
    """Return the words of the table in docs/STYLE.md that are set as code."""
    text = (_ROOT / "docs/STYLE.md").read_text()
    rows = re.findall(r"^\| (`.+?) \| .+ \|$", text, re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row)]


def python_prose(source: str) -> Iterator[str]:
    """Yield the docstrings and comments of a module, those of attributes as well."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text
    comments = [
        token for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]  # fmt: skip
    yield joined((token.start[0], token.string.removeprefix("#")) for token in comments)


def rust_prose(source: str) -> Iterator[str]:
    """Yield the comments of a source file."""
    found = re.compile(r"(?:^|\s)//[/!]?(.*)$")
    matches = ((number, found.search(line)) for number, line in enumerate(source.splitlines()))
    yield joined((number, match[1]) for number, match in matches if match)


def document_prose(source: str) -> Iterator[str]:
    """Yield a document without its blocks of code."""
    yield re.sub(r"^ *```.*?^ *```", "", source, flags=re.MULTILINE | re.DOTALL)


def joined(lines: Iterator[tuple[int, str]]) -> str:
    """Join lines that follow each other, so that a phrase is found over their break."""
    text, last = "", -1
    for number, line in lines:
        text += (" " if number == last + 1 else "\n\n") + line.strip()
        last = number
    return text


def prose(path: Path) -> str:
    source = path.read_text()
    of_kind = {".rs": rust_prose, ".md": document_prose}
    parts = of_kind.get(path.suffix, python_prose)(source)
    text = "\n\n".join(" ".join(part.split(" ")) for part in parts)
    return re.sub(r"`[^`]*`", "", re.sub(r"(?<!\n)\n(?!\n)\s*", " ", text))


def sources() -> list[Path]:
    python = ("agent", "client", "demo", "fleet", "tests")
    trees = [(_ROOT / "agent", "*.pyi"), (_ROOT / "rust", "*.rs")]
    trees += [(_ROOT / name, "*.py") for name in python]
    documents = {*(_ROOT / "docs").rglob("*.md"), _ROOT / "README.md", _ROOT / "CONTRIBUTING.md"}
    documents.remove(_ROOT / "docs/STYLE.md")
    return sorted({*documents, *(path for tree, kind in trees for path in tree.rglob(kind))})


def test_the_words_are_read_from_the_guide() -> None:
    assert {"told", "whoever", "goes on"} <= set(words())


def test_comments_docstrings_and_documents_use_plain_words() -> None:
    private = re.compile(rf"\b(?:{'|'.join(map(re.escape, words()))})\b", re.IGNORECASE)
    wrong = []
    for path in sources():
        name, text = str(path.relative_to(_ROOT)), prose(path)
        for match in private.finditer(text):
            around = text[max(0, match.start() - 40) : match.end() + 40].replace("\n", " ")
            if _ALLOWED.get(name, "\n") not in around:
                wrong.append(f"{name}: {match[0]!r} in …{around}…; see docs/STYLE.md")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("suffix", "source"),
    [
        (".py", '"""A value that is\n\n    told."""\n'),
        (".py", "# who goes\n# on\nx = 1\n"),
        (".py", 'x = 1\n"""What was told."""\n'),
        (".rs", "//! What is\n//! looked at.\n"),
        (".rs", "let x = 1; // begun\n"),
        (".md", "# A title\n\n```\ncode\n```\n\nWhat was\ntold.\n"),
    ],
)
def test_a_word_is_found_in_all_kinds_of_prose(tmp_path: Path, suffix: str, source: str) -> None:
    path = tmp_path / f"source{suffix}"
    path.write_text(source)
    assert re.search(r"\b(?:told|goes on|looked at|begun)\b", prose(path))


def test_code_is_not_prose(tmp_path: Path) -> None:
    path = tmp_path / "source.py"
    path.write_text('told = "told"\n"""Return `told`."""\n')
    assert "told" not in prose(path)
    path = tmp_path / "document.md"
    path.write_text("Of `told`:\n\n```\ntold\n```\n")
    assert "told" not in prose(path)
