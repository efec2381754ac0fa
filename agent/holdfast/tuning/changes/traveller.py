"""The profile's name beside the data: all that a re-imaging keeps of the settings.

The record of settings is the system's and goes with it. Only a name travels, which does not
determine what is written: the profile itself is one of the new system's.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.config.statedir import MARKER
from holdfast.storage.atomic_files import replace_file
from holdfast.tuning.records import PROFILE_PATTERN, Active

log = logging.getLogger(__name__)

_MOST_BYTES = 4 << 20


class Named(BaseModel, defer_build=True):
    """A profile, and whether it is to last beyond a boot."""

    model_config = ConfigDict(extra="ignore", strict=True)

    profile: str = Field(pattern=PROFILE_PATTERN)
    persist: bool


class Traveller:
    """The name in the state directory."""

    def __init__(self, state_dir: Path, marker: Path = MARKER) -> None:
        self._path = state_dir / "tuning/profile.json"
        self._former = state_dir / "tuning/state.json"
        self._marker = marker

    def pack(self, active: Active | None) -> None:
        """Note what is in force. A volume that takes nothing more keeps what it has."""
        try:
            self._former.unlink(missing_ok=True)
            if active is None:
                self._path.unlink(missing_ok=True)
                return
            named = Named(profile=active.profile, persist=active.persist)
            content = named.model_dump_json().encode() + b"\n"
            if self._path.exists() and self._path.read_bytes() == content:
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path, content)
        except OSError as error:
            log.warning("the name of the profile is not beside the data: %s", error)

    def arrived(self) -> Named | None:
        """Return what was in force in the system that this one was written over.

        None unless an imager wrote this system, which leaves a marker that only root can write: a
        volume from elsewhere names nothing.
        """
        try:
            if self._marker.lstat().st_uid != 0:
                return None
        except OSError:
            return None
        return self._read(self._path) or self._read(self._former)

    def _read(self, path: Path) -> Named | None:
        """Read a name; a version before this one had it in a record that is not believed."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(file, "rb") as stream:
                content = json.loads(stream.read(_MOST_BYTES))
            if path == self._former:
                content = content["active"]
            return Named.model_validate(content)
        except (OSError, ValueError, ValidationError, KeyError, TypeError, RecursionError):
            return None
