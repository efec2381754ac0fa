#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action `reimage`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reimage
short_description: Re-image a node and follow it through both boots
version_added: 0.1.0
description:
  - Stages an image, arms and reboots the node, follows the operation through the boot of the imager
    and that of the new system, and returns once the new system is confirmed.
  - Runs on the controller, which connects anew until the node is back. A node that does not come
    back is C(failed), never C(unreachable), so that the limits of a play on failures count it.
  - Each step names the operation that is meant, and has an idempotency key made of O(key). The same
    task with the same key continues where the node is, also by another controller.
  - While it waits, the node is asked once in O(poll_seconds).
author: The holdfast authors (@holdfast)
extends_documentation_fragment:
  - holdfast.agent.node
  - holdfast.agent.node.stage
options:
  operation:
    description:
      - Id of an operation that staged the image before, in place of O(descriptor).
    type: str
  key:
    description:
      - Names this attempt, with 1 to 200 characters, such as C(roll-17.node-1).
      - Made for each run of the task if it is not set. Then the task cannot be continued.
    type: str
  retry_failed:
    description:
      - Whether an attempt of O(key) that had failed before this task began is followed by another
        one, with a key made of it. Two controllers make the same one.
    type: bool
    default: true
  confirm:
    description:
      - With V(auto) the node confirms itself, once its checks passed.
      - With V(reached) the controller confirms it, once the checks passed and it was reached over
        this connection.
      - With V(leave) it is left for a person to confirm, and the task returns once checks passed.
    type: str
    choices: [auto, reached, leave]
    default: auto
  force:
    description: Whether to reboot although window, lock, command or inhibitors say no.
    type: bool
    default: false
  timeout:
    description: Seconds until a node that is not confirmed counts as failed.
    type: float
    default: 3600
  held_seconds:
    description:
      - Seconds for which an order to reboot that window, lock or inhibitors hold back is repeated.
        What the operator's command refuses is not repeated.
    type: float
    default: 1800
  connect_seconds:
    description: Seconds for which a connection is tried again before the order to reboot.
    type: float
    default: 60
  poll_seconds:
    description: Seconds between two questions to a node that is followed.
    type: float
    default: 30
  changed_host_key:
    description:
      - What to do if the new system shows another host key. The identity V(ssh) carries the keys
        over.
      - V(fail) fails at once, instead of waiting for a node that SSH refuses to talk to.
      - V(expected) replaces the known keys by O(host_keys).
      - V(accept) trusts the key that the node shows then. Anyone in between can show another one.
    type: str
    choices: [fail, expected, accept]
    default: fail
  host_keys:
    description: Public keys of the new system, each as C(TYPE BASE64).
    type: list
    elements: str
    default: []
  known_hosts:
    description: File with the known keys, on the controller.
    type: path
    default: ~/.ssh/known_hosts
attributes:
  action:
    description: Has a plugin on the controller.
    support: full
  async:
    description: The controller has to stay connected.
    support: none
  check_mode:
    description: The node plans the re-imaging, and the task fails if anything is in the way.
    support: full
"""

EXAMPLES = r"""
- name: Become the new image
  holdfast.agent.reimage:
    descriptor: https://images.example/web.json
    descriptor_sha256: "{{ image_sha256 }}"
    manifest: latest
    key: "roll-17.{{ inventory_hostname }}"

- name: Use what was staged hours before, and confirm from here
  holdfast.agent.reimage:
    operation: "{{ staged.operation.id }}"
    key: "roll-17.{{ inventory_hostname }}"
    confirm: reached
"""

RETURN = r"""
operation:
  description: The operation as last seen.
  returned: if it was started
  type: dict
key:
  description: The key of the attempt.
  returned: always
  type: str
current:
  description: Whether the node ran the image already, so that nothing was done.
  returned: success
  type: bool
phases:
  description: The phases that were seen, in order. V(away) is a node that does not answer.
  returned: always
  type: list
  elements: str
  sample: [staged, armed, away, booted, confirmed]
reason:
  description:
    - Why it failed. V(refused) is a step that the node refused. V(failed) is a node that runs the
      old system. V(unconfirmed) is one that runs the new system and did not pass its checks, or of
      which nothing proves which system runs.
    - V(lost) is a node of which the outcome is not known, V(unfinished) one that needs longer,
      V(disarmed) one that another caller disarmed, V(unreachable) one that could not be connected
      before it was ordered to reboot, and V(host_key) one that shows another host key.
  returned: on failure
  type: str
reimage:
  description:
    - The state of the node, as C(GET /v1/reimage) has it. Null if it did not answer any more.
  returned: success
  type: dict
"""
