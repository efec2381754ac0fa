# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that the modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of every module that calls a daemon, of those that wait, and of a new image."""

    DOCUMENTATION = r"""
options:
  socket:
    description:
      - Unix socket of the daemon, on the node.
      - A process that may open it may do everything. Root may, and members of the group
        C(holdfast).
    type: path
    default: /run/holdfast/holdfast.sock
  call_timeout:
    description:
      - Seconds for which a call is repeated while the daemon does not answer or is busy.
    type: float
    default: 60
notes:
  - Runs on the node with Python's standard library alone, 3.9 or later.
  - A POST has one idempotency key, made before its first attempt. A retry does nothing twice.
"""

    WAIT = r"""
options:
  wait:
    description:
      - Whether to wait until the operation ends.
      - If C(false), the operation is returned as it was accepted. Follow it with
        M(holdfast.agent.operation_wait).
    type: bool
    default: true
  timeout:
    description:
      - Seconds to wait for the end. The operation itself continues after them.
    type: float
    default: 3600
  key:
    description:
      - Idempotency key of the call, for callers that repeat the whole task.
      - The same call with the same key returns the operation of then, with C(changed=false).
      - Made for each run of the task if it is not set.
    type: str
"""

    STAGE = r"""
options:
  descriptor:
    description:
      - URL of the descriptor of the image, as C(holdfast image describe) writes it.
    type: str
  descriptor_sha256:
    description:
      - SHA-256 of the descriptor. Needed unless the node trusts a key that signed the image.
      - A node that already runs this image is left alone if it is set.
    type: str
  signature:
    description: URL of the signature, if it is not beside the descriptor.
    type: str
  content:
    description: URL of the image, if it is not beside the descriptor.
    type: str
  mirrors:
    description: Other URLs of the image, asked in this order when O(content) cannot be read.
    type: list
    elements: str
  mode:
    description:
      - With V(staged) the image is copied to the data volume first. With V(network) the imager
        fetches it.
    type: str
    choices: [staged, network]
  identity:
    description:
      - What is carried over into the new system, such as V(hostname) and V(ssh). The node's default
        if it is not set.
    type: list
    elements: str
  manifest:
    description: Manifest that is verified in the new system, by its id, or V(latest).
    type: str
  sample_percent:
    description: Share of the chunks of the manifest that is verified.
    type: float
  grow_root:
    description: Whether the root file system is extended to the end of the disk.
    type: bool
  save_previous:
    description: Whether the old system is kept on the data volume, to go back to.
    type: bool
  allow_unprotected:
    description:
      - Whether the disk may be written without a place for a lifeboat, as an image leaves none that
        is as large as the disk. A power cut during the write then leaves a disk that does not boot.
    type: bool
  rollback:
    description: Whether a system that is not confirmed in time is replaced by the old one.
    type: str
    choices: [never, automatic]
  confirm_seconds:
    description: Seconds after which an automatic rollback begins.
    type: int
"""
