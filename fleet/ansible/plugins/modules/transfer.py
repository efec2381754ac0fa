#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Move a directory of state from node to node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: transfer
short_description: Offer a directory on one node, and pull or repair it on another
version_added: 0.1.0
description:
  - V(offer) on the source returns a ticket. V(pull) on the destination fetches what it offers.
  - The first destination that uses a ticket owns it. Set C(no_log) where a ticket is returned or
    passed on.
author: The holdfast authors (@holdfast)
extends_documentation_fragment:
  - holdfast.agent.node
  - holdfast.agent.node.wait
options:
  action:
    description: What to do, on the source (V(offer), V(revoke)) or on the destination.
    type: str
    required: true
    choices: [offer, pull, repair, revoke, forget, list]
  path:
    description: The directory, which must be below a root.
    type: path
  ticket:
    description: What V(offer) returned, with O(action=pull) and O(action=repair).
    type: dict
  id:
    description: Id of the offer to revoke, or of the transfer to forget.
    type: str
  include:
    description: With O(action=offer), patterns of files to offer.
    type: list
    elements: str
  exclude:
    description: With O(action=offer), patterns of files to leave out.
    type: list
    elements: str
  expires_seconds:
    description: With O(action=offer), seconds after which it ends.
    type: int
  other_filesystems:
    description: With O(action=offer), what to do about file systems that are mounted below.
    type: str
    choices: [refuse, include, leave_out]
  final:
    description:
      - With O(action=pull), make one pass with the datastore stopped on both ends, and complete the
        transfer. Nothing is fetched if it is complete already.
    type: bool
    default: false
  passes:
    description: With O(action=pull), make no more passes than this.
    type: int
  until_remaining:
    description: With O(action=pull), stop after a pass that fetched no more bytes than this.
    type: int
  proof:
    description: With O(action=pull), how every byte is proven.
    type: str
    choices: [wire, flushed, media]
  connections:
    description: With O(action=pull), data connections to begin with.
    type: int
  bytes_per_second:
    description: Limit of the rate.
    type: int
  even_if_open:
    description: Whether files may be open for writing. They may then not be what the writer has.
    type: bool
    default: false
  map_owners:
    description: With O(action=pull), whether owners are matched by name.
    type: bool
    default: false
  page_cache:
    description: With O(action=pull) and O(final=true), load what was in memory on the source.
    type: bool
    default: false
  overwrite_written:
    description: With O(action=repair), set back files that were written to since as well.
    type: bool
  partial:
    description:
      - Whether an outcome that names what is not carried over, such as sockets, fails the task.
    type: str
    choices: [fail, report]
    default: report
attributes:
  check_mode:
    description: Nothing is offered, fetched, revoked or forgotten.
    support: full
"""

EXAMPLES = r"""
- name: Offer the data of the old node
  holdfast.agent.transfer:
    action: offer
    path: /mnt/data/cassandra
  delegate_to: "{{ old_node }}"
  register: offered
  no_log: true

- name: Fetch them while the old node serves
  holdfast.agent.transfer:
    action: pull
    path: /mnt/data/cassandra
    ticket: "{{ offered.ticket }}"
  no_log: true
"""

RETURN = r"""
offer:
  description: The offer, without its ticket.
  returned: with O(action=offer)
  type: dict
ticket:
  description: The ticket. One node that has it can fetch the directory.
  returned: with O(action=offer)
  type: dict
operation:
  description: The operation, with its result once it has ended.
  returned: with O(action=pull) and O(action=repair)
  type: dict
complete:
  description: Whether the transfer into the directory is complete.
  returned: with O(action=pull)
  type: bool
transfers:
  description: Transfers into this node.
  returned: with O(action=list)
  type: list
  elements: dict
offers:
  description: Offers of this node.
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

OFFER = (
    *("path", "include", "exclude", "expires_seconds", "other_filesystems"),
    "bytes_per_second",
)
PULL = (
    *("ticket", "path", "final", "passes", "until_remaining", "proof", "connections"),
    *("bytes_per_second", "even_if_open", "map_owners", "page_cache"),
)
REPAIR = ("ticket", "path", "overwrite_written", "bytes_per_second", "even_if_open")


def act(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Do what is asked."""
    action = module.params["action"]
    if action == "list":
        return {
            "changed": False,
            "offers": node.get("/v1/transfers/offers")["offers"],
            "transfers": node.get("/v1/transfers")["transfers"],
        }
    if module.check_mode:
        return {"changed": True}
    if action in ("revoke", "forget"):
        kind = "transfers/offers" if action == "revoke" else "transfers"
        return {"changed": node.delete(f"/v1/{kind}/{module.params['id']}")}
    strict = module.params["partial"] == "fail"
    if action == "offer":
        body, key = chosen(module, OFFER), module.params["key"]
        answer = node.post("/v1/transfers/offers", body, key=key)
        return {"changed": answer.status != 200, **answer.document}
    if action == "repair":
        body = chosen(module, REPAIR)
        return started(module, node, "/v1/transfers/repairs", body, partial_fails=strict)
    return _pull(module, node, strict=strict)


def _pull(module: AnsibleModule, node: Node, *, strict: bool) -> dict[str, Any]:
    path = module.params["path"]
    if module.params["final"] and _complete(node, path):
        return {"changed": False, "complete": True}
    result = started(module, node, "/v1/transfers", chosen(module, PULL), partial_fails=strict)
    return {**result, "complete": _complete(node, path)}


def _complete(node: Node, path: str) -> bool:
    found = node.get("/v1/transfers")["transfers"]
    return any(each["path"] == path and each["complete"] for each in found)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **NODE_ARGUMENTS,
            **WAIT_ARGUMENTS,
            "action": {
                "type": "str",
                "required": True,
                "choices": ["offer", "pull", "repair", "revoke", "forget", "list"],
            },
            "path": {"type": "path"},
            "ticket": {"type": "dict", "no_log": True},
            "id": {"type": "str"},
            "include": {"type": "list", "elements": "str"},
            "exclude": {"type": "list", "elements": "str"},
            "expires_seconds": {"type": "int"},
            "other_filesystems": {"type": "str", "choices": ["refuse", "include", "leave_out"]},
            "final": {"type": "bool", "default": False},
            "passes": {"type": "int", "no_log": False},
            "until_remaining": {"type": "int"},
            "proof": {"type": "str", "choices": ["wire", "flushed", "media"]},
            "connections": {"type": "int"},
            "bytes_per_second": {"type": "int"},
            "even_if_open": {"type": "bool", "default": False},
            "map_owners": {"type": "bool", "default": False},
            "page_cache": {"type": "bool", "default": False},
            "overwrite_written": {"type": "bool"},
            "partial": {"type": "str", "choices": ["fail", "report"], "default": "report"},
        },
        required_if=[
            ("action", "offer", ("path",)),
            ("action", "pull", ("path", "ticket")),
            ("action", "repair", ("path", "ticket")),
            ("action", "revoke", ("id",)),
            ("action", "forget", ("id",)),
        ],
        supports_check_mode=True,
    )
    run(module, lambda node: act(module, node))


if __name__ == "__main__":
    main()
