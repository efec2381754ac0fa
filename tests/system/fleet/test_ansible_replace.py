"""The playbook `replace` with two daemons: state moves, or the old node keeps serving."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities.transfer import Pair, fill, make_pair, tree
from tests.support.daemon.harness import Daemon
from tests.support.fleet.ansible import Controller, Played

pytestmark = [
    pytest.mark.skipif(
        "HOLDFAST_TEST_ROLLS" not in os.environ, reason="set HOLDFAST_TEST_ROLLS=all"
    ),
    pytest.mark.timeout(600),
]


def replace(controller: Controller, pair: Pair, destination: str) -> Played:
    """Replace `old` by a node that the launch hook adds."""
    new = {
        "name": "new",
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "holdfast_socket": str(pair.destination.socket),
    }
    launch: list[Any] = [
        {"name": "launch", "ansible.builtin.add_host": new},
        {"name": "name it", "ansible.builtin.set_fact": {"replace_node_new": "new"}},
    ]
    cut_over = [
        {
            "name": "cut over",
            "ansible.builtin.debug": {"msg": "{{ replace_node_new }}"},
        }
    ]
    hooks = {}
    for name, tasks in (("launch", launch), ("cut_over", cut_over)):
        file = controller.directory / f"{name}.yml"
        file.write_text(json.dumps(tasks))
        hooks[f"holdfast_replace_{name}"] = str(file)
    return controller.play(
        "replace",
        holdfast_replace_hosts="old",
        holdfast_replace_path=str(pair.offered),
        replace_node_destination=destination,
        holdfast_replace_unit="",
        **hooks,
    )


def test_state_moves_to_the_node_that_was_launched_or_stays(
    tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    pair = make_pair(start_daemon)
    fill(pair.offered)
    controller = Controller(tmp_path)
    controller.node("old", pair.source.socket, holdfast_zone="a")
    failed = replace(controller, pair, "/etc/nowhere")
    assert failed.code != 0
    assert "was not replaced and serves again" in failed.text
    assert not failed.hosts("cut over")
    done = replace(controller, pair, str(pair.fetched))
    assert done.code == 0, done.text
    assert done.hosts("cut over") == ["old"]
    assert tree(pair.fetched) == tree(pair.offered)
    # Both offers were revoked.
    assert pair.source.http.get("/v1/transfers/offers").json()["offers"] == []
