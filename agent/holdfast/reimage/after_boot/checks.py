"""What has to be true of the new system before it is confirmed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from holdfast._engine import CancelledError
from holdfast.operations.model import OperationFailed, RequestError
from holdfast.privileged import Privileged
from holdfast.reimage.after_boot.commands import run_command
from holdfast.reimage.after_boot.identity_check import IdentityCheck
from holdfast.reimage.gates.stable import Gates
from holdfast.reimage.models import Check
from holdfast.reimage.planning.layout import differences, layout_of
from holdfast.reimage.store import Job

if TYPE_CHECKING:
    from holdfast._engine import Progress

_MOUNT_SECONDS = 60.0
_POLL_SECONDS = 0.25


class Proof(Protocol):
    """A verifier of the data against a manifest."""

    def exists(self, manifest: str) -> str:
        """Return the manifest's id. Raises `RequestError` if there is none."""

    def verify(
        self, manifest: str, sample_percent: float | None, key: str, progress: Progress
    ) -> tuple[bool, str]:
        """Return whether nothing differs, with a sentence for a person.

        `key` names the verification, so that the same one is resumed after a restart. Raises
        `RequestError`, `OperationFailed`, and `CancelledError` once `progress` is cancelled.
        """


@dataclass(frozen=True)
class PostBootChecks:
    """Runs the checks."""

    roots: Sequence[Path]
    proof: Proof
    command: Sequence[str]
    """The operator's own check; none if it is empty."""
    command_seconds: float
    gates: Gates = field(default_factory=Gates)
    """What has to be good for a while."""

    @property
    def longest_seconds(self) -> float:
        """The longest that a check shows no progress."""
        return max(self.command_seconds, self.gates.longest_seconds)

    def examine(
        self, job: Job, progress: Progress, privileged: Privileged, *, attempt: str
    ) -> list[Check]:
        """Run all checks of a job, cheap ones first. Raises `CancelledError`.

        A check that cannot be made has failed: nothing is taken for granted. The identity is
        checked twice: at once, and as the last thing once the boot has settled.
        """
        identity = IdentityCheck(job, privileged)
        checks = [_image(job), identity.at_once(), self._data(job, progress)]
        if job.request.manifest is not None:
            checks.append(self._manifest(job, job.request.manifest, progress, attempt))
        if self.command:
            checks.append(self._command(progress))
        checks += self.gates.examine(progress, privileged, lambda s: _pause(progress, s))
        if checks[1].passed and job.request.identity:
            progress.enter("waiting for the boot to settle")
            checks[1] = identity.settled(lambda seconds: _pause(progress, seconds))
        return checks

    def _data(self, job: Job, progress: Progress) -> Check:
        """Compare the data's place with what it was; what mounts late may take a moment."""
        progress.enter("waiting for the data")
        deadline = time.monotonic() + _MOUNT_SECONDS
        while found := differences(job.layout, layout_of(self.roots)):
            if time.monotonic() > deadline:
                return Check(name="data", passed=False, detail=" ".join(found))
            _pause(progress)
        names = ", ".join(layout.root for layout in job.layout)
        return Check(name="data", passed=True, detail=f"{names}: mounted, on the same disks.")

    def _manifest(self, job: Job, manifest: str, progress: Progress, attempt: str) -> Check:
        progress.enter("verifying data")
        key = f"reimage-{job.nonce}-{attempt}"
        try:
            passed, detail = self.proof.verify(manifest, job.request.sample_percent, key, progress)
        except (RequestError, OperationFailed) as error:
            passed, detail = False, str(error)
        return Check(name="manifest", passed=passed, detail=detail)

    def _command(self, progress: Progress) -> Check:
        progress.enter("running the check command")
        ended = run_command(self.command, self.command_seconds, lambda: _check(progress))
        return Check(name="command", passed=ended.passed, detail=ended.sentence)


def _image(job: Job) -> Check:
    image = f"{job.image.name} {job.image.image_version}" if job.image else "the image"
    if job.imager is not None:
        detail = f"The imager wrote {image} and read it back."
        return Check(name="image", passed=True, detail=detail)
    if job.recognised is not None:
        return Check(name="image", passed=True, detail=f"{image} runs: {job.recognised}")
    detail = "Nothing proves that the image runs: there is no marker of the imager."
    return Check(name="image", passed=False, detail=detail)


def _pause(progress: Progress, seconds: float = _POLL_SECONDS) -> None:
    _check(progress)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        _check(progress)
        time.sleep(min(_POLL_SECONDS, left))  # what happens elsewhere wakes nobody here


def _check(progress: Progress) -> None:
    if progress.cancelled:
        raise CancelledError("cancelled while the new system was being checked")
