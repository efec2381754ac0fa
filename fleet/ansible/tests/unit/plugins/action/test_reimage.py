# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action `reimage` decides, on a virtual clock, with a node that a test directs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.holdfast.agent.plugins.action import reimage
from ansible_collections.holdfast.agent.plugins.plugin_utils.remote import Away


class Clock:
    """Time that passes only during a pause."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


class Node:
    """A node; `script` has answers by module or step, before its own."""

    def __init__(self, clock: Clock, phase: str = "staged") -> None:
        self.clock = clock
        self.phase = phase
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.script: dict[str, list[Any]] = {}
        self.failed_keys: set[str] = set()
        self.down_for = 60.0
        self.up_at = 0.0
        self.end: tuple[str, str | None] = ("succeeded", None)
        self.checks: list[Any] = [{"name": "data", "passed": True}]

    def run(self, name: str, arguments: dict[str, Any], *, anew: bool) -> dict[str, Any]:
        step = str(arguments.get("step") or name)
        self.calls.append((step, dict(arguments)))
        if self.clock.now < self.up_at:
            raise Away("No route to host")
        if self.script.get(step):
            answer = self.script[step].pop(0)
            if isinstance(answer, Exception):
                raise answer
            if callable(answer):
                answer = answer()
            if answer is not None:
                return answer
        return getattr(self, f"_{step}")(arguments)

    def _operation(self) -> dict[str, Any]:
        state, slug = "running", None
        if self.phase == "over":
            state, slug = self.end
        error = None if slug is None else {"type": f"/problems/{slug}", "detail": "So it is."}
        return {
            "id": "01K",
            "kind": "reimage",
            "state": state,
            "outcome": None,
            "progress": {"phase": self.phase},
            "error": error,
        }

    def _reimage_stage(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if arguments["key"] in self.failed_keys:
            return {"created": False, "operation": {**self._operation(), "state": "failed"}}
        return {"created": True, "operation": self._operation()}

    def _operation_wait(self, arguments: dict[str, Any]) -> dict[str, Any]:
        operation = self._operation()
        ended = operation["state"] != "running"
        if not ended and self.phase not in arguments["phases"]:
            self.clock.now += arguments["timeout"]
        return {"operation": operation, "ended": ended, "away": None, "lost": False}

    def _arm(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        self.phase = "armed"
        return {"reimage": {"state": "armed"}}

    def _reboot(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        self.up_at = self.clock.now + self.down_for
        self.phase = "over"
        return {"reimage": {"state": "rebooting"}}

    def _confirm(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        self.phase = "over"
        return {"reimage": {"state": "confirmed"}}

    def _reimage_info(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {"reimage": {"state": self.phase, "checks": self.checks}}

    def steps(self) -> list[str]:
        return [call[0] for call in self.calls]

    def keys(self, step: str) -> set[str]:
        return {arguments["key"] for each, arguments in self.calls if each == step}


class NoKnownHosts:
    """No key ever changes."""

    def replace(self, *, may_have_changed: bool) -> str | None:
        return "It may not." if not may_have_changed else None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reimage, "time", clock)
    return clock


def start(node: Node, **options: Any) -> reimage.Run:
    chosen = {
        name: option.get("default")
        for name, option in (reimage.STAGE_ARGUMENTS | reimage.OWN).items()
    }
    chosen |= {"descriptor": "https://images.example/x.json"} | options
    return reimage.Run(node, chosen, "k", NoKnownHosts(), [])


def ends(node: Node, **options: Any) -> reimage.Ended:
    with pytest.raises(reimage.Ended) as end:
        start(node, **options).run()
    return end.value


HELD = {
    "failed": True,
    "msg": "The window is closed.",
    "problem": {"type": "/problems/held-back", "gate": "window"},
    "problem_type": "held-back",
    "retry_after": 120,
}


def test_a_node_is_asked_once_in_a_poll_while_it_is_away(clock: Clock) -> None:
    node = Node(clock)
    node.down_for = 600
    assert start(node).run()["current"] is False
    asked = [step for step in node.steps() if step == "operation_wait"]
    assert len(asked) <= 600 / 30 + 4


def test_a_reboot_whose_answer_is_lost_is_ordered_with_the_same_key(clock: Clock) -> None:
    node = Node(clock)
    node.script["reboot"] = [Away("The connection broke."), None]
    start(node).run()
    assert node.steps().count("reboot") == 2
    assert node.keys("reboot") == {"k.reboot"}


def test_a_node_that_is_held_back_is_asked_again_when_it_says(clock: Clock) -> None:
    node = Node(clock)
    node.script["reboot"] = [HELD, HELD, None]
    began = clock.now
    start(node).run()
    assert node.steps().count("reboot") == 3
    assert clock.now - began >= 240
    assert node.keys("reboot") == {"k.reboot"}


def test_a_node_is_not_held_back_for_ever(clock: Clock) -> None:
    node = Node(clock)
    node.script["reboot"] = [HELD] * 100
    end = ends(node, held_seconds=600)
    assert (end.reason, str(end)) == ("refused", "The window is closed.")
    assert node.steps().count("reboot") <= 6


def test_what_the_operators_command_refuses_is_final(clock: Clock) -> None:
    node = Node(clock)
    problem = {"type": "/problems/held-back", "gate": "before-reboot"}
    node.script["reboot"] = [HELD | {"problem": problem}]
    assert ends(node).reason == "refused"
    assert node.steps().count("reboot") == 1


@pytest.mark.parametrize(
    ("slug", "reason"), [("not-reimaged", "failed"), ("not-confirmed", "unconfirmed")]
)
def test_how_it_ended_is_distinguished(clock: Clock, slug: str, reason: str) -> None:
    node = Node(clock)
    node.end = ("failed", slug)
    end = ends(node)
    assert (end.reason, end.facts["problem_type"]) == (reason, slug)


def test_a_node_that_does_not_come_back_is_lost_and_failed(clock: Clock) -> None:
    node = Node(clock)
    node.down_for = 1e9
    end = ends(node, timeout=900)
    assert end.reason == "lost"
    assert "No route to host" in str(end)
    assert clock.now <= 1000 + 900 + 31


def test_a_node_that_is_away_before_anything_was_ordered_fails_soon(clock: Clock) -> None:
    node = Node(clock)
    node.up_at = 1e9
    assert ends(node, connect_seconds=60).reason == "unreachable"
    assert clock.now <= 1000 + 70


def test_one_that_needs_longer_is_unfinished(clock: Clock) -> None:
    assert ends(Node(clock, "staging"), timeout=300).reason == "unfinished"


def test_another_caller_may_disarm_it(clock: Clock) -> None:
    node = Node(clock)
    node.script["reboot"] = [HELD]

    def disarmed() -> dict[str, Any]:
        return {"reimage": {"state": "staged"}}

    def to_staged() -> None:
        node.phase = "staged"

    node.script["operation_wait"] = [None, None, to_staged]
    node.script["arm"] = [None, disarmed]
    assert ends(node).reason == "disarmed"


def test_an_attempt_that_had_failed_is_followed_by_another_key(clock: Clock) -> None:
    node = Node(clock)
    node.failed_keys = {"k.stage", "k.2.stage"}
    start(node).run()
    assert node.keys("arm") == {"k.3.arm"}
    node = Node(clock)
    node.failed_keys = {"k.stage"}
    node.phase, node.end = "over", ("failed", "not-reimaged")
    assert ends(node, retry_failed=False).reason == "failed"
    assert node.steps().count("reimage_stage") == 1


def test_the_controller_confirms_what_it_reaches(clock: Clock) -> None:
    node = Node(clock)

    def up() -> dict[str, Any]:
        node.up_at = clock.now + 60
        node.phase = "booted"
        return {"reimage": {"state": "rebooting"}}

    node.script["reboot"] = [up]
    node.checks = []
    busy = {"failed": True, "msg": "It is being checked.", "problem_type": "conflict"}

    def checked() -> None:
        node.checks = [{"name": "data", "passed": True}]

    node.script["reimage_info"] = [None, checked]
    node.script["confirm"] = [busy, None]
    start(node, confirm="reached").run()
    assert node.steps().count("confirm") == 2
    assert node.keys("confirm") == {"k.confirm"}
    left = Node(clock, "booted")
    start(left, confirm="leave").run()
    assert "confirm" not in left.steps()


def test_what_was_staged_before_is_armed_by_its_operation(clock: Clock) -> None:
    node = Node(clock)
    start(node, descriptor=None, operation="01K").run()
    assert "reimage_stage" not in node.steps()
    armed = [arguments for step, arguments in node.calls if step == "arm"]
    assert armed[0]["operation"] == "01K"
