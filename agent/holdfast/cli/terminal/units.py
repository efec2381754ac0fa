"""Numbers and names as a person reads them; exact values are for `--json`."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime

from holdfast.text.sizes import parse_size as parse_size  # noqa: PLC0414 - part of this module

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SPAN = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>s|min|m|h|d|w)", re.ASCII)
_SPAN_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SHARE = re.compile(r"(?P<number>\d+(\.\d+)?) ?%?", re.ASCII)


def size(count: int | float) -> str:
    """Write bytes in binary units, with three significant digits: `1.25 GiB`, `640 KiB`, `12 B`."""
    value = float(count)
    unit = 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    if unit == 0:
        return f"{int(value)} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def parse_span(text: str) -> float:
    """Read a span of time in seconds: `90s`, `15m` or `15min`, `12h`, `90d`, `4w`.

    Raises `ValueError` with a sentence.
    """
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a span of time; write for example 90s, 15m or 2h")
    return float(match["number"]) * _SPAN_SECONDS[match["unit"]]


def parse_share(text: str) -> float:
    """Read `90%` as 0.9. Raises `ValueError` with a sentence."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match["number"]) / 100 if match is not None else 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{text!r} is not a share above 0% and up to 100%; write for example 90%")
    return share


def rate(bytes_per_second: float) -> str:
    """Write bytes per second in binary units."""
    return f"{size(bytes_per_second)}/s"


def count(number: int) -> str:
    """Write a number with its thousands set apart: `3,102`."""
    return f"{number:,}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun: `1 file`, `3,102 files`."""
    return f"{count(number)} {noun if number == 1 else plural or noun + 's'}"


def percent(part: float, whole: float) -> str:
    """Write a share in percent, never rounded up to 100: what is not complete does not look so."""
    if whole <= 0:
        return "-"
    share = 100 * part / whole
    if part < whole:
        share = min(share, 99.9)
    return f"{int(share * 10) / 10:.1f} %" if share < 100 else "100 %"


def duration(seconds: float) -> str:
    """Write a span of time: `35 ms`, `0.8 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def age(moment: datetime, *, now: datetime | None = None) -> str:
    """Return how long ago a moment was: `just now`, `5 min ago`, `3 d ago`."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 5:
        return "just now"
    for span, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= span:
            return f"{int(seconds // span)} {name} ago"
    return f"{int(seconds)} s ago"


def moment(when: datetime) -> str:
    """Write a moment in local time, to the second, with its offset."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def bar(part: float, whole: float, width: int = 10, *, unicode: bool = True) -> str:
    """Draw a share as a bar of `width` cells; anything above nothing shows at least a sliver."""
    share = min(max(part / whole, 0.0), 1.0) if whole > 0 else 0.0
    if not unicode:
        full = int(share * width)
        return "#" * full + "." * (width - full)
    eighths = int(share * width * 8)
    if part > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    cells = "█" * full + (_EIGHTHS[rest] if rest else "")
    return cells + "·" * (width - len(cells))


def printable(text: str) -> str:
    r"""Write a file name on one line that cannot harm a terminal.

    Control characters and bytes that are not UTF-8 (surrogate escapes) become `\n` or `\xff`.
    """
    if text.isprintable() and "\\" not in text:
        return text
    out: list[str] = []
    for character in text:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif character == "\\":
            out.append("\\\\")
        elif character == " " or (
            character.isprintable() and unicodedata.category(character) != "Cs"
        ):
            out.append(character)
        else:
            out.append(repr(character)[1:-1])
    return "".join(out)


def plain_words(code: str) -> str:
    """Write a code such as `not_regular` as words: `not regular`."""
    return code.replace("_", " ").replace("-", " ")
