"""Rates, time left and totals, from counters and a clock that the test moves."""

from __future__ import annotations

import pytest

from holdfast.operations.progress import Meter
from tests.support.daemon.operations import DirectedProgress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def counters() -> DirectedProgress:
    return DirectedProgress()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(counters: DirectedProgress, clock: Clock) -> Meter:
    return Meter(counters, clock)


def test_rate_is_that_of_the_last_five_seconds(
    meter: Meter, counters: DirectedProgress, clock: Clock
) -> None:
    counters.bytes_expected = 10_000
    for speed in [100] * 10 + [20] * 4:
        clock.now += 1
        counters.bytes_done += speed
        meter.sample()
    # One second at 100 and four at 20.
    assert meter.report().bytes_per_second == (100 + 4 * 20) // 5
    clock.now += 1
    counters.bytes_done += 20
    report = meter.sample()
    assert report.bytes_per_second == 20
    assert report.eta_seconds == pytest.approx((10_000 - 1100) / 20, abs=0.1)


def test_stalled_work_has_no_rate_and_no_time_left(
    meter: Meter, counters: DirectedProgress, clock: Clock
) -> None:
    counters.bytes_expected = 1000
    counters.bytes_done = 500
    for _ in range(7):
        clock.now += 1
        meter.sample()
    report = meter.report()
    assert report.bytes_per_second == 0
    assert report.eta_seconds is None


def test_done_never_exceeds_expected(
    meter: Meter, counters: DirectedProgress, clock: Clock
) -> None:
    counters.bytes_expected, counters.files_expected = 100, 1
    counters.bytes_done, counters.files_done = 150, 2
    clock.now += 1
    for report in (meter.sample(), meter.report(), meter.final()):
        assert report.bytes_done == 150
        assert report.bytes_expected == 150
        assert (report.files_done, report.files_expected) == (2, 2)
    assert meter.report().eta_seconds == 0


def test_a_new_phase_begins_a_new_rate(
    meter: Meter, counters: DirectedProgress, clock: Clock
) -> None:
    counters.phase = "reading"
    for _ in range(3):
        clock.now += 1
        counters.bytes_done += 1000
        meter.sample()
    counters.phase = "verifying"
    clock.now += 1
    counters.bytes_done += 10
    assert meter.sample().bytes_per_second == 10


def test_a_phase_that_counts_from_zero_has_a_rate_of_its_own(
    meter: Meter, counters: DirectedProgress, clock: Clock
) -> None:
    counters.bytes_done = 5000
    clock.now += 1
    meter.sample()
    counters.phase, counters.bytes_done = "verifying", 40
    clock.now += 1
    assert meter.sample().bytes_per_second == 0
    counters.bytes_done = 80
    clock.now += 1
    assert 0 < meter.sample().bytes_per_second <= 40


def test_the_final_report_is_what_was_counted_at_the_mean_rate(
    meter: Meter, counters: DirectedProgress, clock: Clock
) -> None:
    counters.phase = "done"
    for speed in (10, 90):
        clock.now += 1
        counters.bytes_done += speed
        meter.sample()
    counters.bytes_expected = 100
    report = meter.final()
    assert report.bytes_done == report.bytes_expected == 100
    assert report.bytes_per_second == 50
    assert report.eta_seconds is None
    assert report.phase == "done"


def test_a_report_at_the_very_start_is_all_zero(meter: Meter) -> None:
    assert meter.report().bytes_per_second == 0
    assert meter.final().bytes_per_second == 0


def test_the_last_change_is_noticed(meter: Meter, counters: DirectedProgress, clock: Clock) -> None:
    before = meter.last_change
    meter.sample()
    assert meter.last_change == before
    counters.files_done = 1
    meter.sample()
    assert meter.last_change > before


def test_time_left_is_told_once_it_means_something(
    meter: Meter, counters: DirectedProgress, clock: Clock
) -> None:
    counters.bytes_expected = 300_000_000
    # Small files come first, and are slow.
    for _ in range(5):
        clock.now += 0.5
        counters.bytes_done += 10_000
        assert meter.sample().eta_seconds is None
    clock.now += 0.5
    counters.bytes_done += 99_950_000
    assert meter.sample().eta_seconds == pytest.approx(6, abs=0.1)


def test_each_phase_begins_without_a_time_left(
    meter: Meter, counters: DirectedProgress, clock: Clock
) -> None:
    counters.phase, counters.bytes_expected = "reading", 1_000_000
    for _ in range(5):
        clock.now += 1
        counters.bytes_done += 1000
        meter.sample()
    assert meter.report().eta_seconds is not None
    counters.phase = "verifying"
    clock.now += 0.5
    counters.bytes_done += 10
    assert meter.sample().eta_seconds is None


def test_a_rate_of_what_is_read_leaves_out_what_was_there_already(
    counters: DirectedProgress, clock: Clock
) -> None:
    meter = Meter(counters, clock, rate="read")
    counters.bytes_expected = 10_000
    for _ in range(4):
        clock.now += 1
        counters.bytes_done += 1000
        counters.read_bytes += 10
        report = meter.sample()
    assert report.bytes_per_second == 10
    assert report.eta_seconds == pytest.approx(6, abs=0.1)
    assert meter.final().bytes_per_second == 10


def test_work_that_reads_nothing_has_no_rate(counters: DirectedProgress, clock: Clock) -> None:
    meter = Meter(counters, clock, rate="none")
    counters.bytes_expected = 10_000
    for _ in range(4):
        clock.now += 1
        counters.bytes_done += 1000
        assert meter.sample().bytes_per_second == 0
    assert meter.report().eta_seconds == pytest.approx(6, abs=0.1)
    assert meter.final().bytes_per_second == 0
