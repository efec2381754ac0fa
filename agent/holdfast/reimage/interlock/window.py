"""Maintenance windows: calendar expressions with a time zone, as moments that nothing shifts.

`[DAYS] [DATE] FROM-TO ZONE`, for example `Sat,Sun 02:00-06:00 Europe/Berlin`. DAYS and DATE are as
in systemd.time(7): `Mon..Fri`, `*-*-01..07`. An end before the beginning is on the next day.

A window is a pair of moments, computed from the wall clock of its zone on the day it begins. At a
change of daylight saving it does not open twice, and does not close and open again: a time that
comes twice counts when it comes first, and one that is skipped is the moment of the change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIMES = re.compile(r"([0-2]\d):([0-5]\d)-([0-2]\d):([0-5]\d)")
_FIELD = re.compile(r"\d{1,4}(\.\.\d{1,4})?(,\d{1,4}(\.\.\d{1,4})?)*")
_EXAMPLE = "for example `Sat,Sun 02:00-06:00 Europe/Berlin`"
_HORIZON_DAYS = 8 * 366
"""The longest that a window can be away: 29 February over a year 2100."""
_DAY_MINUTES = 24 * 60
_LONGEST = timedelta(days=8)
"""Windows that are open for longer than this are open enough."""

Span = tuple[datetime, datetime]
"""The moments at which a window opens and closes, in UTC."""


@dataclass(frozen=True)
class Window:
    """One expression, as written and as understood."""

    text: str
    weekdays: frozenset[int]
    years: frozenset[int] | None
    """None: all."""
    months: frozenset[int] | None
    days: frozenset[int] | None
    begins: int
    """Minutes of the day's wall clock, as are `ends`, which may be on the next day."""
    ends: int
    zone: ZoneInfo

    def span(self, day: date) -> Span | None:
        """Return when it opens and closes if it begins on this day; None if it does not."""
        if (
            day.weekday() not in self.weekdays
            or (self.years is not None and day.year not in self.years)
            or (self.months is not None and day.month not in self.months)
            or (self.days is not None and day.day not in self.days)
        ):
            return None
        opens, closes = self._moment(day, self.begins), self._moment(day, self.ends)
        # All of it was skipped.
        return (opens, closes) if opens < closes else None

    def _moment(self, day: date, minutes: int) -> datetime:
        """Return the first moment at which the wall clock of a day shows this time, or later."""
        wall = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)
        before = wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        if before.astimezone(self.zone).replace(tzinfo=None) == wall:
            return before
        # Skipped. With `fold` 0 a skipped time is counted on from before the change, with 1 back
        # from behind it; the change is between.
        early = wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC)
        offset = early.astimezone(self.zone).utcoffset()
        while early < before:
            middle = early + (before - early) / 2
            middle = middle.replace(microsecond=0)
            if middle == early:
                break
            if middle.astimezone(self.zone).utcoffset() == offset:
                early = middle
            else:
                before = middle
        return before

    def spans(self, now: datetime, days: int) -> Iterator[Span]:
        """Yield what is open now or opens within that many days, in order."""
        today = now.astimezone(self.zone).date()
        for number in range(-2, days):
            try:
                found = self.span(today + timedelta(days=number))
            except OverflowError:
                return
            if found is not None and found[1] > now:
                yield found


@dataclass(frozen=True)
class Windows:
    """Several expressions, of which one has to be open. None at all are always open."""

    windows: Sequence[Window]

    def closes(self, now: datetime) -> datetime | None:
        """Return when the windows that are open now have closed; None if none is open.

        Windows that meet or overlap are one.
        """
        if not self.windows:
            return datetime.max.replace(tzinfo=UTC)
        end: datetime | None = None
        while True:
            at = end or now
            spans = (span for window in self.windows for span in window.spans(at, 2))
            later = [closes for opens, closes in spans if opens <= at]
            if not later or (end is not None and max(later) <= end):
                return end
            end = max(later)
            if end - now > _LONGEST:
                return end

    def opens(self, now: datetime) -> datetime | None:
        """Return when the next window opens after now; None if none does within years."""
        firsts = (
            next((opens for opens, _ in window.spans(now, _HORIZON_DAYS) if opens > now), None)
            for window in self.windows
        )
        return min((first for first in firsts if first is not None), default=None)


def parse_window(text: str) -> Window:
    """Understand an expression. Raises `ValueError` with a clause on what is wrong."""
    words = text.split()
    if len(words) < 2:
        raise ValueError(f"should be [DAYS] [DATE] FROM-TO ZONE, {_EXAMPLE}, not {text!r}")
    *calendar, times, name = words
    matched = _TIMES.fullmatch(times)
    if matched is None:
        raise ValueError(f"should have its times as 02:00-06:00, not {times!r}")
    begin_hour, begin_minute, end_hour, end_minute = map(int, matched.groups())
    begins, ends = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if begins >= _DAY_MINUTES or ends > _DAY_MINUTES:
        raise ValueError(f"should have times from 00:00 to 24:00, not {times!r}")
    if begins == ends:
        raise ValueError(f"should end at another time than it begins, not {times!r}")
    weekdays = frozenset(range(7))
    years = months = days = None
    if calendar and not calendar[0][0].isdigit() and not calendar[0].startswith("*"):
        weekdays = _weekdays(calendar.pop(0))
    if calendar:
        parts = calendar.pop(0).split("-")
        if len(parts) != 3:
            raise ValueError(f"should have its date as *-*-01..07, not {'-'.join(parts)!r}")
        years, months, days = (
            _numbers(parts[0], 1970, 9999),
            _numbers(parts[1], 1, 12),
            _numbers(parts[2], 1, 31),
        )
    if calendar:
        raise ValueError(f"should be [DAYS] [DATE] FROM-TO ZONE, {_EXAMPLE}, not {text!r}")
    return Window(
        text=" ".join(words),
        weekdays=weekdays,
        years=years,
        months=months,
        days=days,
        begins=begins,
        ends=ends if ends > begins else ends + _DAY_MINUTES,
        zone=_zone(name),
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"should end with a time zone that this machine knows (tzdata), such as Europe/Berlin "
            f"or UTC, not {name!r}"
        ) from None


def _weekdays(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        first, dots, last = part.partition("..")
        names = [first, last] if dots else [first]
        numbers = [_DAYS.index(name[:3]) for name in names if name[:3] in _DAYS]
        if len(numbers) != len(names):
            raise ValueError(f"should have its days as Mon..Fri or Sat,Sun, not {text!r}")
        length = (numbers[-1] - numbers[0]) % 7
        found |= {(numbers[0] + step) % 7 for step in range(length + 1)}
    return frozenset(found)


def _numbers(text: str, least: int, most: int) -> frozenset[int] | None:
    if text == "*":
        return None
    if not _FIELD.fullmatch(text):
        raise ValueError(f"should have numbers, ranges (01..07) or * in its date, not {text!r}")
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        low, high = int(first), int(last) if dots else int(first)
        if not least <= low <= high <= most:
            raise ValueError(
                f"should have numbers from {least} to {most} in its date, not {part!r}"
            )
        found |= set(range(low, high + 1))
    return frozenset(found)
