"""Checks that the new system has the identity that was carried over, now and after its boot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdfast.privileged import Privileged
from holdfast.privileged.boot.models import BootProgress, IdentityEvidence
from holdfast.privileged.writes import Refused
from holdfast.reimage.models import Check
from holdfast.reimage.store import Job
from holdfast.text.wording import sentence_of

SETTLE_SECONDS = 600.0
"""A boot that has not settled by then is not waited for any longer."""
_LEAST_SECONDS = 30.0
_POLL_SECONDS = 2.0
_NAME: Final = "identity"


@dataclass(frozen=True)
class IdentityCheck:
    """Compares what is there with the digests in the marker, as root's helper reads both."""

    job: Job
    privileged: Privileged

    def at_once(self) -> Check:
        """Compare now. What cannot be read has failed."""
        if not self.job.request.identity:
            return Check(name=_NAME, passed=True, detail="Nothing was to be carried over.")
        # The imager's sentences have no full stop.
        problems = [f"{problem.rstrip('.')}." for problem in self.job.identity_problems]
        try:
            evidence = self.privileged.identity_evidence(compare=True)
        except (OSError, Refused) as error:
            problems.append(f"What was carried over cannot be compared: {sentence_of(error)}")
            return Check(name=_NAME, passed=False, detail=" ".join(problems))
        problems += self._problems(evidence)
        if problems:
            return Check(name=_NAME, passed=False, detail=" ".join(problems))
        names = ", ".join(self.job.request.identity)
        count = len(evidence.files)
        detail = f"Carried over: {names}. {count} files are as they were written"
        return Check(name=_NAME, passed=True, detail=f"{detail} ({evidence.boot}).")

    def settled(self, pause: Callable[[float], None]) -> Check:
        """Compare once the boot has settled: programs of a first boot change files until then.

        `pause` sleeps, and raises `CancelledError`. A boot that does not settle in time is compared
        all the same, unless cloud-init still runs: that is what replaces an identity.
        """
        deadline = time.monotonic() + self._patience()
        progress = self._progress()
        while progress is None or not progress.settled:
            if time.monotonic() > deadline:
                break
            pause(_POLL_SECONDS)
            progress = self._progress()
        if progress is None or progress.cloud_init == "running":
            said = progress or "the privileged helper does not answer"
            detail = (
                "Whether what was carried over stays is not known: the boot did not settle within "
                f"{self._patience():.0f} s ({said})."
            )
            return Check(name=_NAME, passed=False, detail=detail)
        return self.at_once()

    def _progress(self) -> BootProgress | None:
        try:
            return self.privileged.identity_evidence(compare=False).boot
        except (OSError, Refused):
            return None

    def _patience(self) -> float:
        request = self.job.request
        if request.rollback != "automatic":
            return SETTLE_SECONDS
        # The attempt has to be confirmed before the old system is put back.
        return min(SETTLE_SECONDS, max(_LEAST_SECONDS, request.confirm_seconds / 2))

    def _problems(self, evidence: IdentityEvidence) -> list[str]:
        if evidence.problem is not None:
            return [f"What was carried over cannot be compared: {evidence.problem}"]
        if evidence.nonce != self.job.nonce:
            return ["What was carried over cannot be compared: the marker is of another attempt."]
        problems = []
        for change in evidence.changes:
            by = f", by {change.by}" if change.by else ", and no log shows by what"
            problems.append(f"{change.path}: {'; '.join(change.differences)}{by}.")
        known = {file.path for file in evidence.files}
        named = " ".join(self.job.identity_problems)
        armed = self.job.armed.identity if self.job.armed is not None else []
        return problems + [
            f"{path} was to be carried over, and was not."
            for item in armed
            for path in item.paths
            if path not in known and path not in named
        ]
