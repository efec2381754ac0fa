"""What a command writes: results on standard output, notes and progress on standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from holdfast.cli.terminal.tables import Column, Line, Row, column, lay_out, wrap
from holdfast.cli.terminal.units import printable

if TYPE_CHECKING:
    from rich.console import Console

_USUAL_WIDTH = 80
_NARROWEST = 20  # cells; narrower than that, what is written is not readable anyway
_DUMB = frozenset({"dumb", "unknown"})


def prepare_streams() -> None:
    r"""See that no file name can stop a command from printing; unknown bytes become `\xff`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def speaks_unicode(stream: TextIO) -> bool:
    """Whether block characters can be written to `stream`."""
    return (stream.encoding or "").lower().replace("-", "") in {"utf8", "utf16", "utf32"}


class Output:
    """The two streams of a command, each for a person or for a program."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.unicode = speaks_unicode(sys.stdout)

    @property
    def interactive(self) -> bool:
        """Whether a person can be shown something live and be asked a question."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def json(self, value: Any) -> None:
        """Print one JSON document; pydantic models and what contains them are fine."""
        print(json.dumps(value, indent=2, ensure_ascii=False, default=_to_json))

    def json_line(self, value: Any, *, at_once: bool = True) -> None:
        """Print one JSON document on a line of its own; not `at_once` where there are many."""
        print(json.dumps(value, ensure_ascii=False, default=_to_json), flush=at_once)

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line of a result; on a terminal it is wrapped between words."""
        self._write(sys.stdout, text, style)

    def at_once(self, text: str) -> None:
        """Print a line of continuous output at once, also into a pipe."""
        print(text, flush=True)

    def note(self, text: str, style: str = "") -> None:
        """Print a line that is not part of the result."""
        self._write(sys.stderr, text, style)

    def hint(self, text: str) -> None:
        """Print what could be done next: to a person only."""
        if sys.stderr.isatty() and not self.quiet and not self.as_json:
            self._write(sys.stderr, text, "dim")

    def heading(self, text: str) -> None:
        """Print the title of a part of a result, set off by an empty line."""
        self.line()
        self.line(text, "bold")

    def table(
        self,
        columns: Sequence[Column | str],
        rows: Iterable[Sequence[str]],
        *,
        indent: int = 0,
        styles: Mapping[str, str] | None = None,
        header: bool = True,
        notes: Sequence[Sequence[str]] = (),
    ) -> None:
        """Print aligned columns, as wide as the terminal at most; in a pipe nothing is left out.

        A column name that begins with `>` is set to the right; one that begins with `~` is long
        text, which is wrapped. `styles` has the style of cells that are one of its words, and of
        rows that begin with one. `notes` are lines below each row.
        """
        styles = styles or {}
        laid = [
            Row(
                texts,
                [styles.get(text, styles.get(texts[0], "")) for text in texts],
                notes[number] if notes else (),
            )
            for number, texts in enumerate(rows)
        ]
        width = self.width
        lines = lay_out(
            [column(each) for each in columns],
            laid,
            None if width is None else width - indent,
            header=header,
        )
        for line in lines:
            if width is None:
                print(" " * indent + "".join(text for text, _ in line))
            else:
                _print_styled([(" " * indent, ""), *line])

    def fields(self, pairs: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
        """Print names and values below each other, the values aligned."""
        chosen = [(name, value) for name, value in pairs if value]
        names = max((len(name) for name, _ in chosen), default=0)
        for name, value in chosen:
            line = f"{'':{indent}}{name:<{names}}  {value}"
            self._write(sys.stdout, line, "", hang=indent + names + 2)

    @property
    def width(self) -> int | None:
        """The width of the terminal that results go to, in cells; None in a pipe."""
        return terminal_width(sys.stdout)

    def _write(self, stream: TextIO, text: str, style: str, *, hang: int | None = None) -> None:
        width = terminal_width(stream)
        if width is None:
            print(text, file=stream, flush=stream is sys.stderr)
            return
        for line in text.split("\n"):
            own = len(line) - len(line.lstrip()) + 2 if hang is None else hang
            for part in wrap(line, width, hang=min(own, width // 2)):
                if style:
                    _print_styled([(part, style)], stream)
                else:
                    print(part, file=stream, flush=stream is sys.stderr)


def print_error(message: str) -> None:
    """Print on standard error why the command failed."""
    text = message[:1].lower() + message[1:] if message[1:2].islower() else message
    # What is a name in it was made printable already.
    shown = f"holdfast: {printable(text)}".replace("\\\\", "\\")
    width = terminal_width(sys.stderr)
    for line in [shown] if width is None else wrap(shown, width, hang=2, whole=True):
        print(line, file=sys.stderr)


def terminal_width(stream: TextIO) -> int | None:
    """Return the width of the terminal in cells, from COLUMNS or else the terminal itself.

    None for what is no terminal.
    """
    if not stream.isatty():
        return None
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said) > 0:
        return max(int(said), _NARROWEST)
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return max(columns or _USUAL_WIDTH, _NARROWEST)


def moves_cursor(stream: TextIO) -> bool:
    """Whether a line on `stream` can be drawn again in place."""
    return stream.isatty() and os.environ.get("TERM", "") not in _DUMB


def _print_styled(line: Line, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    if not any(style for _, style in line):
        print("".join(text for text, _ in line), file=stream)
        return
    from rich.text import Text  # noqa: PLC0415 - for colours only

    console_for(stream).print(Text.assemble(*line), soft_wrap=True)


def console_for(stream: TextIO) -> Console:
    """Make a rich console for one of the standard streams."""
    from rich.console import Console  # noqa: PLC0415

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def _to_json(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        return str(value)
    return dump(mode="json")
