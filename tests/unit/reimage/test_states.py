"""A re-imaging goes through its states only as the table in states.py allows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.reimage.attempt import Attempt
from holdfast.reimage.models import StageRequest
from holdfast.reimage.states import (
    TRANSITIONS,
    ReimageState,
    TransitionError,
    check_transition,
)
from tests.support.machine.ground import CHECKOUT

_S = ReimageState
_ALL = [(source, target) for source in _S for target in _S]
_REQUEST = StageRequest(descriptor="https://images.example/web.json", descriptor_sha256="0" * 64)


@pytest.mark.parametrize(("source", "target"), _ALL, ids=lambda state: state.value)
def test_only_what_the_table_has_is_allowed(
    source: ReimageState, target: ReimageState, tmp_path: Path
) -> None:
    attempt = Attempt(tmp_path)
    attempt.begin("operation", _REQUEST)
    attempt.update(state=source)
    before = attempt.require()
    if (source, target) in TRANSITIONS:
        attempt.move(target, "A reason.", reason="another")
        assert attempt.state is target
        assert attempt.require().history[-1].previous is source
        assert Attempt(tmp_path).store.load() == attempt.require()
    else:
        with pytest.raises(TransitionError, match=f"`{source}` to `{target}`"):
            attempt.move(target, "A reason.", reason="another")
        assert attempt.require() == before
        assert Attempt(tmp_path).store.load() == before


def test_what_was_confirmed_stays_confirmed() -> None:
    assert not [target for source, target in TRANSITIONS if source is _S.CONFIRMED]


def test_nothing_goes_to_or_from_what_only_the_imager_reports() -> None:
    for state in _S:
        with pytest.raises(TransitionError):
            check_transition(state, _S.IMAGING)
        with pytest.raises(TransitionError):
            check_transition(_S.IMAGING, state)


def test_every_other_state_can_be_reached() -> None:
    reached = {_S.IDLE}
    while more := {target for source, target in TRANSITIONS if source in reached} - reached:
        reached |= more
    assert reached == set(_S) - {_S.IMAGING}


def test_each_state_has_its_line_in_the_document() -> None:
    page = (CHECKOUT / "docs" / "reimage.md").read_text()
    for state in _S:
        assert re.search(rf"^\| `{state}` \|", page, re.MULTILINE), state
