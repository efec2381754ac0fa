#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage an image on a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reimage_stage
short_description: Fetch and verify an image on the node, without disturbing it
version_added: 0.1.0
description:
  - Starts the operation C(reimage), and waits until the image is staged. The node keeps running.
  - In check mode the node plans the re-imaging instead. The task fails if anything is in the way.
  - Arm and reboot with M(holdfast.agent.reimage), which continues the operation.
author: The holdfast authors (@holdfast)
extends_documentation_fragment:
  - holdfast.agent.node
  - holdfast.agent.node.wait
  - holdfast.agent.node.stage
options:
  descriptor:
    required: true
  confirm:
    description:
      - With V(auto) the new system is confirmed once its checks passed. With V(manual) it waits for
        a call.
    type: str
    choices: [auto, manual]
attributes:
  check_mode:
    description: Plans, and changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Stage the image everywhere, hours before the roll
  holdfast.agent.reimage_stage:
    descriptor: https://images.example/web.json
    descriptor_sha256: "{{ image_sha256 }}"
    manifest: latest
    key: "roll-17.{{ inventory_hostname }}.stage"
  register: staged
"""

RETURN = r"""
operation:
  description: The operation, which continues until the new system is confirmed.
  returned: unless in check mode, or the node runs the image
  type: dict
  sample: {"id": "01M83VKATAZXB97BQKR2MA3A5B", "state": "running"}
created:
  description: Whether the call started the operation, rather than a call with the same key before.
  returned: with RV(operation)
  type: bool
plan:
  description: The document of C(POST /v1/reimage/plan).
  returned: in check mode
  type: dict
current:
  description: Whether the node runs the image already, confirmed.
  returned: success
  type: bool
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.agent.plugins.module_utils.node import FINAL, Node
from ansible_collections.holdfast.agent.plugins.module_utils.operations import describe, follow
from ansible_collections.holdfast.agent.plugins.module_utils.work import (
    NODE_ARGUMENTS,
    STAGE_ARGUMENTS,
    WAIT_ARGUMENTS,
    chosen,
    run,
)

MEMBERS = {
    **STAGE_ARGUMENTS,
    "descriptor": {"type": "str", "required": True},
    "confirm": {"type": "str", "choices": ["auto", "manual"]},
}
STAGED = ("staged", "armed", "rebooting", "booted")


def stage(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Stage the image, unless the node runs it."""
    body = chosen(module, MEMBERS)
    status = node.get("/v1/reimage")
    image = (status.get("image") or {}).get("descriptor_sha256")
    wanted = (module.params["descriptor_sha256"] or "").lower()
    if wanted and status["state"] == "confirmed" and image == wanted:
        return {"changed": False, "current": True, "state": "confirmed"}
    if module.check_mode:
        plan = node.post("/v1/reimage/plan", body).document
        if not plan["ok"]:
            reasons = " ".join(plan["blocked"])
            module.fail_json(msg=f"This node cannot be re-imaged: {reasons}", plan=plan)
        return {"changed": True, "current": False, "plan": plan}
    answer = node.post("/v1/reimage/stage", body, key=module.params["key"])
    created = answer.status != 200
    result = {
        "changed": created,
        "current": False,
        "created": created,
        "operation": answer.document,
    }
    if not module.params["wait"]:
        return result
    seen = follow(node, answer.document["id"], module.params["timeout"], STAGED)
    result["operation"] = operation = seen.operation or answer.document
    if operation["state"] in FINAL and operation["state"] != "succeeded":
        module.fail_json(msg=describe(operation), problem=operation.get("error") or {}, **result)
    if operation["state"] not in FINAL and operation["progress"]["phase"] not in STAGED:
        name = operation["id"]
        module.fail_json(msg=f"Operation {name} did not stage the image in time.", **result)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**NODE_ARGUMENTS, **WAIT_ARGUMENTS, **MEMBERS}, supports_check_mode=True
    )
    run(module, lambda node: stage(module, node))


if __name__ == "__main__":
    main()
