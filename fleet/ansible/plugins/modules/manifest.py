#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build, verify and compare manifests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: manifest
short_description: Record every file with its digest, and verify or compare what was recorded
version_added: 0.1.0
description:
  - Builds, verifies, compares, lists or deletes manifests of a node.
  - A verification or comparison that finds differences fails the task, unless
    O(differences=report).
author: The holdfast authors (@holdfast)
extends_documentation_fragment:
  - holdfast.agent.node
  - holdfast.agent.node.wait
options:
  action:
    description: What to do.
    type: str
    required: true
    choices: [build, verify, compare, list, delete]
  root:
    description: With O(action=build), the root, where the node has several.
    type: path
  path:
    description:
      - With O(action=build), the directory to record. With O(action=verify), where its files are
        now.
    type: path
  include:
    description: Patterns of files to record.
    type: list
    elements: str
  exclude:
    description: Patterns of files to leave out.
    type: list
    elements: str
  algorithm:
    description: Only V(blake3) is cryptographic.
    type: str
    choices: [xxh64, xxh3_128, blake3]
  full:
    description: Whether files that have not changed since an earlier manifest are read again.
    type: bool
  bytes_per_second:
    description: Limit of the rate.
    type: int
  manifest:
    description: With O(action=verify) and O(action=delete), the id of the manifest.
    type: str
    default: latest
  sample_percent:
    description: With O(action=verify), the share of chunks to read.
    type: float
  left:
    description: With O(action=compare), the id of one manifest.
    type: str
  right:
    description: With O(action=compare), the id of the other.
    type: str
  differences:
    description: Whether differences fail the task, or are reported only.
    type: str
    choices: [fail, report]
    default: fail
attributes:
  check_mode:
    description: Nothing is built, verified or deleted.
    support: full
"""

EXAMPLES = r"""
- name: Record the data before the node is re-imaged
  holdfast.agent.manifest:
    action: build
    path: /mnt/data/cassandra
  register: before

- name: Verify a tenth of it
  holdfast.agent.manifest:
    action: verify
    manifest: "{{ before.operation.result.manifest }}"
    sample_percent: 10
"""

RETURN = r"""
operation:
  description: The operation, with its result once it has ended.
  returned: if one was started
  type: dict
manifests:
  description: The manifests of the node, newest first.
  returned: with O(action=list)
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.agent.plugins.module_utils.node import Node
from ansible_collections.holdfast.agent.plugins.module_utils.work import (
    NODE_ARGUMENTS,
    WAIT_ARGUMENTS,
    chosen,
    run,
    started,
)

BUILD = ("root", "path", "include", "exclude", "algorithm", "full", "bytes_per_second")


def act(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Do what is asked."""
    action, manifest = module.params["action"], module.params["manifest"]
    if action == "list":
        return {"changed": False, "manifests": node.get("/v1/manifests")["manifests"]}
    if module.check_mode:
        return {"changed": action in ("build", "delete")}
    if action == "delete":
        return {"changed": node.delete(f"/v1/manifests/{manifest}")}
    if action == "build":
        return started(module, node, "/v1/manifests", chosen(module, BUILD))
    if action == "verify":
        path = f"/v1/manifests/{manifest}/verifications"
        body = chosen(module, ("path", "sample_percent", "bytes_per_second"))
    else:
        path = "/v1/manifests/comparisons"
        body = chosen(module, ("left", "right"))
    strict = module.params["differences"] == "fail"
    # Reading changes nothing.
    return {**started(module, node, path, body, differs_fails=strict), "changed": False}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **NODE_ARGUMENTS,
            **WAIT_ARGUMENTS,
            "action": {
                "type": "str",
                "required": True,
                "choices": ["build", "verify", "compare", "list", "delete"],
            },
            "root": {"type": "path"},
            "path": {"type": "path"},
            "include": {"type": "list", "elements": "str"},
            "exclude": {"type": "list", "elements": "str"},
            "algorithm": {"type": "str", "choices": ["xxh64", "xxh3_128", "blake3"]},
            "full": {"type": "bool"},
            "bytes_per_second": {"type": "int"},
            "manifest": {"type": "str", "default": "latest"},
            "sample_percent": {"type": "float"},
            "left": {"type": "str"},
            "right": {"type": "str"},
            "differences": {"type": "str", "choices": ["fail", "report"], "default": "fail"},
        },
        required_if=[("action", "compare", ("left", "right"))],
        supports_check_mode=True,
    )
    run(module, lambda node: act(module, node))


if __name__ == "__main__":
    main()
