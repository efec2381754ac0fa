"""Six machines become another image by the Ansible collection, over SSH; one of them fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.ansible import Controller, Played
from tests.vm.conftest import TEST_SECONDS
from tests.vm.fleet.machines import FAILING, Fleet, Member, image_of
from tests.vm.pace import patience
from tests.vm.reimage.telling import tell


def _controller(fleet: Fleet, directory: Path) -> Controller:
    controller = Controller(directory)
    controller.seconds = patience(1800)
    known = directory / "known_hosts"
    options = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes"
    known.write_text("".join(member.host_key for member in fleet.members.values()))
    for name, member in fleet.members.items():
        controller.inventory[name] = {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": member.node.ports.ssh,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(fleet.systems.ssh_key),
            "ansible_ssh_common_args": options,
            # A path of a socket has at most 107 bytes.
            "ansible_control_path_dir": str(directory),
            "ansible_timeout": int(patience(30)),
            "ansible_python_interpreter": "/usr/bin/python3",
            "holdfast_zone": member.zone,
        }
    return controller


def _roll(fleet: Fleet, controller: Controller) -> Played:
    image: dict[str, Any] = image_of(fleet)
    return controller.play(
        "roll",
        holdfast_roll_hosts="nodes",
        holdfast_roll_id="six",
        holdfast_roll_descriptor=image["descriptor"],
        holdfast_roll_descriptor_sha256=image["descriptor_sha256"],
        holdfast_roll_per_az=2,
        holdfast_roll_options={
            "manifest": image["manifest"],
            "poll_seconds": 5,
            "timeout": patience(900),
            "connect_seconds": patience(120),
        },
    )


@pytest.mark.timeout(2 * TEST_SECONDS)
def test_the_roll_stops_at_the_node_that_fails_and_ends_after_the_fix(
    fleet: Fleet, tmp_path: Path
) -> None:
    controller = _controller(fleet, tmp_path)

    played = _roll(fleet, controller)
    assert played.code != 0, played.text
    shown = played.result("Show the batches")["holdfast_roll_batches"]
    assert shown == [["a-1"], ["a-2"], ["b-1", "b-2"], ["c-1", "c-2"]]
    failed = played.result("Become the image", FAILING)
    tell(f"the roll has stopped: {failed['msg']}")
    assert failed["reason"] == "unconfirmed", failed
    states = fleet.states()
    assert [states[name] for name in ("a-1", "a-2", "b-1")] == ["confirmed"] * 3, states
    assert states[FAILING] == "unconfirmed"
    for name in ("c-1", "c-2"):
        assert fleet.members[name].is_undisturbed(), states

    fleet.members[FAILING].fix()
    played = _roll(fleet, controller)
    assert played.code == 0, played.text
    # A roll that is resumed begins with a canary again.
    assert played.result("Show the batches")["holdfast_roll_batches"] == [["c-1"], ["c-2"]]
    fleet.each(Member.has_become_the_image)
    fleet.check_canary()
    fleet.check_zones()
