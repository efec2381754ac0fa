# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Re-image a node and follow it through both boots, from the controller.

The steps are taken by modules on the node. This plugin decides which comes next, and connects
anew while the node is away. Whatever happens the result is failed, and never unreachable: a play
does not count hosts that are unreachable when it decides whether to continue with the next batch.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.agent.plugins.module_utils.node import FINAL
from ansible_collections.holdfast.agent.plugins.module_utils.operations import describe, phase_of
from ansible_collections.holdfast.agent.plugins.module_utils.work import (
    NODE_ARGUMENTS,
    STAGE_ARGUMENTS,
)
from ansible_collections.holdfast.agent.plugins.plugin_utils.known_hosts import (
    KnownHosts,
    is_host_key_fault,
)
from ansible_collections.holdfast.agent.plugins.plugin_utils.remote import Away, Remote

MAX_KEY = 200
MAX_ATTEMPTS = 100
STEP_SECONDS = 3600.0
"""An order to reboot is answered once the fleet's lock is had and the operator's command ended."""
HELD_SECONDS = 30.0
"""After which a node that was held back is asked again, if it does not say when."""
AGAIN_SECONDS = 1.0
SETTLE_SECONDS = 3.0
"""A node that has just answered may do so again this soon."""
OPERATORS = "before-reboot"
"""The gate that is a command of the operator: what it could not do, a person should see."""
WAITING = ("staged", "armed")
"""Phases in which the next step is ours."""

OWN = {
    "operation": {"type": "str"},
    "key": {"type": "str", "no_log": False},
    "retry_failed": {"type": "bool", "default": True},
    "confirm": {"type": "str", "choices": ["auto", "reached", "leave"], "default": "auto"},
    "force": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 3600.0},
    "held_seconds": {"type": "float", "default": 1800.0},
    "connect_seconds": {"type": "float", "default": 60.0},
    "poll_seconds": {"type": "float", "default": 30.0},
    "changed_host_key": {
        "type": "str",
        "choices": ["fail", "expected", "accept"],
        "default": "fail",
    },
    "host_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
    "known_hosts": {"type": "path", "default": "~/.ssh/known_hosts"},
}


class Ended(Exception):
    """The attempt is over and did not succeed; `reason` is one of those that are documented."""

    def __init__(self, reason: str, sentence: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.facts = dict(facts or {})


class ActionModule(ActionBase):
    """The action, as Ansible loads it."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _options, options = self.validate_argument_spec(
            argument_spec={**NODE_ARGUMENTS, **STAGE_ARGUMENTS, **OWN},
            required_one_of=[("descriptor", "operation")],
            mutually_exclusive=[("descriptor", "operation")],
        )
        key = options["key"] or uuid.uuid4().hex
        result.update(changed=False, key=key, phases=[])
        if len(key) > MAX_KEY:
            return {**result, "failed": True, "msg": f"key has at most {MAX_KEY} characters."}
        remote = Remote(self, task_vars or {}, {name: options[name] for name in NODE_ARGUMENTS})
        run = Run(remote, options, key, KnownHosts(self._connection, options), result["phases"])
        try:
            result.update(run.check() if self._task.check_mode else run.run())
        except Ended as end:
            result.update(end.facts, failed=True, reason=end.reason, msg=str(end))
        except Away as away:
            result.update(failed=True, reason="unreachable", msg=str(away))
        except AnsibleError as error:
            result.update(failed=True, reason="refused", msg=str(error))
        result["changed"] = result["changed"] or run.changed
        if run.operation is not None:
            result["operation"] = run.operation
        return result


class Run:
    """One attempt, from whatever point it has reached."""

    def __init__(
        self,
        remote: Remote,
        options: Mapping[str, Any],
        key: str,
        known_hosts: KnownHosts,
        phases: list[str],
    ) -> None:
        self._remote = remote
        self._options = options
        self._key = key
        self._known_hosts = known_hosts
        self._phases = phases
        self._deadline = time.monotonic() + options["timeout"]
        self._held: float | None = None
        self._away_since: float | None = None
        self._ordered = False
        self._armed = False
        self.operation: Mapping[str, Any] | None = None
        self.changed = False

    def check(self) -> dict[str, Any]:
        """Have the node plan the re-imaging. Raises `Ended`."""
        if self._options["operation"] is not None:
            return {"changed": True}
        return self._module("reimage_stage", self._stage_arguments(self._key))

    def run(self) -> dict[str, Any]:
        """Return the result once the new system is confirmed. Raises `Ended`, `Away`."""
        if self._options["operation"] is not None:
            name = self._options["operation"]
        else:
            staged = self._patiently(self._stage)
            if staged.get("current"):
                return {"changed": False, "current": True, **self._state()}
            self._saw(staged["operation"])
            name = staged["operation"]["id"]
        while not self._advance(name):
            pass
        return {"current": False, **self._state()}

    def _state(self) -> dict[str, Any]:
        """Return the state of the node, unless it is away again: the operation has said it all."""
        try:
            return {"reimage": self._module("reimage_info")["reimage"]}
        except (Away, Ended):
            return {"reimage": None}

    def _stage(self) -> dict[str, Any]:
        """Stage the image, or return what was staged with the key."""
        for number in range(1, MAX_ATTEMPTS):
            key = self._key if number == 1 else f"{self._key}.{number}"
            answer = self._module("reimage_stage", self._stage_arguments(key))
            if answer.get("current"):
                return answer
            state = answer["operation"]["state"]
            old = not answer["created"] and state in FINAL and state != "succeeded"
            if not (old and self._options["retry_failed"]):
                self._key = key
                self.changed = self.changed or answer["created"]
                return answer
        raise Ended("refused", f"{MAX_ATTEMPTS} attempts with the key {self._key} have failed.")

    def _stage_arguments(self, key: str) -> dict[str, Any]:
        chosen = {
            name: self._options[name] for name in STAGE_ARGUMENTS if self._options[name] is not None
        }
        if self._options["confirm"] != "auto":
            chosen["confirm"] = "manual"
        return {**chosen, "key": f"{key}.stage", "wait": False}

    def _advance(self, name: str) -> bool:
        """Wait for a phase and take the step that it calls for; return whether it is over."""
        asked = time.monotonic()
        phases = list(WAITING) if self._options["confirm"] == "auto" else [*WAITING, "booted"]
        seconds = min(self._options["poll_seconds"], max(1.0, self._left))
        arguments = {"operation": name, "timeout": seconds, "phases": phases, "fail": False}
        try:
            seen = self._module("operation_wait", arguments)
        except Away as away:
            self._lost_sight(away, asked)
            return False
        if seen["lost"]:
            raise Ended("lost", f"The node does not know operation {name} any more.")
        if seen["operation"] is None:
            self._lost_sight(Away(seen["away"] or "The daemon does not answer."), asked)
            return False
        self._away_since = None
        self._saw(seen["operation"])
        if seen["ended"]:
            return self._is_confirmed(seen["operation"])
        try:
            if self._next_step(name, phase_of(seen["operation"])):
                return True
        except Away as away:
            self._lost_sight(away, asked)
            return False
        self._check_time(f"is in the phase {phase_of(seen['operation'])}")
        if time.monotonic() - asked < AGAIN_SECONDS:
            time.sleep(AGAIN_SECONDS)
        return False

    def _next_step(self, name: str, phase: str) -> bool:
        """Take the step that comes next, if it is ours to take; return whether it was the last."""
        if phase == "staged":
            state = self._step("arm", name)
            if self._armed and state == "staged":
                raise Ended(
                    "disarmed", f"Operation {name} was armed, and another caller disarmed it."
                )
            self._armed = True
        elif phase == "armed":
            self._armed = True
            self._reboot(name)
        elif phase == "booted" and self._options["confirm"] != "auto":
            return self._booted(name)
        return False

    def _reboot(self, name: str) -> None:
        # The answer may be lost with the connection, and the order carried out.
        before, self._ordered = self._ordered, True
        try:
            self._step("reboot", name)
        except Ended as refused:
            self._ordered = before
            self._hold(refused)

    def _booted(self, name: str) -> bool:
        """Confirm a system that has passed its checks, or leave it to a person."""
        checks = self._module("reimage_info")["reimage"]["checks"]
        if not checks:
            return False
        if self._options["confirm"] == "leave":
            self._enter("booted")
            return True
        try:
            self._step("confirm", name)
        except Ended as refused:
            if refused.facts.get("problem_type") != "conflict":
                raise
        return False

    def _step(self, step: str, name: str) -> str:
        """Take a step; return the state that it led to. Raises `Ended` if it is refused, `Away`."""
        arguments = {
            "step": step,
            "operation": name,
            "key": f"{self._key}.{step}",
            "timeout": max(1.0, min(STEP_SECONDS, self._left)),
        }
        if step == "reboot" and self._options["force"]:
            arguments["force"] = True
        answer = self._module("reimage_step", arguments)
        self.changed = True
        state = str((answer.get("reimage") or {}).get("state") or "")
        self._enter(state)
        return state

    def _hold(self, refused: Ended) -> None:
        """Wait where a window, a lock or an inhibitor says no for now. Raises `Ended`."""
        problem = refused.facts.get("problem") or {}
        if problem.get("type") != "/problems/held-back" or problem.get("gate") == OPERATORS:
            raise refused
        now = time.monotonic()
        self._held = self._held or now
        seconds = float(refused.facts.get("retry_after") or HELD_SECONDS)
        if now + seconds > min(self._held + self._options["held_seconds"], self._deadline):
            raise refused
        self._enter("held")
        time.sleep(seconds)

    def _is_confirmed(self, operation: Mapping[str, Any]) -> bool:
        """Return whether it succeeded. Raises `Ended` if it did not."""
        if operation["state"] == "succeeded":
            self._enter("confirmed")
            return True
        problem = operation.get("error") or {}
        slug = str(problem.get("type", "")).rpartition("/")[2]
        reason = "unconfirmed" if slug == "not-confirmed" else "failed"
        raise Ended(reason, describe(operation), {"problem": problem, "problem_type": slug})

    def _patiently(self, call: Any) -> Any:
        """Make a call for as long as a node may be away that was not ordered to reboot."""
        while True:
            asked = time.monotonic()
            try:
                answer = call()
            except Away as away:
                self._lost_sight(away, asked)
            else:
                self._away_since = None
                return answer

    def _lost_sight(self, away: Away, asked: float) -> None:
        """Wait before the next attempt to reach the node. Raises `Ended` if there is none."""
        if is_host_key_fault(str(away)):
            why = self._known_hosts.replace(may_have_changed=self._ordered)
            if why is not None:
                raise Ended("host_key", why)
        now = time.monotonic()
        self._away_since = self._away_since or asked
        if not self._ordered and now - self._away_since >= self._options["connect_seconds"]:
            raise Ended("unreachable", f"The node was not reached, and nothing was ordered: {away}")
        self._enter("away")
        if now >= self._deadline:
            raise Ended(
                "lost",
                "The node was ordered to reboot and did not come back in time; what runs there is "
                f"not known: {away}",
            )
        pause = self._options["poll_seconds"] if self._ordered else SETTLE_SECONDS
        # What took long to fail has waited already.
        time.sleep(max(AGAIN_SECONDS, min(pause, self._left, pause - (now - asked))))

    def _check_time(self, what: str) -> None:
        if self._left <= 0:
            raise Ended("unfinished", f"The node {what}, and was not confirmed in time.")

    @property
    def _left(self) -> float:
        return float(self._deadline - time.monotonic())

    def _saw(self, operation: Mapping[str, Any]) -> None:
        self.operation = operation
        if operation["state"] not in FINAL:
            self._enter(phase_of(operation))

    def _enter(self, phase: str) -> None:
        if phase and (not self._phases or self._phases[-1] != phase):
            self._phases.append(phase)

    def _module(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run a module on the node. Raises `Away`, and `Ended` for what it refuses."""
        answer = self._remote.run(name, arguments or {}, anew=self._ordered)
        if answer.get("failed"):
            facts: dict[str, Any] = {
                member: answer[member]
                for member in ("problem", "problem_type", "status", "retry_after", "plan")
                if member in answer
            }
            raise Ended("refused", str(answer.get("msg") or "The step failed."), facts)
        return answer
