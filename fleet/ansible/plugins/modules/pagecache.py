#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dump, load and evict the page cache."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pagecache
short_description: Record what is in memory of the data, load it again, or drop it
version_added: 0.1.0
description:
  - A dump records which pages of files are resident. A load makes them resident again, after a boot
    or on another node.
author: The holdfast authors (@holdfast)
extends_documentation_fragment:
  - holdfast.agent.node
  - holdfast.agent.node.wait
options:
  action:
    description: What to do. V(show) walks the whole tree, and changes nothing.
    type: str
    required: true
    choices: [dump, load, evict, show]
  root:
    description: The root to record, or to load into.
    type: path
  path:
    description: A directory below a root, to record or to show.
    type: path
  on_denied:
    description: With O(action=dump), what to do about files whose residency may not be probed.
    type: str
    choices: [fail, skip]
  dump:
    description: With O(action=load), the id of the dump.
    type: str
    default: latest
  policy:
    description: With O(action=load), what to do with files that have changed since.
    type: str
    choices: [strict, clamp, any]
  budget_bytes:
    description: With O(action=load), load no more than this.
    type: int
  reserve_bytes:
    description: With O(action=load), memory to leave free.
    type: int
  bytes_per_second:
    description: With O(action=load), limit of the rate.
    type: int
  min_recall:
    description:
      - With O(action=load), the least share of the pages that must be resident at the end, from 0
        to 1, or the task fails.
    type: float
    default: 0
  paths:
    description: With O(action=evict), the files and directories.
    type: list
    elements: path
attributes:
  check_mode:
    description: Nothing is recorded, loaded or dropped.
    support: full
"""

EXAMPLES = r"""
- name: Record what is in memory
  holdfast.agent.pagecache:
    action: dump

- name: Load it again, nine tenths of it at least
  holdfast.agent.pagecache:
    action: load
    min_recall: 0.9
"""

RETURN = r"""
operation:
  description: The operation, with its result once it has ended.
  returned: if one was started
  type: dict
recall:
  description: The share of the pages of the dump that is resident.
  returned: with O(action=load), once it has ended
  type: float
pagecache:
  description: What is resident.
  returned: with O(action=show)
  type: dict
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

LOAD = ("dump", "root", "policy", "budget_bytes", "reserve_bytes", "bytes_per_second")
PATHS = {"dump": "dumps", "load": "loads", "evict": "evictions"}
MEMBERS = {"dump": ("root", "path", "on_denied"), "load": LOAD, "evict": ("paths",)}


def act(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Do what is asked."""
    action = module.params["action"]
    if action == "show":
        query = chosen(module, ("path",))
        return {"changed": False, "pagecache": node.get("/v1/pagecache", query)}
    if module.check_mode:
        return {"changed": True}
    path, body = f"/v1/pagecache/{PATHS[action]}", chosen(module, MEMBERS[action])
    result = started(module, node, path, body)
    outcome = result["operation"].get("result")
    if action == "load" and outcome:
        result["recall"] = recall = outcome.get("recall")
        least = module.params["min_recall"]
        # Without a page that could be loaded there is no share of them.
        if recall is not None and recall < least:
            module.fail_json(
                msg=f"{recall:.0%} of the pages are resident, and {least:.0%} were asked for.",
                **result,
            )
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **NODE_ARGUMENTS,
            **WAIT_ARGUMENTS,
            "action": {
                "type": "str",
                "required": True,
                "choices": ["dump", "load", "evict", "show"],
            },
            "root": {"type": "path"},
            "path": {"type": "path"},
            "on_denied": {"type": "str", "choices": ["fail", "skip"]},
            "dump": {"type": "str", "default": "latest"},
            "policy": {"type": "str", "choices": ["strict", "clamp", "any"]},
            "budget_bytes": {"type": "int"},
            "reserve_bytes": {"type": "int"},
            "bytes_per_second": {"type": "int"},
            "min_recall": {"type": "float", "default": 0.0},
            "paths": {"type": "list", "elements": "path"},
        },
        required_if=[("action", "evict", ("paths",))],
        supports_check_mode=True,
    )
    run(module, lambda node: act(module, node))


if __name__ == "__main__":
    main()
