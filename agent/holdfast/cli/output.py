"""What a command writes: results on standard output, notes and progress on standard error."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# In a pipe nothing is folded: the reader is a program or a pager, not a screen of some width.
_PIPE_WIDTH = 20_000
_GAP = 2  # between columns
_FOLD_WIDTH = 16  # narrower than that, long text is not worth folding


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
        """Print a line of a result."""
        self._write(sys.stdout, text, style)

    def at_once(self, text: str) -> None:
        """Print a line of something that goes on, for whoever reads it in a pipe as well."""
        print(text, flush=True)

    def note(self, text: str, style: str = "") -> None:
        """Print a line that is not part of the result."""
        self._write(sys.stderr, text, style)

    def hint(self, text: str) -> None:
        """Say what could be done next: to a person only."""
        if sys.stderr.isatty() and not self.quiet and not self.as_json:
            self._write(sys.stderr, text, "dim")

    def heading(self, text: str) -> None:
        """Print the title of a part of a result, set off by an empty line."""
        self.line()
        self.line(text, "bold")

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        indent: int = 0,
        styles: Mapping[str, str] | None = None,
    ) -> None:
        """Print aligned columns. `styles` has the style of cells that are one of its words.

        A column name that begins with `>` is set to the right; one that begins with `~` is
        long text, which folds on a narrow terminal.
        """
        from rich.padding import Padding  # noqa: PLC0415 - rich is not needed for --json
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        rows = list(rows)
        table: Table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for column in columns:
            name = column.lstrip(">~")
            table.add_column(
                name.upper(),
                justify="right" if column.startswith(">") else "left",
                no_wrap=not column.startswith("~"),
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in row))
        self._render(
            Padding(table, (0, 0, 0, indent), expand=False), indent + _least_width(columns, rows)
        )

    def fields(self, pairs: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
        """Print names and values below each other, the values aligned."""
        chosen = [(name, value) for name, value in pairs if value]
        width = max((len(name) for name, _ in chosen), default=0)
        for name, value in chosen:
            self.line(f"{'':{indent}}{name:<{width}}  {value}")

    def _write(self, stream: TextIO, text: str, style: str) -> None:
        if style and stream.isatty():
            from rich.text import Text  # noqa: PLC0415

            console_for(stream).print(Text(text, style=style), soft_wrap=True)
        else:
            print(text, file=stream, flush=stream is sys.stderr)

    def _render(self, renderable: Any, least_width: int) -> None:
        if sys.stdout.isatty():
            # Where it is too narrow the terminal breaks the lines: better than to cut off figures.
            console = console_for(sys.stdout)
            console.width = max(console.width, least_width)
            console.print(renderable)
            return
        from rich.console import Console  # noqa: PLC0415

        buffer = io.StringIO()
        Console(file=buffer, width=_PIPE_WIDTH, color_system=None).print(renderable)
        for line in buffer.getvalue().splitlines():
            print(line.rstrip())


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Answer how wide a table has to be for nothing in it to be cut off."""
    from rich.cells import cell_len  # noqa: PLC0415

    width = 0
    for number, column in enumerate(columns):
        name = cell_len(column.lstrip(">~"))
        cells = (cell_len(row[number]) for row in rows)
        width += _GAP + (max(name, _FOLD_WIDTH) if column.startswith("~") else max(name, *cells, 0))
    return width


def console_for(stream: TextIO) -> Console:
    """Make a rich console for one of the standard streams."""
    from rich.console import Console  # noqa: PLC0415

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def _to_json(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        return str(value)
    return dump(mode="json")
