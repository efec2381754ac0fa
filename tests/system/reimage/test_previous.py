"""The system that was kept, as the daemon reports it, on a machine that boots nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.capabilities.reimage import BODY, UNCONFIRMED, keep
from tests.support.daemon.harness import Daemon
from tests.support.waiting import until


def _reimage(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.http.get("/v1/reimage").json()
    return found


def test_it_is_told_until_it_is_forgotten(daemon: Daemon) -> None:
    assert _reimage(daemon)["previous"] is None
    for path in ("rollback", "rollback/plan"):
        answer = daemon.http.post(f"/v1/reimage/{path}")
        assert answer.status_code == 409
        assert "No system was kept" in answer.json()["detail"]
    place = keep(daemon.state_dir)
    kept = _reimage(daemon)["previous"]
    assert (kept["path"], kept["name"]) == (str(place), "previous-node-7")
    assert kept["size_bytes"] == 1 << 20
    assert "previous-node-7" in daemon.cli("reimage", "show").stdout
    done = daemon.cli("reimage", "forget-previous")
    assert "--yes" in done.stderr
    assert place.exists()
    for _ in range(2):
        assert daemon.cli("reimage", "forget-previous", "--yes").returncode == 0
    assert not place.exists()
    assert _reimage(daemon)["previous"] is None


def test_what_going_back_would_do(daemon: Daemon) -> None:
    keep(daemon.state_dir)
    plan = daemon.http.post("/v1/reimage/rollback/plan", json={"confirm": "manual"}).json()
    assert plan["image"]["name"] == "previous-node-7"
    assert "carry over: nothing." in plan["steps"]
    assert plan["steps"][-1].endswith("and wait for `confirm`.")
    assert set(plan["blocked"]) >= set(_reimage(daemon)["blocked"])
    shown = daemon.cli("reimage", "rollback", "--dry-run")
    assert shown.returncode == (0 if plan["ok"] else 3), shown.stderr
    assert "previous-node-7" in shown.stdout
    assert _reimage(daemon)["state"] == "idle"
    assert daemon.http.get("/v1/operations").json()["operations"] == []


def test_what_does_not_go_together_is_refused(shared_daemon: Daemon) -> None:
    for path in ("plan", "stage"):
        wishes = BODY | {"rollback": "automatic"}
        answer = shared_daemon.http.post(f"/v1/reimage/{path}", json=wishes)
        assert answer.status_code in (400, 422), answer.text
        assert "save_previous" in answer.json()["detail"]


def test_an_automatic_rollback_is_tried_once(daemon: Daemon) -> None:
    if not _reimage(daemon)["blocked"]:
        pytest.skip("this machine could be re-imaged")
    assert daemon.stop() == 0
    place = keep(daemon.state_dir)
    wishes = BODY | {"save_previous": True, "rollback": "automatic", "confirm_seconds": 60}
    booted = datetime.now(UTC) - timedelta(seconds=61)
    job = UNCONFIRMED | {"request": wishes, "booted_at": booted.isoformat()}
    file = daemon.state_dir / "reimage" / "job.json"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text(json.dumps(job))
    daemon.restart()

    def reported() -> dict[str, Any] | None:
        found = _reimage(daemon)
        return found if "automatic rollback was not started" in (found["reason"] or "") else None

    found = until(reported, seconds=60, what="the end of the automatic rollback")
    assert found["state"] == "unconfirmed"
    assert found["reason"].startswith("command: /bin/false ended with 1.")
    assert found["rollback_at"] is None
    remembered = json.loads(file.read_text())
    assert remembered["rollback_begun"] is not None
    assert daemon.stop() == 0
    daemon.restart()
    assert _reimage(daemon)["reason"] == found["reason"]
    assert json.loads(file.read_text()) == remembered
    assert place.exists()
    # A person may still take the new system for good.
    assert daemon.cli("reimage", "confirm", "--override").returncode == 0
    assert _reimage(daemon)["state"] == "confirmed"
