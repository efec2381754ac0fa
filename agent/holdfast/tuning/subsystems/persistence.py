"""Files that bring settings back at boot, before holdfast runs; written if an apply asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.privileged import Write
from holdfast.privileged.config_files import path_of
from holdfast.privileged.writes import FileWrite
from holdfast.tuning.knobs import Knob, Observed
from holdfast.tuning.subsystems.plain import Plain

ABSENT = ""
PLACES = ("sysctl.d", "udev", "tmpfiles.d")


class Persistence(Plain):
    """The knobs' names are places, their values the content of the file; empty if there is none."""

    name = "persistence"

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Read each file."""
        found: dict[Knob, Observed] = {}
        for knob in knobs:
            try:
                found[knob] = Observed(path_of(knob.name).read_text(errors="replace"))
            except FileNotFoundError:
                found[knob] = Observed(ABSENT)
            except OSError as error:
                found[knob] = Observed(None, f"cannot be read: {error.strerror}")
        return found

    def canonical(self, knob: Knob, value: str) -> str:
        """Keep the content as it is."""
        del knob
        return value

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Write or remove the file."""
        del identity
        content = None if value == ABSENT else value
        return FileWrite.model_validate({"place": knob.name, "content": content})


def knob_of(place: str) -> Knob:
    """Name the knob of a place: its target is the file, for a person to read."""
    return Knob(Persistence.name, str(path_of(place)), place)
