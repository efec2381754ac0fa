# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a mapping as TOML."""

from __future__ import annotations

DOCUMENTATION = r"""
name: to_toml
short_description: Write settings as TOML
version_added: 0.1.0
author: The holdfast authors (@holdfast)
description:
  - Writes what C(holdfast.toml) has. Tables, lists of tables, lists, texts, numbers and booleans.
  - A value that is null is left out.
positional: _input
options:
  _input:
    description: The settings.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the file
  ansible.builtin.debug:
    msg: "{{ {'roots': ['/mnt/data'], 'node': {'cluster': 'orders'}} | holdfast.agent.to_toml }}"
"""

RETURN = r"""
_value:
  description: The text.
  type: str
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def to_toml(settings: Mapping[str, Any]) -> str:
    """Return the text. Raises `AnsibleFilterError` for what TOML cannot have."""
    if not isinstance(settings, Mapping):
        raise AnsibleFilterError("to_toml needs a mapping.")
    return _table(settings, ())


def _table(settings: Mapping[str, Any], path: tuple[str, ...]) -> str:
    values, tables = "", ""
    for key, value in settings.items():
        inner = (*path, str(key))
        name = ".".join(_text(part) for part in inner)
        if value is None:
            continue
        if isinstance(value, Mapping):
            tables += f"\n[{name}]\n{_table(value, inner)}"
        elif _tables(value):
            tables += "".join(f"\n[[{name}]]\n{_table(each, inner)}" for each in value)
        else:
            values += f"{_text(str(key))} = {_value(value, name)}\n"
    return values + tables


def _tables(value: Any) -> bool:
    several = isinstance(value, (list, tuple)) and bool(value)
    return several and all(isinstance(each, Mapping) for each in value)


def _value(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value):
        return repr(float(value))
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(each, name) for each in value)}]"
    raise AnsibleFilterError(f"to_toml: {name} has a value that TOML does not have: {value!r}.")


def _text(text: str) -> str:
    # As JSON writes it, but for what TOML wants escaped besides.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by its name."""
        return {"to_toml": to_toml}
