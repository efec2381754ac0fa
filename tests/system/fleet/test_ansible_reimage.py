"""The action `reimage` of the Ansible collection against daemons whose reboot is a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.reimage.models import StageRequest
from tests.support.capabilities.reimage import BODY
from tests.support.daemon.boots import BootedNode, booted_nodes
from tests.support.daemon.harness import Daemon
from tests.support.fleet.ansible import TICK, Controller, Played, play, plugin, run_module, task

Make = Callable[..., BootedNode]
QUICK = {"poll_seconds": TICK, "connect_seconds": 2, "call_timeout": 10, "timeout": 240}
IMAGE: dict[str, Any] = BODY | {"identity": []}


@pytest.fixture
def make(disk_dir: Path, start_daemon: Callable[..., Daemon]) -> Iterator[Make]:
    with booted_nodes(disk_dir, start_daemon) as make:
        yield make


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def reimage(controller: Controller, **arguments: Any) -> Played:
    return controller.play(play(task("reimage", "reimage", **QUICK | arguments)))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_are_followed_through_their_boots_and_never_unreachable(
    make: Make, controller: Controller
) -> None:
    # Away for longer than a call of a module takes to begin, so that one of them meets nobody.
    good = make("good", down=5.0)
    back, refused, keyed = (make(name) for name in ("back", "no", "key"))
    back.end = "failed"
    refused.helper.answers["arm"] = {"refused": "The disk was exchanged."}
    for name, node in (("good", good), ("back", back), ("no", refused), ("key", keyed)):
        node.stage(f"roll.{name}")
        controller.node(name, node.start().socket)
    controller.node("dead", None)
    controller.by_ssh("dead").fail()
    changed = controller.by_ssh("key")
    before = keyed.helper.on["reboot"]

    def another_key() -> None:
        before()
        changed.fail("@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@")

    keyed.helper.on["reboot"] = another_key
    played = reimage(controller, **IMAGE, key="roll.{{ inventory_hostname }}")
    kinds = {line["host"]: line["kind"] for line in played.lines}
    assert kinds == {
        "good": "ok",
        "back": "failed",
        "no": "failed",
        "dead": "failed",
        "key": "failed",
    }, played.text
    results = {name: played.result("reimage", name) for name in kinds}
    reasons = {name: result.get("reason") for name, result in results.items()}
    assert reasons == {
        "good": None,
        "back": "failed",
        "no": "refused",
        "dead": "unreachable",
        "key": "host_key",
    }
    assert results["good"]["reimage"]["state"] == "confirmed"
    assert (results["good"]["changed"], results["dead"]["changed"]) == (True, False)
    seen = results["good"]["phases"]
    assert [each for each in seen if each in ("staged", "armed", "away", "confirmed")] == [
        "staged",
        "armed",
        "away",
        "confirmed",
    ]
    assert "exchanged" in results["no"]["msg"]
    assert "ssh-keygen -R 'key.example'" in results["key"]["msg"]
    assert "No route to host" in results["dead"]["msg"]
    calls = [(node.helper.calls("arm"), node.helper.calls("reboot")) for node in (good, back)]
    assert calls == [(1, 1), (1, 1)]
    # Once more: it runs the image, and nothing is done.
    again = run_module("reimage_stage", socket=str(good.socket), **IMAGE)
    assert (again["changed"], again["current"]) == (False, True)


def test_every_wish_of_a_caller_can_be_staged() -> None:
    members = plugin("modules.reimage_stage").MEMBERS
    assert set(members) == set(StageRequest.model_fields)
    staging = plugin("module_utils.work").STAGE_ARGUMENTS
    assert {*staging, "confirm"} == set(members)


def test_the_documented_options_are_those_of_the_action() -> None:
    module = plugin("modules.reimage")
    action = plugin("action.reimage")
    fragment = plugin("doc_fragments.node").ModuleDocFragment
    yaml = pytest.importorskip("yaml")
    documented: dict[str, Any] = {}
    for text in (fragment.DOCUMENTATION, fragment.STAGE, module.DOCUMENTATION):
        documented |= yaml.safe_load(text)["options"]
    arguments = plugin("module_utils.work")
    accepted = arguments.NODE_ARGUMENTS | arguments.STAGE_ARGUMENTS | action.OWN
    assert set(documented) == set(accepted)
    for name, option in accepted.items():
        for member in ("type", "default", "choices"):
            assert documented[name].get(member) == option.get(member), (name, member)
