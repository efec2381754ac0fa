"""The node's own id, which stays with its data: in the state directory on the data volume.

It outlives what else a machine is known by: machine-id and host name change with the image,
instance and addresses with the hardware. A new volume is a new node.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from holdfast.storage.atomic_files import replace_file

FILE_NAME = "node-id"
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES = 64


class NodeIdError(Exception):
    """The id cannot be read or made; the message is a sentence."""


def read_node_id(state_dir: Path) -> str:
    """Return the id, 32 hexadecimal digits; make it where there is none yet.

    What is there and is no id is left alone: whose it was is not known. Raises `NodeIdError`.
    """
    file = state_dir / FILE_NAME
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return _make(file)
    except OSError as error:
        raise NodeIdError(f"The node's id cannot be read: {file}: {error.strerror}.") from error
    if not _ID.fullmatch(text):
        raise NodeIdError(
            f"{file} should have 32 hexadecimal digits and has something else: restore it, or "
            "remove it so that this becomes another node."
        )
    return text


def _make(file: Path) -> str:
    made = uuid.uuid4().hex
    try:
        replace_file(file, made.encode() + b"\n")
    except OSError as error:
        raise NodeIdError(f"The node's id cannot be kept: {file}: {error.strerror}.") from error
    return made
