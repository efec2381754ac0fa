"""Keeps outcomes of trials, so that an unchanged image is not unpacked and tried again.

What a trial finds follows from the image, what is carried over, the size of the disk, the program
that tries it, and the kernel. An outcome is used again only where all of them are equal. It is kept
where only root writes, as the staged image belongs to the daemon. That the staged file is still the
same is known by its inode and times; the imager compares every byte of it again before it writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.node.paths.beneath import read_file
from holdfast.node.paths.guarded import why_unguarded
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.operations.model import Timestamp, format_time, now
from holdfast.privileged.trial.models import TrialRow
from holdfast.storage.atomic_files import make_directory, replace_file

NAME = "trials.json"
"""The file's name in root's directory of records."""
_MOST = 8
_MOST_BYTES = 1 << 20
_GRANULARITY_NS = 50_000_000
"""Two writes closer to each other may leave the same time; a kernel's tick is 10 ms at most."""
_ALWAYS = frozenset({"identity", "selinux"})
"""Checks that are not tried for a reason that stays: verity, and a policy that is loaded."""
_POLICY = "fs/selinux/enforce"

log = logging.getLogger(__name__)


class StagedFile(BaseModel, defer_build=True):
    """By what a file that was written since is recognised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> StagedFile | None:
        """Return that of a regular file; None for anything else. Raises `OSError`."""
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return None
        return cls(
            dev=found.st_dev,
            ino=found.st_ino,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
        )


class _Outcome(BaseModel, defer_build=True):
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of all that the outcome follows from."""
    file: StagedFile
    tried_at: Timestamp
    rows: list[TrialRow] = Field(max_length=64)


class _Outcomes(BaseModel, defer_build=True):
    format: Literal["holdfast-trials"] = "holdfast-trials"
    version: Literal[1] = 1
    outcomes: list[_Outcome] = Field(default_factory=list, max_length=_MOST)


@dataclass(frozen=True)
class KeptTrials:
    """The file with the outcomes of the last trials."""

    path: Path
    _one_writer: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def find(self, key: str, image: Path) -> list[TrialRow] | None:
        """Return the rows of a trial that would find the same; None where there are none."""
        for outcome in self._read().outcomes:
            if outcome.key == key and outcome.file == _file(image):
                return [_again(row, outcome.tried_at) for row in outcome.rows]
        return None

    def keep(self, key: str, file: StagedFile, rows: Sequence[TrialRow]) -> None:
        """Keep an outcome; `file` is the image as it was before. A fault is logged."""
        with self._one_writer:
            made = _Outcome(key=key, file=file, tried_at=now(), rows=list(rows))
            others = [outcome for outcome in self._read().outcomes if outcome.key != key]
            document = _Outcomes(outcomes=[made, *others][:_MOST])
            content = document.model_dump_json().encode()
            if len(content) > _MOST_BYTES:
                content = _Outcomes(outcomes=[made]).model_dump_json().encode()
            try:
                if len(content) <= _MOST_BYTES:
                    make_directory(self.path.parent)
                    replace_file(self.path, content)
            except OSError as error:
                log.warning("the outcome of the trial is not kept: %s", error)

    def _read(self) -> _Outcomes:
        """Return what is there, if root alone can have written it."""
        try:
            content = read_file(self.path, _MOST_BYTES)
            why = why_unguarded(self.path, {0, os.geteuid()})
            if why is None:
                return _Outcomes.model_validate_json(content)
        except FileNotFoundError:
            return _Outcomes()
        except ValidationError:
            why = "it is damaged, or of another version."
        except OSError as error:
            why = f"{error.strerror}."
        log.warning("%s is not used, and images are tried again: %s", self.path, why)
        return _Outcomes()


def key_of(machine: MachineFiles, imager: Path, document: Mapping[str, Any]) -> str | None:
    """Return the digest of all that an outcome follows from, but for the staged file.

    `document` is the request of the trial. None where something of it cannot be read.
    """
    try:
        with imager.open("rb") as program:
            tried_by = hashlib.file_digest(program, "sha256").hexdigest()
        # Not only its release: a rebuilt kernel may have the same.
        kernel = (machine.proc / "version").read_text()
    except OSError as error:
        log.warning("whether the trial's outcome is known cannot be read: %s", error)
        return None
    facts = {
        "version": 1,
        "descriptor": hashlib.sha256(document["descriptor"].encode()).hexdigest(),
        "identity": document["identity"],
        "grow_to_bytes": document["grow_to_bytes"],
        "imager": tried_by,
        "kernel": [machine.kernel, kernel],
        "policy": (machine.sys / _POLICY).exists(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def before_trial(image: Path) -> StagedFile | None:
    """Return the staged file's identity, if any later write would change it."""
    file = _file(image)
    settled = file is not None and file.ctime_ns + _GRANULARITY_NS < time.time_ns()
    return file if settled else None


def lasts(rows: Sequence[TrialRow], file: StagedFile, image: Path) -> bool:
    """Whether an outcome is worth keeping: complete, without a failure, of the same file.

    A failure may be of the moment, so it is tried again each time.
    """
    outcomes = {row.check: row.outcome for row in rows}
    if outcomes.get("copy") != "passed" or outcomes.get("mount") != "passed":
        return False
    if any(
        row.outcome == "failed" or (row.outcome == "not_tried" and row.check not in _ALWAYS)
        for row in rows
    ):
        return False
    return _file(image) == file


def _file(image: Path) -> StagedFile | None:
    try:
        return StagedFile.of(image)
    except OSError:
        return None


def _again(row: TrialRow, tried_at: datetime) -> TrialRow:
    if row.check != "copy":
        return row
    detail = (
        f"Tried at {format_time(tried_at)}. The staged image, what is carried over, the imager and "
        "the kernel have not changed since, so the image was not read again."
    )
    return row.model_copy(update={"detail": detail})
