"""Numbers and names as the command line writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli.terminal import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1.00 KiB"),
        (10 * 1024, "10.0 KiB"),
        (100 * 1024, "100 KiB"),
        (1 << 30, "1.00 GiB"),
        (1023 * (1 << 20), "1.00 GiB"),
        (2**63 - 1, "8.00 EiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert units.size(count) == text


@given(st.integers(0, 2**63 - 1))
def test_a_size_is_short_and_near(count: int) -> None:
    text = units.size(count)
    assert len(text) <= 8
    assert units.parse_size(text) == pytest.approx(count, rel=0.006, abs=0.5)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096),
        ("512MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("512M", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("2GB", 2_000_000_000),
        ("7B", 7),
    ],
)
def test_parse_size(text: str, count: int) -> None:
    assert units.parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1..5G", "12 parsecs", "0x10", "nan", "1e9", "5ib"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write for example"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "-"), (0, 5, "0.0 %"), (1, 3, "33.3 %"), (5, 5, "100 %"), (10**9 - 1, 10**9, "99.9 %")],
)
def test_what_is_not_complete_is_not_100_percent(part: int, whole: int, text: str) -> None:
    assert units.percent(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "40 ms"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (90 * 3600, "3 d 18 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_age() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    for span, text in [
        (timedelta(seconds=1), "just now"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=61), "1 h ago"),
        (timedelta(days=3, hours=2), "3 d ago"),
    ]:
        assert units.age(now - span, now=now) == text


@given(st.floats(0, 1), st.integers(1, 60), st.booleans())
def test_a_bar_has_its_width(share: float, width: int, unicode: bool) -> None:
    text = units.bar(share, 1.0, width, unicode=unicode)
    assert len(text) == width
    if not unicode:
        assert text.isascii()


def test_bars() -> None:
    assert units.bar(1, 1, 4) == "████"
    assert units.bar(0, 1, 4) == "····"
    assert units.bar(1, 1_000_000, 4) == "▏···"
    assert units.bar(999_999, 1_000_000, 4) == "███▉"
    assert units.bar(1, 2, 4, unicode=False) == "##.."
    assert units.bar(0, 0, 4) == "····"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain name.db", "plain name.db"),
        ("grüße-日本", "grüße-日本"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("back\\slash", r"back\\slash"),
        (b"caf\xe9".decode(errors="surrogateescape"), r"caf\xe9"),
        ("bidi\u202etxt", r"bidi\u202etxt"),
        ("\ud800", r"\ud800"),
    ],
)
def test_printable(name: str, text: str) -> None:
    assert units.printable(name) == text


@given(st.text(st.characters()))
def test_what_is_printable_is_one_harmless_line(name: str) -> None:
    assert units.printable(name).isprintable()
