"""What is tried of an image on this machine, and what is not."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.approval import Approved
from holdfast.privileged.boot.models import ArmRequest
from holdfast.privileged.boot.payload.identity import Identity
from holdfast.privileged.trial.features import features_row
from holdfast.privileged.trial.kept import KeptTrials, before_trial, key_of, lasts
from holdfast.privileged.trial.models import TrialRow
from holdfast.privileged.trial.untried import untried_rows
from holdfast.privileged.trial.worker import SILENT_SECONDS, SOCKET, run_trial
from holdfast.storage import space

_PUBLIC = frozenset({"/etc/hostname"})
"""Files whose content a trial depends on; of all others only the size is revealed."""


def try_image(
    machine: MachineFiles,
    imager: Path,
    request: ArmRequest,
    approved: Approved,
    identity: Identity,
    *,
    floor: str,
    target_bytes: int | None,
    seconds: float | None = None,
    silent_seconds: float = SILENT_SECONDS,
    kept: KeptTrials | None = None,
) -> list[TrialRow]:
    """Mount a copy of a staged image's root, and carry identity into that.

    Of an image that the imager fetches, only its descriptor is judged. `floor` is the
    setting of the space that stays free, and `kept` has outcomes of earlier trials. Raises
    `OSError` where the volume cannot be inspected.
    """
    if request.source.kind != "staged":
        return untried_rows(json.loads(approved.content), machine.kernel, "network", machine.sys)
    image = machine.path(request.source.path)
    space.keep_free(floor)
    document = {
        "descriptor": approved.content.decode(),
        "image": str(image),
        "scratch": str(image.parent),
        "floor_bytes": space.floor_of(image.parent),
        "identity": _without_secrets(identity),
        "grow_to_bytes": target_bytes if request.grow_root else None,
    }
    key = None if kept is None else key_of(machine, imager, document)
    if kept is not None and key is not None:
        known = kept.find(key, image)
        if known is not None:
            return known
    file = before_trial(image)
    rows = run_trial(
        imager,
        machine.path(SOCKET),
        json.dumps(document).encode(),
        seconds=seconds,
        silent_seconds=silent_seconds,
    )
    if kept is not None and key is not None and file is not None and lasts(rows, file, image):
        kept.keep(key, file, rows)
    if any(row.check == "mount" and row.outcome != "not_tried" for row in rows):
        return rows
    judged = features_row(json.loads(approved.content), machine.kernel, machine.sys, decides=False)
    return rows if judged is None else [judged, *rows]


def _without_secrets(identity: Identity) -> dict[str, Any]:
    """Return identity.json with other bytes, as many, in place of keys and tokens."""
    document = identity.document()
    files = []
    for file in document["files"]:
        content = file["content"]
        if file["path"] not in _PUBLIC:
            content = base64.b64encode(bytes(len(base64.b64decode(content)))).decode()
        files.append({**file, "content": content})
    return {**document, "files": files}
