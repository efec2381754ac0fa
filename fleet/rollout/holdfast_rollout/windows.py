"""When nodes may be disturbed: `[DAYS] FROM-TO ZONE`, as the nodes' own windows are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TEXT = re.compile(r"(?:(?P<days>\S+)\s+)?(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d)\s+(?P<zone>\S+)")


@dataclass(frozen=True)
class Window:
    """A time of day on some days of the week; an end before the beginning is on the next day."""

    days: frozenset[int]
    begin: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read a window. Raises `ValueError` with a sentence."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a window; write `Sat,Sun 02:00-06:00 Europe/Berlin`")
        try:
            begin, end = (time.fromisoformat(match[name]) for name in ("begin", "end"))
            zone = ZoneInfo(match["zone"])
        except (ValueError, OSError, LookupError) as error:
            raise ValueError(f"{text!r} is not a window: {error}") from error
        return cls(_days(match["days"] or "Mon..Sun", text), begin, end, zone)

    def is_open(self, moment: float) -> bool:
        """Whether it is open at a POSIX time."""
        today = datetime.fromtimestamp(moment, UTC).astimezone(self.zone).date()
        return any(
            opening <= moment < closing
            for opening, closing in (
                self._on(day) for day in (today - timedelta(days=1), today) if self._counts(day)
            )
        )

    def opens(self, moment: float) -> float:
        """Return when it opens next, as a POSIX time after `moment`."""
        today = datetime.fromtimestamp(moment, UTC).astimezone(self.zone).date()
        days = (today + timedelta(days=offset) for offset in range(9))
        return next(at for day in days if self._counts(day) and (at := self._on(day)[0]) > moment)

    def _counts(self, day: date) -> bool:
        return day.weekday() in self.days

    def _on(self, day: date) -> tuple[float, float]:
        """Return when the window of a day opens and closes, as POSIX times.

        By instants rather than by the wall clock: a time that comes twice counts when it comes
        first, so that no window opens twice.
        """
        following = day if self.begin < self.end else day + timedelta(days=1)
        return self._instant(day, self.begin), self._instant(following, self.end)

    def _instant(self, day: date, clock: time) -> float:
        return datetime.combine(day, clock, self.zone).timestamp()


def _days(text: str, window: str) -> frozenset[int]:
    chosen: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("..")
        try:
            begin, end = _DAYS.index(first), _DAYS.index(last or first)
        except ValueError:
            raise ValueError(
                f"{window!r} is not a window: {part!r} is no day of the week"
            ) from None
        span = (end - begin) % 7
        chosen.update((begin + offset) % 7 for offset in range(span + 1))
    return frozenset(chosen)
