# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of this collection share: arguments, failures, operations to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.agent.plugins.module_utils.node import SOCKET, Node, NodeError
from ansible_collections.holdfast.agent.plugins.module_utils.operations import describe, follow

NODE_ARGUMENTS: dict[str, Any] = {
    "socket": {"type": "path", "default": SOCKET},
    "call_timeout": {"type": "float", "default": 60.0},
}
WAIT_ARGUMENTS: dict[str, Any] = {
    "wait": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 3600.0},
    "key": {"type": "str", "no_log": False},
}
STAGE_ARGUMENTS: dict[str, Any] = {
    "descriptor": {"type": "str"},
    "descriptor_sha256": {"type": "str"},
    "signature": {"type": "str"},
    "content": {"type": "str"},
    "mirrors": {"type": "list", "elements": "str"},
    "mode": {"type": "str", "choices": ["staged", "network"]},
    "identity": {"type": "list", "elements": "str"},
    "manifest": {"type": "str"},
    "sample_percent": {"type": "float"},
    "grow_root": {"type": "bool"},
    "save_previous": {"type": "bool"},
    "allow_unprotected": {"type": "bool"},
    "rollback": {"type": "str", "choices": ["never", "automatic"]},
    "confirm_seconds": {"type": "int"},
}
"""What an image is staged with, but for who confirms it."""


def run(module: AnsibleModule, work: Callable[[Node], Mapping[str, Any]]) -> None:
    """Do the work of a module and end it; what a node refuses becomes one sentence."""
    node = Node(module.params["socket"], module.params["call_timeout"])
    try:
        result = dict(work(node))
    except NodeError as error:
        module.fail_json(msg=str(error), **error.facts())
    else:
        module.exit_json(**result)


def chosen(module: AnsibleModule, names: Iterable[str]) -> dict[str, Any]:
    """Return the parameters of these names that were set."""
    return {name: module.params[name] for name in names if module.params.get(name) is not None}


def started(
    module: AnsibleModule,
    node: Node,
    path: str,
    body: Mapping[str, Any],
    *,
    partial_fails: bool = False,
    differs_fails: bool = True,
) -> dict[str, Any]:
    """Start an operation and, unless `wait` is false, return how it ended; end a module that fails.

    A call whose key was used before returns the operation of then, and `changed` is false.
    """
    answer = node.post(path, body, key=module.params["key"])
    operation: Mapping[str, Any] = answer.document
    result: dict[str, Any] = {"changed": answer.status != 200, "operation": operation}
    if not module.params["wait"]:
        return result
    seen = follow(node, operation["id"], module.params["timeout"])
    result["operation"] = seen.operation or operation
    operation = result["operation"]
    name = f"{operation['kind']} {operation['id']}"
    if not seen.ended:
        state = f"is {operation['state']}" if seen.away is None else f"is not known: {seen.away}"
        module.fail_json(msg=f"{name} did not end in time; its state {state}.", **result)
    if operation["state"] != "succeeded":
        module.fail_json(msg=describe(operation), problem=operation.get("error") or {}, **result)
    outcome = operation.get("outcome")
    if (outcome == "differs" and differs_fails) or (outcome == "partial" and partial_fails):
        module.fail_json(msg=describe(operation), **result)
    if outcome not in (None, "ok"):
        module.warn(f"{describe(operation)} The result names what differs or was left out.")
    return result
