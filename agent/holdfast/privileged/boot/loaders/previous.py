"""What a boot loader's files were before an arming, kept beside the payload until it is undone."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.boot.disk.file_io import read_plain, write_file
from holdfast.privileged.boot.loaders.grub_environment import SIZE
from holdfast.privileged.writes import Refused
from holdfast.storage.atomic_files import flush_directory

_MAX_STATE = 1 << 20


@dataclass(frozen=True)
class Before:
    """How it was."""

    custom: Path | None
    """Another name of the file that custom.cfg was; None if there was none."""
    environment: bytes
    environment_mtime_ns: int
    armed_custom_sha256: str
    """As the arming left it: if it differs, another program has changed it since."""


class Previous:
    """The directory `previous`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, custom: Path, environment: Path, armed_custom: bytes) -> None:
        """Keep both files; on the disk when this returns. Raises `OSError`."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        flush_directory(self._directory.parent)
        existed = custom.exists()
        if existed:
            os.link(custom, self._directory / "custom.cfg", follow_symlinks=False)
        content = read_plain(environment, SIZE)
        write_file(self._directory / "grubenv", [content], 0o600, "grubenv")
        state = {
            "custom_existed": existed,
            "armed_custom_sha256": hashlib.sha256(armed_custom).hexdigest(),
            "environment_mtime_ns": environment.stat().st_mtime_ns,
        }
        # Complete once this is there.
        write_file(
            self._directory / "state.json", [json.dumps(state).encode()], 0o600, "state.json"
        )

    def read(self) -> Before | None:
        """Return how it was; None if nothing was kept, or not all. Raises `OSError`, `Refused`."""
        try:
            state = json.loads(read_plain(self._directory / "state.json", _MAX_STATE))
            custom = self._directory / "custom.cfg"
            return Before(
                custom=custom if state["custom_existed"] and custom.exists() else None,
                environment=read_plain(self._directory / "grubenv", SIZE),
                environment_mtime_ns=int(state["environment_mtime_ns"]),
                armed_custom_sha256=str(state["armed_custom_sha256"]),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(
                f"{self._directory} is damaged, so what was there before cannot be put back: "
                f"{error}."
            ) from None
