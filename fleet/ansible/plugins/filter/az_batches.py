# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Divide hosts into batches of which none spans two zones."""

from __future__ import annotations

DOCUMENTATION = r"""
name: az_batches
short_description: Divide hosts into batches that never span two zones
version_added: 0.1.0
author: The holdfast authors (@holdfast)
description:
  - Returns lists of hosts, to be disturbed one list after the other. All hosts of a list are in one
    zone, and all lists of a zone follow each other.
  - Zones, and hosts within a zone, are in the order of the input.
positional: _input
options:
  _input:
    description: The zone of each host, by its name.
    type: dict
    required: true
  per_az:
    description:
      - Hosts at a time, as a number, or as a share of those in the zone, such as V(25%). V(all) is
        the whole zone. A share is rounded down, to one host at least.
    type: raw
    default: 1
  canary:
    description:
      - Hosts that come first, in batches of their own. They are the first of the first zone.
    type: int
    default: 0
  max_parallel:
    description: Hosts at a time, however many there are in a zone.
    type: int
"""

EXAMPLES = r"""
- name: Show the batches
  ansible.builtin.debug:
    msg: "{{ zones | holdfast.agent.az_batches(per_az=2, canary=1) }}"
  vars:
    zones: {a1: eu-1a, b1: eu-1b, a2: eu-1a, a3: eu-1a, b2: eu-1b}
  # [[a1], [a2, a3], [b1, b2]]
"""

RETURN = r"""
_value:
  description: The batches.
  type: list
  elements: list
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def az_batches(
    zones: Mapping[str, Any],
    per_az: int | str = 1,
    canary: int = 0,
    max_parallel: int | str | None = None,
) -> list[list[str]]:
    """Return the batches. Raises `AnsibleFilterError` for what is no number or has no zone."""
    if not isinstance(zones, Mapping):
        raise AnsibleFilterError("az_batches needs a mapping of hosts to their zones.")
    canary = _number("canary", canary, least=0)
    # Jinja of ansible-core before 2.19 turns none into a text.
    most = None if max_parallel in (None, "") else _number("max_parallel", max_parallel, least=1)
    hosts: dict[str, list[str]] = {}
    for host, zone in zones.items():
        if not isinstance(zone, str) or not zone.strip():
            raise AnsibleFilterError(f"az_batches: the zone of {host} is not known.")
        hosts.setdefault(str(zone), []).append(str(host))
    sizes = {zone: _size(per_az, len(names), most) for zone, names in hosts.items()}
    batches: list[list[str]] = []
    for zone, names in hosts.items():
        first, rest = names[:canary], names[canary:]
        canary -= len(first)
        for part, size in ((first, min(sizes[zone], len(first)) or 1), (rest, sizes[zone])):
            batches += [part[at : at + size] for at in range(0, len(part), size)]
    return batches


def _size(per_az: Any, hosts: int, most: int | None) -> int:
    text = str(per_az).strip()
    if text == "all":
        size = hosts
    elif text.endswith("%"):
        share = _number("per_az", text[:-1], least=1)
        if share > 100:
            raise AnsibleFilterError(f"az_batches: per_az is at most 100%, not {per_az}.")
        size = max(1, hosts * share // 100)
    else:
        size = _number("per_az", per_az, least=1)
    return size if most is None else min(size, most)


def _number(name: str, value: Any, *, least: int) -> int:
    try:
        # A float, or true, would be a mistake that rounds to something.
        number = int(str(value).strip())
    except ValueError:
        raise AnsibleFilterError(f"az_batches: {name} is a number, not {value!r}.") from None
    if number < least:
        raise AnsibleFilterError(f"az_batches: {name} is at least {least}, not {number}.")
    return number


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by its name."""
        return {"az_batches": az_batches}
