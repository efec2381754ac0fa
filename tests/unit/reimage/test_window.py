"""Maintenance windows, at changes of daylight saving most of all."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.reimage.interlock.window import Windows, parse_window

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour
    "America/Sao_Paulo",  # once changed at midnight
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Pacific/Apia",  # once skipped a day
)
HOUR = timedelta(hours=1)


def moment(text: str, zone: str = "UTC", fold: int = 0) -> datetime:
    wall = datetime.fromisoformat(text)
    return wall.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def hours(text: str, day: str) -> float:
    found = parse_window(text).span(date.fromisoformat(day))
    return 0.0 if found is None else (found[1] - found[0]) / HOUR


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("02:00-06:00 UTC", "2026-03-04T02:00", "2026-03-04T06:00"),
        ("Sat,Sun 02:00-06:00 UTC", "2026-03-07T05:59", "2026-03-09T03:00"),
        ("Fri..Mon 02:00-06:00 UTC", "2026-03-09T03:00", "2026-03-10T03:00"),
        ("Fri 22:00-04:00 UTC", "2026-03-07T03:59", "2026-03-07T04:00"),
        ("*-*-01..07 00:00-24:00 UTC", "2026-03-07T23:59", "2026-03-08T00:00"),
        ("Sat *-*-01..07 02:00-03:00 UTC", "2026-03-07T02:30", "2026-03-14T02:30"),
        ("2026-12-24,31 10:00-12:00 UTC", "2026-12-31T11:00", "2027-12-31T11:00"),
        ("monday 02:00-03:00 UTC", "2026-03-09T02:30", "2026-03-10T02:30"),
        ("02:00-06:00 Asia/Kathmandu", "2026-03-03T20:15", "2026-03-03T20:14"),
    ],
)
def test_a_window_is_open_when_it_says(text: str, inside: str, outside: str) -> None:
    windows = Windows([parse_window(text)])
    assert windows.closes(moment(inside)) is not None
    assert windows.closes(moment(outside)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UTC",
        "02:00-06:00",
        "02:00-06:00 Europe/Atlantis",
        "02:00-06:00 ../../etc/passwd",
        "2-6 UTC",
        "25:00-26:00 UTC",
        "02:00-02:00 UTC",
        "Someday 02:00-06:00 UTC",
        "Mon. 02:00-06:00 x UTC",
        "*-13-* 02:00-06:00 UTC",
        "*-* 02:00-06:00 UTC",
        "*-*-07..01 02:00-06:00 UTC",
        "Sat *-*-* 02:00-06:00 UTC UTC",
    ],
)
def test_what_is_no_window_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"^should "):
        parse_window(text)


def test_at_the_change_to_summer_time() -> None:
    """On 29 March 2026 Berlin goes from 02:00 to 03:00."""
    day = "2026-03-29"
    assert hours("02:00-03:00 Europe/Berlin", day) == 0
    assert hours("02:15-02:45 Europe/Berlin", day) == 0
    assert hours("01:00-04:00 Europe/Berlin", day) == 2
    assert hours("02:30-04:00 Europe/Berlin", day) == 1
    assert hours("01:00-02:30 Europe/Berlin", day) == 1
    assert hours("00:00-24:00 Europe/Berlin", day) == 23


def test_at_the_change_to_winter_time() -> None:
    """On 25 October 2026 Berlin has the hour from 02:00 to 03:00 twice."""
    day = "2026-10-25"
    assert hours("02:00-03:00 Europe/Berlin", day) == 2
    assert hours("00:00-24:00 Europe/Berlin", day) == 25
    # It closed the first time, and does not open again.
    early = Windows([parse_window("01:00-02:30 Europe/Berlin")])
    assert early.closes(moment("2026-10-25T02:29", "Europe/Berlin")) is not None
    for fold, minute in ((0, 30), (0, 59), (1, 0), (1, 15), (1, 29)):
        at = moment(f"2026-10-25T02:{minute:02}", "Europe/Berlin", fold)
        assert early.closes(at) is None, (fold, minute)
    # It opened the first time, and does not close in between.
    late = Windows([parse_window("02:30-04:00 Europe/Berlin")])
    assert late.closes(moment("2026-10-25T02:29", "Europe/Berlin")) is None
    for fold, minute in ((0, 30), (0, 59), (1, 0), (1, 29), (1, 59)):
        at = moment(f"2026-10-25T02:{minute:02}", "Europe/Berlin", fold)
        assert late.closes(at) == moment("2026-10-25T04:00", "Europe/Berlin"), (fold, minute)


def test_windows_that_meet_are_one() -> None:
    windows = Windows([parse_window("22:00-24:00 UTC"), parse_window("00:00-02:00 UTC")])
    assert windows.closes(moment("2026-03-04T23:00")) == moment("2026-03-05T02:00")
    assert windows.opens(moment("2026-03-04T12:00")) == moment("2026-03-04T22:00")
    assert Windows([]).closes(moment("2026-03-04T23:00")) is not None
    never = Windows([parse_window("*-02-30 02:00-03:00 UTC")])
    assert never.opens(moment("2026-03-04T12:00")) is None
    leap = Windows([parse_window("*-02-29 02:00-03:00 UTC")])
    assert leap.opens(moment("2026-03-04T12:00")) == moment("2028-02-29T02:00")


@given(
    zone=st.sampled_from(ZONES),
    begins=st.integers(0, 24 * 60 - 1),
    length=st.integers(1, 24 * 60 - 1),
    at=st.datetimes(datetime(2005, 1, 1), datetime(2037, 1, 1)),
)
def test_a_window_opens_once_a_day_and_stays_open_until_it_closes(
    zone: str, begins: int, length: int, at: datetime
) -> None:
    """Judged minute by minute around the moment, by the wall clock alone."""
    ends = (begins + length) % (24 * 60)
    text = f"{begins // 60:02}:{begins % 60:02}-{ends // 60:02}:{ends % 60:02} {zone}"
    window = parse_window(text)
    now = at.replace(tzinfo=UTC)
    spans = list(window.spans(now, 4))
    for (opens, closes), (following, _) in pairwise(spans):
        assert opens < closes <= following
        assert closes - opens <= timedelta(hours=26)
    for opens, closes in spans:
        wall = opens.astimezone(window.zone)
        shown = wall.hour * 60 + wall.minute
        before = (opens - timedelta(minutes=1)).astimezone(window.zone)
        # When it opens the clock shows its beginning, or has just been put forward over it.
        skipped = wall.utcoffset() != before.utcoffset()
        assert shown == begins or skipped, (text, opens)
        # The time of its beginning was not shown earlier on that day.
        earlier = (opens - timedelta(hours=2)).astimezone(window.zone)
        if wall.fold:
            assert skipped, (text, opens, earlier)
        windows = Windows([window])
        if closes - opens > timedelta(minutes=2):
            middle = opens + (closes - opens) / 2
            assert windows.closes(middle) is not None
        assert windows.closes(opens) is not None
