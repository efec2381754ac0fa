#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a tuning profile."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tune
short_description: Apply a tuning profile, all of it or nothing
version_added: 0.1.0
description:
  - Plans the profile, and applies exactly that plan. If a write fails, everything is reverted, and
    the message names the setting.
  - In check mode the plan is made and nothing is written. In diff mode each setting is shown.
author: The holdfast authors (@holdfast)
extends_documentation_fragment: holdfast.agent.node
options:
  state:
    description:
      - V(applied) applies O(profile). V(rolled_back) restores what was before.
    type: str
    choices: [applied, rolled_back]
    default: applied
  profile:
    description: Name of the profile, such as V(cassandra).
    type: str
  persist:
    description: Whether to write the files that set the values at the next boot.
    type: bool
    default: false
  to:
    description:
      - With O(state=rolled_back), restore what was before the last apply, or before the first.
    type: str
    choices: [last, first]
    default: first
attributes:
  check_mode:
    description: Plans, and writes nothing.
    support: full
  diff_mode:
    description: Shows each setting that changes.
    support: full
"""

EXAMPLES = r"""
- name: Tune the node for Cassandra, also for the next boot
  holdfast.agent.tune:
    profile: cassandra
    persist: true

- name: Restore what was before holdfast
  holdfast.agent.tune:
    state: rolled_back
"""

RETURN = r"""
settings:
  description: The settings that change, each with what was observed and what is desired.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "vm.max_map_count", "observed": "65530", "desired": "1048575", "action": "set"}]
notes:
  description: What the plan notes, such as services that must be restarted.
  returned: with O(state=applied)
  type: list
  elements: str
needs:
  description: Settings that only count once files are opened again or a service is restarted.
  returned: success
  type: list
  elements: str
"""

from collections.abc import Iterable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.agent.plugins.module_utils.node import Node
from ansible_collections.holdfast.agent.plugins.module_utils.operations import describe, follow
from ansible_collections.holdfast.agent.plugins.module_utils.work import NODE_ARGUMENTS, run

_APPLY_SECONDS = 600.0
"""A daemon that takes longer than 20 seconds answers with the operation."""


def apply(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Apply the profile if its plan changes anything."""
    profile, persist = module.params["profile"], module.params["persist"]
    before = node.get("/v1/tuning")
    plan = node.post("/v1/tuning/plan", {"profile": profile, "persist": persist}).document
    rows = [row for row in plan["settings"] if row["action"] in ("set", "restore")]
    impossible = [row for row in plan["settings"] if row["action"] == "impossible"]
    if impossible:
        reasons = "; ".join(f"{_name(row)}: {row['note']}" for row in impossible)
        module.fail_json(msg=f"Profile {profile} cannot be applied: {reasons}", settings=impossible)
    in_force = before["profile"] == profile and before["persist"] == persist
    # A profile whose file has changed may change no value, and is in force only once it is applied.
    changed = bool(rows) or not in_force or before["profile_changed"]
    result = _result(module, rows, changed=changed, notes=plan["notes"])
    if changed and not module.check_mode:
        body = {"profile": profile, "persist": persist, "plan": plan["plan"]}
        _done(module, node, node.post("/v1/tuning/apply", body).document)
    return result


def roll_back(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Restore what was before, if there was anything."""
    state = node.get("/v1/tuning")
    if state["profile"] is None:
        return _result(module, [], changed=False)
    if module.check_mode:
        return _result(module, [], changed=True)
    document = _done(
        module, node, node.post("/v1/tuning/rollback", {"to": module.params["to"]}).document
    )
    return _result(module, document.get("settings") or [], changed=True)


def _done(module: AnsibleModule, node: Node, document: dict[str, Any]) -> dict[str, Any]:
    """Return what an apply or a rollback did, once it is over."""
    if "progress" not in document:
        return document
    seen = follow(node, document["id"], _APPLY_SECONDS)
    operation = seen.operation or document
    if not seen.ended or operation["state"] != "succeeded":
        module.fail_json(msg=describe(operation), operation=operation)
    return operation.get("result") or {}


def _result(
    module: AnsibleModule, rows: list[Any], *, changed: bool, notes: Iterable[str] = ()
) -> dict[str, Any]:
    result = {
        "changed": changed,
        "settings": rows,
        "notes": list(notes),
        "needs": [f"{_name(row)}: {row['needs']}" for row in rows if row["needs"]],
    }
    if module._diff:
        result["diff"] = {
            "before": _lines(
                rows, "observed" if module.params["state"] == "applied" else "desired"
            ),
            "after": _lines(rows, "desired" if module.params["state"] == "applied" else "observed"),
        }
    return result


def _lines(rows: list[Any], member: str) -> str:
    return "".join(f"{_name(row)} = {row[member]}\n" for row in rows)


def _name(row: dict[str, Any]) -> str:
    return " ".join(filter(None, (row["subsystem"], row["target"], row["name"])))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **NODE_ARGUMENTS,
            "state": {
                "type": "str",
                "choices": ["applied", "rolled_back"],
                "default": "applied",
            },
            "profile": {"type": "str"},
            "persist": {"type": "bool", "default": False},
            "to": {"type": "str", "choices": ["last", "first"], "default": "first"},
        },
        required_if=[("state", "applied", ("profile",))],
        supports_check_mode=True,
    )
    work = apply if module.params["state"] == "applied" else roll_back
    run(module, lambda node: work(module, node))


if __name__ == "__main__":
    main()
