"""An apply that meets a fault of the kernel's at any of its steps takes everything back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.capabilities.tuning_steps import Node, chosen, stepping_node

pytestmark = pytest.mark.long


@pytest.fixture
def node(disk_dir: Path) -> Iterator[Node]:
    with stepping_node(disk_dir) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fault_at_any_step_takes_everything_back_or_does_not_matter(node: Node) -> None:
    for step in chosen(node.steps()):
        done = node.disturb(step, f"error={'ENOSPC' if step.sysctl is None else 'EIO'}")
        after = node.values()
        if done.returncode == 0:
            assert step.sysctl is None, step
            assert node.is_new(after), (step, after)
        else:
            assert after == node.old, (step, done.stderr)
            problems = [line for line in done.stderr.splitlines() if line.startswith("{")]
            assert [json.loads(line)["exit_code"] for line in problems] == [done.returncode]
        if step.sysctl is not None:
            problem = json.loads(done.stdout)["error"]
            assert problem["setting"]["name"] == step.sysctl
            assert "Input/output error" in problem["reason"]
            assert problem["not_reverted"] == []
        state = node.start()
        assert (state["profile"] is None) == (after == node.old), step
        assert state["problem"] is None, step
        node.roll_back()
