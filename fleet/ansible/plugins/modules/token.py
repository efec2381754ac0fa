#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make and revoke bearer tokens."""

from __future__ import annotations

DOCUMENTATION = r"""
module: token
short_description: Make and revoke the bearer tokens that the daemon asks for over TCP
version_added: 0.1.0
description:
  - Runs C(holdfast token) on the node, which works on the file of hashed tokens.
  - A token is returned once, when it is made. Set C(no_log) on the task.
author: The holdfast authors (@holdfast)
options:
  name:
    description: Name of the user or program that has the token.
    type: str
    required: true
  state:
    description: Whether there is to be a token of this name.
    type: str
    choices: [present, absent]
    default: present
  scope:
    description: What the bearer may do. Each scope includes those before it.
    type: str
    choices: [read, operate, admin]
    default: read
  expires:
    description: When a new token expires, such as V(90d) or V(2027-01-31).
    type: str
  output:
    description:
      - Write a new token to this file on the node, readable by its owner only, instead of returning
        it.
    type: path
  tokens_file:
    description: The daemon's file of hashed tokens, if it is not as configured.
    type: path
  command:
    description: The program to run.
    type: path
    default: /usr/bin/holdfast
notes:
  - A token that is there with another scope, or has expired, is revoked and made anew.
attributes:
  check_mode:
    description: Reports what would be done.
    support: full
"""

EXAMPLES = r"""
- name: Make a token for Prometheus
  holdfast.agent.token:
    name: prometheus
    output: /etc/prometheus/holdfast-token
  no_log: true

- name: Revoke the one of a controller that is gone
  holdfast.agent.token:
    name: old-controller
    state: absent
"""

RETURN = r"""
token:
  description: The token.
  returned: if one was made, and O(output) is not set
  type: str
"""

import json
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class Tokens:
    """The command line of the node."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run a command, and return what it prints as JSON."""
        command = [self._module.params["command"], "token", *arguments, "--json"]
        if self._module.params["tokens_file"] is not None:
            command += ["--tokens-file", self._module.params["tokens_file"]]
        code, printed, wrong = self._module.run_command(command)
        if code != 0:
            lines = wrong.strip().splitlines() or [f"{' '.join(command)} ended with {code}."]
            self._module.fail_json(msg=lines[-1], rc=code)
        return json.loads(printed)


def expired(token: dict[str, Any]) -> bool:
    """Return whether a token has expired."""
    until = token.get("expires_at")
    if until is None:
        return False
    return datetime.fromisoformat(until.replace("Z", "+00:00")) <= datetime.now(timezone.utc)


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Make or revoke the token, where it is not as asked for."""
    tokens, name = Tokens(module), module.params["name"]
    present = [each for each in tokens.run("list")["tokens"] if each["name"] == name]
    if module.params["state"] == "absent":
        if present and not module.check_mode:
            tokens.run("revoke", name)
        return {"changed": bool(present)}
    scope = module.params["scope"]
    if present and present[0]["scope"] == scope and not expired(present[0]):
        return {"changed": False}
    if module.check_mode:
        return {"changed": True}
    if present:
        tokens.run("revoke", name)
    arguments = ["create", name, "--scope", scope]
    for option in ("expires", "output"):
        if module.params[option] is not None:
            arguments += [f"--{option}", module.params[option]]
    made = tokens.run(*arguments)
    return {"changed": True, **({"token": made["token"]} if "token" in made else {})}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "scope": {"type": "str", "choices": ["read", "operate", "admin"], "default": "read"},
            "expires": {"type": "str"},
            "output": {"type": "path"},
            "tokens_file": {"type": "path", "no_log": False},
            "command": {"type": "path", "default": "/usr/bin/holdfast"},
        },
        supports_check_mode=True,
    )
    module.exit_json(**ensure(module))


if __name__ == "__main__":
    main()
