"""The steps of a roll as activities of Temporal, and its workflows in Temporal's sandbox.

There is no server here: that workflows replay is left to Temporal.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from holdfast_client.testing import FakeNode, Reimaging
from holdfast_rollout.board import LiveBoard
from holdfast_rollout.engines.with_temporal import WORKFLOWS, activities_of
from holdfast_rollout.inventory import read_inventory
from holdfast_rollout.steps import STEPS
from holdfast_rollout.world import real_context
from tests.support.fleet.rollout import write_inventory


def _activities(file: Path) -> dict[str, Any]:
    inventory = read_inventory(file)
    made = activities_of(real_context(inventory, LiveBoard(inventory)))
    return {str(activity._Definition.must_from_callable(each).name): each for each in made}


def test_a_node_is_rolled_by_activities_each_of_which_may_be_taken_again(tmp_path: Path) -> None:
    with FakeNode() as node:
        node.reimaging = Reimaging(stage_seconds=0.1, down=0.1, imaging=0.2)
        activities = _activities(write_inventory(tmp_path, {"a": [node.socket]}))
        assert set(activities) == set(STEPS)
        beats: list[tuple[Any, ...]] = []
        environment = ActivityEnvironment()
        environment.on_heartbeat = lambda *details: beats.append(details)

        async def roll() -> None:
            arguments: dict[str, Any] = {"roll": "r", "node": "a-1", "zone": "a", "key": "r.a-1.1"}

            async def take(name: str, **members: Any) -> Any:
                found = await environment.run(activities[name], {**arguments, **members})
                # A worker may die before the server knows.
                again = await environment.run(activities[name], {**arguments, **members})
                assert found["verdict"] == again["verdict"] == "go", (name, found, again)
                return found

            before = (await take("check"))["boot_id"]
            arguments["operation"] = (await take("stage"))["operation"]
            for name in ("drain", "arm", "reboot"):
                await take(name)
            followed = await take("follow", deadline=0.0)
            assert followed["state"] == "booted"
            await take("gate")
            await take("confirm")
            boots = {"boot_before": before, "boot_id": followed["boot_id"]}
            await take("verify", image="a" * 64, **boots)
            await take("release")

        asyncio.run(roll())
        assert beats
        assert len(node.operations) == 1
        assert (node.state, node.boots) == ("confirmed", 2)


def test_a_fault_of_the_code_is_not_tried_again(tmp_path: Path) -> None:
    activities = _activities(write_inventory(tmp_path, {"a": [tmp_path / "s"]}))
    with pytest.raises(ApplicationError, match="KeyError") as raised:
        asyncio.run(ActivityEnvironment().run(activities["check"], {}))
    assert raised.value.non_retryable


@pytest.mark.parametrize("defined", WORKFLOWS)
def test_the_sandbox_accepts_the_workflows(defined: type) -> None:
    definition = workflow._Definition.must_from_class(defined)

    async def prepare() -> None:
        SandboxedWorkflowRunner().prepare_workflow(definition)

    asyncio.run(prepare())
