"""Trials of a new root, for the attempt that is under way and for plans."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path

from holdfast.operations.model import RequestError
from holdfast.privileged import Privileged
from holdfast.privileged.boot.models import ArmRequest, StagedImage, TryRequest
from holdfast.privileged.trial.models import TrialRow
from holdfast.privileged.trial.untried import untried_rows
from holdfast.privileged.writes import Refused
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.models import ImageSummary, StageRequest
from holdfast.reimage.states import ReimageState
from holdfast.text.wording import sentence_of

_PLAN_SECONDS = 40.0
"""How long a plan may try an image: a plan as a whole has a minute."""
_HERE = (ReimageState.STAGED, ReimageState.ARMED)


@dataclass(frozen=True)
class Trials:
    """Has images tried by the process that has the rights for it."""

    attempt: Attempt
    images: ImageLibrary
    privileged: Privileged

    def staged(self, request: StageRequest, image: ImageSummary) -> list[TrialRow]:
        """Try an image that is on the data volume; however long it takes."""
        return self._tried(request, image, None)

    def network(self, image: ImageSummary) -> list[TrialRow]:
        """Judge an image that the imager fetches, by its descriptor."""
        return _untried(image, "network")

    def planned(self, request: StageRequest, image: ImageSummary) -> list[TrialRow]:
        """Return what is known, or can be determined within a moment, of a planned re-imaging."""
        if request.mode == "network":
            return self.network(image)
        known = self._known(request, image)
        if known:
            return known
        directory = self.attempt.store.image_directory(image.descriptor_sha256)
        if self.attempt.state not in _HERE or not (directory / "image").is_file():
            return _untried(image, "staged")
        return self._tried(request, image, _PLAN_SECONDS)

    def _known(self, request: StageRequest, image: ImageSummary) -> list[TrialRow]:
        """Return the rows of the staged attempt, if it is the same image with the same wishes."""
        job = self.attempt.job
        if job is None or job.state not in _HERE or job.image is None:
            return []
        same = (
            job.image.descriptor_sha256 == image.descriptor_sha256
            and job.request.identity == request.identity
            and job.request.grow_root == request.grow_root
            and job.tried_in == self.attempt.boot_id
        )
        return list(job.trial) if same else []

    def _tried(
        self, request: StageRequest, image: ImageSummary, seconds: float | None
    ) -> list[TrialRow]:
        directory = self.attempt.store.image_directory(image.descriptor_sha256)
        try:
            arming = self._arming(request, directory)
            asked = TryRequest(arming=arming, seconds=seconds)
            return self.privileged.try_image(asked).rows
        except (Refused, RequestError, OSError, ValueError) as error:
            why = sentence_of(error)
            return [
                TrialRow(check="mount", outcome="not_tried", detail=f"It cannot be tried: {why}")
            ]

    def _arming(self, request: StageRequest, directory: Path) -> ArmRequest:
        """Return the arming that is tried, without what only the imager needs."""
        return ArmRequest(
            nonce="0" * 32,
            operation="trial",
            descriptor_path=str(directory / "descriptor.json"),
            descriptor_sha256=directory.name,
            signatures=self.images.signatures(directory).hex(),
            source=StagedImage(path=str(directory / "image")),
            identity=request.identity,
            grow_root=request.grow_root,
        )


def _untried(image: ImageSummary, mode: str) -> list[TrialRow]:
    facts = {} if image.facts is None else json.loads(image.facts)
    return untried_rows(facts, platform.release(), mode)
