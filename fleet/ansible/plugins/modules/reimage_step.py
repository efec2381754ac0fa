#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take one step of a re-imaging."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reimage_step
short_description: Arm, disarm, reboot, confirm or roll back one attempt at re-imaging
version_added: 0.1.0
description:
  - Takes one step of an attempt that was staged. M(holdfast.agent.reimage) takes all of them and
    follows the node through both boots. This module is for playbooks that take them one by one.
author: The holdfast authors (@holdfast)
extends_documentation_fragment: holdfast.agent.node
options:
  step:
    description:
      - V(arm) has the next boot, and only that one, write the image. V(disarm) reverts that.
      - V(reboot) reboots an armed node, once its window, the lock of the fleet, the operator's
        command and inhibitors agree.
      - V(confirm) accepts the new system. V(rollback) stages the system that was kept.
      - V(forget) deletes the system that was kept.
    type: str
    required: true
    choices: [arm, disarm, reboot, confirm, rollback, forget]
  operation:
    description:
      - Id of the operation that is meant. The step is refused if another caller has staged since.
    type: str
  key:
    description: Idempotency key of the step, which is taken once for a key, also across boots.
    type: str
  force:
    description: With O(step=reboot), ask window, lock, command and inhibitors, and heed none.
    type: bool
    default: false
  override:
    description: With O(step=confirm), accept a system of which a check failed.
    type: bool
    default: false
  manifest:
    description: With O(step=rollback), the manifest that is verified afterwards.
    type: str
  allow_unprotected:
    description:
      - With O(step=rollback), write the disk without a lifeboat. A kept system is as large as the
        disk, so that there is never a place for one.
    type: bool
    default: false
  timeout:
    description: Seconds that the step may take. The gates before a reboot may take long.
    type: float
    default: 3600
attributes:
  check_mode:
    description: Arm and reboot are rehearsed by the node; other steps do nothing.
    support: full
"""

EXAMPLES = r"""
- name: Arm what was staged
  holdfast.agent.reimage_step:
    step: arm
    operation: "{{ staged.operation.id }}"

- name: Confirm a system that a person has inspected
  holdfast.agent.reimage_step:
    step: confirm
    override: true
"""

RETURN = r"""
reimage:
  description: The state that the step led to, as C(GET /v1/reimage) has it.
  returned: if the step is answered by it
  type: dict
  sample: {"state": "armed", "operation": "01M83VKATAZXB97BQKR2MA3A5B"}
operation:
  description: The operation that the step started. A rollback does, and so does a new check.
  returned: if there is one
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.agent.plugins.module_utils.node import Node
from ansible_collections.holdfast.agent.plugins.module_utils.work import NODE_ARGUMENTS, run

LEADS_TO = {
    "arm": "armed",
    "disarm": "staged",
    "reboot": "rebooting",
    "confirm": "confirmed",
}


def take(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Take the step."""
    step = module.params["step"]
    if step == "forget":
        return _forget(module, node)
    before = node.get("/v1/reimage")["state"]
    body = {"operation": module.params["operation"]}
    if step == "reboot" and module.params["force"]:
        body["force"] = True
    if step == "confirm" and module.params["override"]:
        body["override"] = True
    if step == "rollback":
        body["manifest"] = module.params["manifest"]
        body["allow_unprotected"] = module.params["allow_unprotected"]
    if module.check_mode:
        if step not in ("arm", "reboot"):
            return {"changed": LEADS_TO.get(step) != before}
        if step == "reboot" and before != "armed":
            return {"changed": True}
        body["dry_run"] = True
    answer = node.post(
        f"/v1/reimage/{step}",
        body,
        key=module.params["key"],
        read_seconds=module.params["timeout"],
    )
    document = answer.document
    if "progress" in document:
        return {"changed": answer.status == 202, "operation": document}
    return {"changed": before != LEADS_TO[step], "reimage": document}


def _forget(module: AnsibleModule, node: Node) -> dict[str, Any]:
    if node.get("/v1/reimage").get("previous") is None:
        return {"changed": False}
    if not module.check_mode:
        node.delete("/v1/reimage/previous")
    return {"changed": True}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **NODE_ARGUMENTS,
            "step": {
                "type": "str",
                "required": True,
                "choices": [*LEADS_TO, "rollback", "forget"],
            },
            "operation": {"type": "str"},
            "key": {"type": "str", "no_log": False},
            "force": {"type": "bool", "default": False},
            "override": {"type": "bool", "default": False},
            "manifest": {"type": "str"},
            "allow_unprotected": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 3600.0},
        },
        supports_check_mode=True,
    )
    run(module, lambda node: take(module, node))


if __name__ == "__main__":
    main()
