"""The state directory given to the daemon's user, also by a system written over another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from holdfast.config.load import load_settings
from holdfast.config.statedir import StateDirError, give_state_dir

OLD, NEW = 4711, 4712
NONCE = "0123456789abcdef" * 2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def state_of_the_old_system(root: Path, nonce: str) -> Path:
    state = root / ".holdfast"
    (state / "reimage").mkdir(parents=True)
    (state / "reimage/job.json").write_text(json.dumps({"nonce": nonce}))
    for path in (state, state / "reimage", state / "reimage/job.json"):
        os.chown(path, OLD, OLD)
    return state


def give(root: Path, marker: Path) -> str:
    return give_state_dir(load_settings(None, {"roots": [str(root)]}), NEW, NEW, marker)


def test_a_system_written_over_the_old_one_takes_its_state(disk_dir: Path) -> None:
    state = state_of_the_old_system(disk_dir / "data", NONCE)
    marker = disk_dir / "reimaged.json"
    marker.write_text(json.dumps({"nonce": NONCE}))
    assert "now" in give(disk_dir / "data", marker)
    owners = {path.stat().st_uid for path in (state, state / "reimage", state / "reimage/job.json")}
    assert owners == {NEW}


@pytest.mark.parametrize("marked", [None, "f" * 32, "", 7])
def test_anybody_elses_stays_theirs(disk_dir: Path, marked: object) -> None:
    state = state_of_the_old_system(disk_dir / "data", NONCE)
    marker = disk_dir / "reimaged.json"
    if marked is not None:
        marker.write_text(json.dumps({"nonce": marked}))
    with pytest.raises(StateDirError, match="neither root nor"):
        give(disk_dir / "data", marker)
    assert state.stat().st_uid == OLD
