"""Files that restore settings at boot, before holdfast runs; written if an apply asks for it.

The value of a knob is the file's content as data, in JSON: `privileged/rendering.py` makes text of
it, where it is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from holdfast.privileged import Write
from holdfast.privileged.config_files import path_of, read
from holdfast.privileged.rendering import ForeignFileError
from holdfast.privileged.writes import (
    OwnFileWrite,
    SysctlFileWrite,
    TmpfilesFileWrite,
    UdevFileWrite,
)
from holdfast.tuning.planning.knobs import Knob, Observed
from holdfast.tuning.subsystems.plain import Plain

ABSENT = ""
PLACES = ("sysctl.d", "udev", "tmpfiles.d")
_MODELS: Mapping[str, type[SysctlFileWrite] | type[UdevFileWrite] | type[TmpfilesFileWrite]] = {
    "sysctl.d": SysctlFileWrite,
    "udev": UdevFileWrite,
    "tmpfiles.d": TmpfilesFileWrite,
}
_NOTHING: Mapping[str, Mapping[str, list[str]]] = {
    "sysctl.d": {"settings": []},
    "udev": {"rules": []},
    "tmpfiles.d": {},
}


class Persistence(Plain):
    """The knobs' names are places, their values the content of the file; empty if there is none."""

    name = "persistence"

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Read each file."""
        found: dict[Knob, Observed] = {}
        for knob in knobs:
            try:
                content = read(knob.name)
            except ForeignFileError as error:
                found[knob] = Observed(None, foreign(error))
            except OSError as error:
                found[knob] = Observed(None, f"cannot be read: {error.strerror}")
            else:
                found[knob] = Observed(ABSENT if content is None else value_of(content))
        return found

    def canonical(self, knob: Knob, value: str) -> str:
        """Keep the content unchanged."""
        del knob
        return value

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Write or remove the file."""
        del identity
        if knob not in map(knob_of, PLACES):
            raise ValueError(f"{knob} is no file of holdfast's")
        if value == ABSENT:
            return _MODELS[knob.name].model_validate(_NOTHING[knob.name])
        return _MODELS[knob.name].model_validate_json(value)


def knob_of(place: str) -> Knob:
    """Name the knob of a place: its target is the file, for a person to read."""
    return Knob(Persistence.name, str(path_of(place)), place)


def value_of(content: OwnFileWrite) -> str:
    """Encode the content of a file as the value of its knob; `ABSENT` if it is empty."""
    data = content.model_dump(mode="json", exclude={"kind"})
    if not any(data[key] for key in data.keys() - {"profile"}):
        return ABSENT
    return json.dumps(data, separators=(",", ":"))


def summary_of(value: str) -> str:
    """Describe a file's value by its size and a digest."""
    if value == ABSENT:
        return "absent"
    data = json.loads(value)
    lines = sum(len(part) for part in data.values() if isinstance(part, list))
    digest = hashlib.sha256(value.encode()).hexdigest()[:8]
    return f"{lines} line{'s' if lines != 1 else ''} ({digest})"


def foreign(error: ForeignFileError) -> str:
    """Return why a file is left alone, as a clause."""
    return f"{error}, so it is not holdfast's own and is left unchanged; move it away"
