#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait for an operation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: operation_wait
short_description: Wait until an operation ends, or is in a phase
version_added: 0.1.0
description:
  - Follows an operation over restarts of the daemon. It does not outlive a reboot of the node,
    which ends the module itself. M(holdfast.agent.reimage) does.
  - Asks with one request that stays open, rather than again and again.
author: The holdfast authors (@holdfast)
extends_documentation_fragment: holdfast.agent.node
options:
  operation:
    description: Id of the operation, or V(latest).
    type: str
    required: true
  timeout:
    description: Seconds to wait.
    type: float
    default: 3600
  phases:
    description: Return as well once the operation is in one of these phases, such as V(staged).
    type: list
    elements: str
    default: []
  fail:
    description:
      - Whether an operation that did not end well, or did not end in time, fails the task.
    type: bool
    default: true
  cancel:
    description: Ask the operation to end first.
    type: bool
    default: false
attributes:
  check_mode:
    description: Waits, and cancels nothing.
    support: full
"""

EXAMPLES = r"""
- name: Start a manifest in the background
  holdfast.agent.manifest:
    action: build
    wait: false
  register: build

- name: Wait for it
  holdfast.agent.operation_wait:
    operation: "{{ build.operation.id }}"
    timeout: 7200
"""

RETURN = r"""
operation:
  description: The operation as last seen, or null if it was not seen.
  returned: always
  type: dict
ended:
  description: Whether it is over.
  returned: always
  type: bool
away:
  description: Why the daemon did not answer at the end of the wait, or null.
  returned: always
  type: str
lost:
  description: Whether a daemon that is ready does not know the operation.
  returned: always
  type: bool
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.agent.plugins.module_utils.node import Node, NodeError
from ansible_collections.holdfast.agent.plugins.module_utils.operations import (
    describe,
    follow,
    phase_of,
)
from ansible_collections.holdfast.agent.plugins.module_utils.work import NODE_ARGUMENTS, run


def wait(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Return the operation once it is over, or in one of the phases."""
    name, phases = module.params["operation"], module.params["phases"]
    changed = module.params["cancel"] and not module.check_mode
    if changed:
        node.post(f"/v1/operations/{name}/cancel", {})
    if name == "latest":
        name = node.get("/v1/operations/latest")["id"]
    seen = follow(node, name, module.params["timeout"], phases)
    result: dict[str, Any] = {
        "changed": changed,
        "operation": seen.operation,
        "ended": seen.ended,
        "away": seen.away,
        "lost": seen.lost,
    }
    if not module.params["fail"]:
        return result
    if seen.lost:
        raise NodeError(f"The node does not know operation {name} any more.", status=404)
    if seen.operation is None:
        raise NodeError(f"Operation {name} was not seen in time: {seen.away}", away=True)
    if seen.ended and seen.operation["state"] != "succeeded" and not changed:
        module.fail_json(
            msg=describe(seen.operation), problem=seen.operation.get("error") or {}, **result
        )
    if not seen.ended and phase_of(seen.operation) not in phases:
        module.fail_json(msg=f"Operation {name} did not end in time.", **result)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **NODE_ARGUMENTS,
            "operation": {"type": "str", "required": True},
            "timeout": {"type": "float", "default": 3600.0},
            "phases": {"type": "list", "elements": "str", "default": []},
            "fail": {"type": "bool", "default": True},
            "cancel": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run(module, lambda node: wait(module, node))


if __name__ == "__main__":
    main()
