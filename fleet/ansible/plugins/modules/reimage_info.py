#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show how far a re-imaging is."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reimage_info
short_description: Show how far a re-imaging of the node is, and what is in the way
version_added: 0.1.0
description:
  - Returns the state of the attempt, the disks of the machine and what becomes of them, checks,
    gates and history.
author: The holdfast authors (@holdfast)
extends_documentation_fragment: holdfast.agent.node
"""

EXAMPLES = r"""
- name: Ask for the state
  holdfast.agent.reimage_info:
  register: attempt

- name: Stop unless the node is confirmed
  ansible.builtin.assert:
    that: attempt.reimage.state in ['idle', 'confirmed']
    fail_msg: "{{ attempt.reimage.reason }}"
"""

RETURN = r"""
reimage:
  description: The document of C(GET /v1/reimage).
  returned: success
  type: dict
  sample: {"state": "confirmed", "reason": "All checks passed.", "image": {"name": "web"}}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.agent.plugins.module_utils.work import NODE_ARGUMENTS, run


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=dict(NODE_ARGUMENTS), supports_check_mode=True)
    run(module, lambda node: {"changed": False, "reimage": node.get("/v1/reimage")})


if __name__ == "__main__":
    main()
