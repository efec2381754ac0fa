"""Six machines become another image by `holdfast-rollout`; one fails, and one is reset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.rollout import command, start
from tests.support.waiting import until
from tests.vm.conftest import TEST_SECONDS
from tests.vm.fleet.machines import FAILING, Fleet, Member, image_of
from tests.vm.pace import patience
from tests.vm.reimage.telling import tell

RESET = "c-2"
"""The node that is reset while its disk is written."""
_SECONDS = 1800.0


def _inventory(fleet: Fleet, directory: Path) -> Path:
    document: dict[str, Any] = {
        "roll": "six",
        "image": image_of(fleet),
        "nodes": [
            {"name": name, "zone": member.zone, "url": f"https://127.0.0.1:{member.node.ports.api}"}
            for name, member in fleet.members.items()
        ],
        "access": {
            "token_file": str(fleet.systems.token_file),
            "ca_file": str(fleet.systems.authority),
        },
        "rules": {"per_zone": 2},
        "times": {"poll": 5, "answer": patience(120), "boots": patience(900)},
    }
    file = directory / "roll.yaml"
    file.write_text(json.dumps(document))
    return file


def _ended(file: Path, code: int, log: Path) -> dict[str, Any]:
    """Run the roll until it ends; return what its status is then."""
    done = command("run", file, "--plain", seconds=patience(_SECONDS))
    with log.open("a") as printed:
        printed.write(done.stdout + done.stderr)
    assert done.returncode == code, done.stdout + done.stderr
    return _status(file)


def _status(file: Path) -> dict[str, Any]:
    shown = command("status", file, "--json", seconds=patience(30))
    assert shown.returncode == 0, shown.stderr
    nodes: dict[str, Any] = json.loads(shown.stdout)["nodes"]
    return nodes


def _reset_while_writing(member: Member) -> None:
    def writing() -> bool:
        found = member.node.control.get("/v1/reimage", seconds=5.0)
        return bool(found["state"] == "imaging" and found["progress"]["phase"] == "writing")

    member.node.control.patiently(writing, _SECONDS, f"{member.name} to be written")
    member.node.qmp.ask("system_reset")
    tell(f"{member.name} was reset while its disk was written")


@pytest.mark.timeout(2 * TEST_SECONDS)
def test_the_roll_stops_at_the_node_that_fails_and_ends_after_the_fix(
    fleet: Fleet, tmp_path: Path
) -> None:
    file, log = _inventory(fleet, tmp_path), tmp_path / "log"

    nodes = _ended(file, 3, log)
    tell(f"the roll has stopped: {nodes[FAILING]}")
    assert nodes[FAILING]["state"] == "failed", nodes
    assert "/usr/bin/test" in nodes[FAILING]["reason"], nodes
    assert [nodes[name]["state"] for name in ("a-1", "a-2", "b-1")] == ["done"] * 3, nodes
    for name in ("c-1", "c-2"):
        assert fleet.members[name].is_undisturbed(), nodes
    assert fleet.states()[FAILING] == "unconfirmed"

    # Nothing but an operator continues it.
    assert _ended(file, 3, log)["c-1"]["state"] != "done"

    fleet.members[FAILING].fix()
    assert command("resume", file, seconds=patience(30)).returncode == 0
    rolling = start("run", file, "--plain", log=log)
    try:
        _reset_while_writing(fleet.members[RESET])
        until(
            lambda: rolling.poll() is not None,
            seconds=patience(_SECONDS),
            what="the end of the roll",
            interval=0.5,
        )
    finally:
        rolling.kill()
        rolling.wait()
    assert rolling.returncode == 0, log.read_text()
    nodes = _status(file)
    assert {node["state"] for node in nodes.values()} == {"done"}, nodes
    fleet.each(Member.has_become_the_image)
    fleet.check_canary()
    fleet.check_zones()
    assert fleet.members[RESET].node.control.get("/v1/reimage")["imager"]["resumed"] == 1
