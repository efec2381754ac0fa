#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show what a node is and whether it can work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: Show what a node is, what its daemon can do, and whether it is ready
version_added: 0.1.0
description:
  - Returns identity, zone, memory, roots and disks of a node that runs holdfast.
author: The holdfast authors (@holdfast)
extends_documentation_fragment: holdfast.agent.node
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Inspect the node
  holdfast.agent.node_info:
  register: inspected

- name: Show its zone
  ansible.builtin.debug:
    msg: "{{ inspected.node.instance.zone }}"
"""

RETURN = r"""
node:
  description: The document of C(GET /v1/node).
  returned: success
  type: dict
  sample: {"node_id": "01M83VKATAZXB97BQKR2MA3A5B", "cluster": "orders", "group": "default"}
version:
  description: The document of C(GET /v1/version).
  returned: success
  type: dict
  sample: {"version": "0.1.0", "api_level": 1, "features": ["idempotency-key"]}
ready:
  description: Whether the daemon can do its work.
  returned: success
  type: bool
zone:
  description:
    - Availability zone, as the metadata service of EC2 reports it. Empty elsewhere.
  returned: success
  type: str
reasons:
  description: Why the daemon is not ready.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.agent.plugins.module_utils.node import Node, NodeError
from ansible_collections.holdfast.agent.plugins.module_utils.work import NODE_ARGUMENTS, run


def inspect(node: Node) -> dict[str, Any]:
    """Return what the daemon reports of its node."""
    report = node.get("/v1/node")
    reasons: list[str] = []
    try:
        node.get("/readyz")
    except NodeError as error:
        if error.away:
            raise
        reasons = error.problem.get("reasons") or [str(error)]
    return {
        "changed": False,
        "node": report,
        "zone": (report.get("instance") or {}).get("zone") or "",
        "version": node.get("/v1/version"),
        "ready": not reasons,
        "reasons": reasons,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=dict(NODE_ARGUMENTS), supports_check_mode=True)
    run(module, inspect)


if __name__ == "__main__":
    main()
