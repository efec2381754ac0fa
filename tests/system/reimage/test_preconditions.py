"""Two callers of one node: what one stages the other does not arm, and no call is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.capabilities.reimage import IMAGE, SHA256, keep
from tests.support.daemon.attempts import MINE, OLD_BOOT, Node
from tests.support.daemon.harness import Daemon
from tests.support.daemon.recorded_helper import RecordedHelper, recorded_helper

THEIRS = "01M83VKATAZXB97BQKR2MA3A5C"
STEPS = ("arm", "disarm", "reboot", "confirm", "rollback")


@pytest.fixture
def helper(disk_dir: Path) -> Iterator[RecordedHelper]:
    with recorded_helper(disk_dir / "helper") as helper:
        yield helper


@pytest.fixture
def node(helper: RecordedHelper, disk_dir: Path, start_daemon: Callable[..., Daemon]) -> Node:
    return Node(disk_dir, start_daemon, helper=str(disk_dir / "helper"))


def test_a_step_of_another_attempt_is_refused_with_what_is_there(
    node: Node, helper: RecordedHelper
) -> None:
    keep(node.state_dir)
    node.stage(THEIRS)
    before = node.job
    for step in STEPS:
        status, problem = node.post(step, operation=MINE)
        assert (status, problem["type"]) == (409, "/problems/conflict"), step
        there = (problem["operation"], problem["state"], problem["image"])
        assert there == (THEIRS, "staged", SHA256), step
        assert MINE in problem["detail"], step
        assert THEIRS in problem["detail"], step
    assert node.job == before
    assert not helper.asked


def test_without_any_attempt_none_is_the_one_that_is_meant(shared_daemon: Daemon) -> None:
    for step in STEPS:
        answer = shared_daemon.http.post(f"/v1/reimage/{step}", json={"operation": MINE})
        assert answer.status_code == 409, step
        problem = answer.json()
        assert (problem["operation"], problem["state"]) == (None, "idle"), step


def test_the_right_attempt_is_armed_and_rebooted(node: Node, helper: RecordedHelper) -> None:
    node.stage()
    status, armed = node.post("arm", operation=MINE)
    assert (status, armed["state"]) == (200, "armed"), armed
    status, rebooting = node.post("reboot", operation=MINE)
    assert (status, rebooting["state"]) == (200, "rebooting"), rebooting
    assert (helper.calls("arm"), helper.calls("reboot")) == (1, 1)


def test_the_command_line_arms_what_it_has_shown(node: Node, helper: RecordedHelper) -> None:
    node.stage(THEIRS)
    done = node.daemon.cli("reimage", "arm", "--operation", MINE, "--yes")
    assert done.returncode != 0
    assert THEIRS in done.stderr
    assert not helper.calls("arm")
    for step in ("disarm", "reboot", "confirm", "rollback"):
        flags = ["--yes"] if step == "reboot" else []
        done = node.daemon.cli("reimage", step, "--operation", MINE, *flags)
        assert done.returncode != 0, step
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_what_was_done_with_a_key_is_not_done_again(node: Node, helper: RecordedHelper) -> None:
    node.stage()
    assert node.post("arm", "a")[1]["state"] == "armed"
    assert node.post("disarm", "b")[1]["state"] == "staged"
    # The answer to the first was lost, and it comes again only now.
    assert node.post("arm", "a") == node.post("arm", "a")
    assert node.state == "staged"
    assert (helper.calls("arm"), helper.calls("disarm")) == (1, 1)
    assert node.post("arm", "c")[1]["state"] == "armed"
    assert node.post("disarm", "b")[1]["state"] == "armed"


def test_a_key_is_of_one_request(node: Node) -> None:
    node.stage()
    assert node.post("arm", "a")[0] == 200
    for step, body in (("arm", {"operation": MINE}), ("disarm", {}), ("confirm", {})):
        status, problem = node.post(step, "a", **body)
        assert (status, problem["type"]) == (409, "/problems/idempotency-mismatch"), step
        assert problem["operation"] == MINE
    started = node.daemon.http.post(
        "/v1/pagecache/dumps", json={}, headers={"Idempotency-Key": "a"}
    )
    assert started.status_code == 409
    assert node.daemon.start("/v1/pagecache/dumps", {}, **{"Idempotency-Key": "d"})
    assert node.post("disarm", "d")[0] == 409
    assert node.state == "armed"


def test_a_reboot_is_recognised_after_the_boot_by_its_key(
    node: Node, helper: RecordedHelper
) -> None:
    node.stage()
    node.post("arm", "a")
    assert node.post("reboot", "r")[1]["state"] == "rebooting"
    calls = [call | {"boot_id": OLD_BOOT} for call in node.job["calls"]]
    ends = {
        "in the new system": {"state": "confirmed"},
        # The daemon was restarted while the machine went down, and took it for a failure.
        "armed again": {"state": "armed"},
    }
    for end, members in ends.items():
        node.remember(calls=calls, boot_id=OLD_BOOT, **members)
        status, found = node.post("reboot", "r")
        assert (status, found["state"]) == (200, members["state"]), end
        assert helper.calls("reboot") == 1, end


def test_a_reboot_that_came_to_nothing_is_ordered_again(node: Node, helper: RecordedHelper) -> None:
    node.stage()
    node.post("arm")

    def only_rehearsed() -> None:
        rehearsal = helper.asked[-1]["dry_run"]
        helper.answers["reboot"] = {} if rehearsal else {"refused": "The disk was exchanged."}

    helper.on["reboot"] = only_rehearsed
    assert node.post("reboot", "r")[0] == 409
    assert node.state == "armed"
    helper.on["reboot"] = lambda: helper.answers.update(reboot={})
    assert node.post("reboot", "r")[1]["state"] == "rebooting"
    # The daemon ends before the machine does, and its successor detects it.
    node.remember(state="armed")
    assert node.post("reboot", "r")[1]["state"] == "rebooting"
    assert helper.calls("reboot") == 3


def test_a_late_reboot_does_not_meet_the_next_attempt(node: Node, helper: RecordedHelper) -> None:
    node.stage()
    node.post("arm")
    node.post("reboot", "r")
    node.remember(operation=THEIRS, state="armed")
    status, problem = node.post("reboot", "r")
    assert (status, problem["type"]) == (409, "/problems/conflict")
    assert problem["operation"] == THEIRS
    assert helper.calls("reboot") == 1


def test_a_confirmation_and_a_rollback_are_done_once(node: Node) -> None:
    keep(node.state_dir)
    node.remember(operation=MINE, image=IMAGE)
    status, found = node.post("confirm", "c", override=True)
    assert (status, found["state"]) == (200, "confirmed")
    history = node.job["history"]
    assert node.post("confirm", "c", override=True)[0] == 200
    assert node.job["history"] == history
    assert node.post("confirm", "c")[0] == 409
    before = node.post("rollback", "k", operation=MINE)
    if before[0] == 409:
        pytest.skip("this machine cannot be re-imaged, not even back")
    node.daemon.finish(before[1])
    node.daemon.http.delete("/v1/reimage/previous")
    again = node.post("rollback", "k", operation=MINE)
    assert again[0] == 200
    assert again[1]["id"] == before[1]["id"]


def test_every_post_takes_a_key_of_a_valid_form(shared_daemon: Daemon) -> None:
    document = shared_daemon.http.get("/openapi.json").json()
    posts = {
        path: methods["post"] for path, methods in document["paths"].items() if "post" in methods
    }
    assert len(posts) > 12
    for path, operation in posts.items():
        named = {parameter["name"].lower() for parameter in operation.get("parameters", ())}
        assert "idempotency-key" in named, path
    bodies = {
        "/v1/reimage/plan": {"descriptor": "https://192.0.2.1/x.json"},
        "/v1/tuning/plan": {},
        "/v1/operations/latest/cancel": {},
        **{f"/v1/reimage/{step}": {} for step in STEPS},
    }
    for path, body in bodies.items():
        for key in ("", "a b", "x" * 256):
            answer = shared_daemon.http.post(path, json=body, headers={"Idempotency-Key": key})
            assert answer.status_code == 422, (path, key)
            assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_without_the_volume_a_call_may_be_made_again(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    """Whether it was done is on the volume: neither yes nor no can be returned."""
    daemon = start_daemon(
        roots=[disk_dir / "there"], state_dir=None, fallback_state_dir=str(disk_dir / "fallback")
    )
    assert daemon.stop() == 0
    daemon.rewrite_config(lambda text: text.replace("/there", "/missing"))
    daemon.restart()
    for body, headers in (({"operation": MINE}, {}), ({}, {"Idempotency-Key": "r"})):
        answer = daemon.http.post("/v1/reimage/reboot", json=body, headers=headers)
        assert answer.status_code == 503, answer.text
        assert "Retry-After" in answer.headers
