"""What the daemon remembers and reports of a re-imaging, on a machine that boots nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities.reimage import SHA256, UNCONFIRMED
from tests.support.daemon.harness import Daemon


def _remember(daemon: Daemon, text: str) -> Path:
    """Have the daemon find this on its start."""
    assert daemon.stop() == 0
    file = daemon.state_dir / "reimage" / "job.json"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text(text)
    daemon.restart()
    return file


def _reimage(daemon: Daemon) -> dict[str, Any]:
    answer = daemon.http.get("/v1/reimage")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("arm", None),
        ("arm", {"dry_run": True}),
        ("disarm", None),
        ("reboot", None),
        ("reboot", {"dry_run": True}),
        ("confirm", None),
    ],
)
def test_what_needs_another_state_says_which(
    shared_daemon: Daemon, call: str, body: dict[str, bool] | None
) -> None:
    answer = shared_daemon.http.post(f"/v1/reimage/{call}", json=body or {})
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["type"].endswith("conflict")
    assert "the state is `idle`" in problem["detail"]
    assert _reimage(shared_daemon)["state"] == "idle"


def test_confirmed_although_a_check_failed(daemon: Daemon) -> None:
    _remember(daemon, json.dumps(UNCONFIRMED))
    assert _reimage(daemon)["state"] == "unconfirmed"
    assert 'holdfast_reimage_state{state="unconfirmed"} 1' in daemon.http.get("/metrics").text

    shown = daemon.cli("reimage", "show")
    assert "unconfirmed" in shown.stdout
    assert "/bin/false ended with 1" in shown.stdout
    done = daemon.cli("reimage", "confirm", "--override")
    assert done.returncode == 0, done.stderr

    for _ in ("at once", "after a restart"):
        found = _reimage(daemon)
        assert (found["state"], found["reason"]) == ("confirmed", None)
        assert found["checks"] == UNCONFIRMED["checks"], "what failed stays on record"
        assert "these checks failed: command" in found["history"][-1]["why"]
        assert 'holdfast_reimage_state{state="confirmed"} 1' in daemon.http.get("/metrics").text
        assert daemon.stop() == 0
        daemon.restart()
    again = daemon.http.post("/v1/reimage/confirm")
    assert (again.status_code, again.json()["state"]) == (200, "confirmed")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", json.dumps(UNCONFIRMED | {"version": 2}), json.dumps({"version": 1})],
    ids=["empty", "cut", "a list", "another version", "without members"],
)
def test_what_cannot_be_read_is_said_and_kept(daemon: Daemon, text: str) -> None:
    file = _remember(daemon, text)
    found = _reimage(daemon)
    assert found["state"] == "idle"
    assert str(file) in found["blocked"][0]
    answer = daemon.http.post(
        "/v1/reimage/stage", json={"descriptor": "http://192.0.2.1/x", "descriptor_sha256": SHA256}
    )
    assert answer.status_code == 503, answer.text
    assert str(file) in answer.json()["detail"]
    assert file.read_text() == text


def test_a_machine_that_cannot_be_reimaged_is_refused_with_every_reason(daemon: Daemon) -> None:
    blocked = _reimage(daemon)["blocked"]
    if not blocked:
        pytest.skip("this machine could be re-imaged")
    body = {"descriptor": "http://192.0.2.1/x.json", "descriptor_sha256": SHA256}
    answer = daemon.http.post("/v1/reimage/stage", json=body)
    assert answer.status_code == 409
    assert all(reason in answer.json()["detail"] for reason in blocked)
    done = daemon.cli("reimage", "stage", body["descriptor"], "--sha256", SHA256)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (daemon.state_dir / "reimage" / "job.json").exists()
