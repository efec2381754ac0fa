"""What a test takes for prompt."""

from __future__ import annotations

import time

import pytest

from tests.support import promptness
from tests.support.promptness import promptly


def test_what_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promptness, "_HOPS", 0)
    with pytest.raises(AssertionError, match="were allowed"), promptly(0.05):
        time.sleep(1)


def test_what_is_done_in_time_passes() -> None:
    with promptly(1):
        time.sleep(0.05)


def test_what_goes_wrong_inside_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="inside"), promptly(1):
        raise ValueError("inside")
