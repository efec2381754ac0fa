"""What a further attempt takes over from an earlier one, on simulated nodes and a virtual clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from holdfast_rollout.interfaces import Json
from holdfast_rollout.inventory import parse_inventory
from tests.simulation.schedules import BEGIN, Result, Schedule, _Run, clean_fleet
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.world import WANTED, End, SimNode, Times

_TIMES = Times(stage=10.0, down=30.0, imaging=600.0, checking=5.0)


def _schedule(**times: float) -> Schedule:
    document = {
        "roll": "sim",
        "image": {"descriptor": "https://x/", "descriptor_sha256": WANTED},
        "nodes": [{"name": "n0", "zone": "z0", "socket": "/none"}],
        "times": times,
    }
    return replace(clean_fleet(1, 1, 1), inventory=parse_inventory(document, "test"), times=_TIMES)


class _HandsOff(_Run):
    """An operator who resumes, and has no hand in the node; a second time it is accepted."""

    def __init__(self, chosen: Schedule, ends: list[End]) -> None:
        self._chosen_ends = ends
        super().__init__(chosen)

    def _ends(self) -> list[End]:
        return self._chosen_ends

    @property
    def node(self) -> SimNode:
        return self._nodes["n0"]

    async def _resume(self) -> None:
        await asyncio.sleep(3600.0)
        self._repairs += 1
        members: Json = {"accept": ["n0"]} if self._repairs > 1 else {}
        await self._send("resume", **members)


def _rolled(chosen: Schedule, *ends: End) -> tuple[Result, SimNode]:
    loop = VirtualLoop(BEGIN)
    try:
        run = _HandsOff(chosen, list(ends))
        return loop.run_until_complete(run.run()), run.node
    finally:
        loop.close()


def test_a_node_that_was_given_up_too_early_is_followed_to_its_end() -> None:
    result, node = _rolled(_schedule(boots=60.0, answer=60.0))
    assert result.summary["states"] == {"done": 1}
    assert (node.state, node.image, node.boots) == ("confirmed", WANTED, 2)
    assert node.operation == "n0-1"


def test_a_node_that_was_found_not_rebooted_is_not_believed_at_the_next_attempt() -> None:
    result, node = _rolled(_schedule(), "unrebooted")
    assert (node.state, node.image, node.boots) == ("confirmed", WANTED, 1)
    assert result.summary["states"] == {"accepted": 1}
