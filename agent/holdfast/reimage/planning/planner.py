"""What re-imaging with an image would do, and everything that is in the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast._engine import Progress
from holdfast.operations.model import OperationFailed, RequestError
from holdfast.privileged.trial.models import TrialRow, failures
from holdfast.reimage.after_boot.checks import PostBootChecks
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.models import (
    ImageSummary,
    Machine,
    ReimagePlan,
    SpaceReport,
    StageRequest,
)
from holdfast.reimage.planning import preflight
from holdfast.reimage.planning.trials import Trials
from holdfast.reimage.previous import saving_space
from holdfast.reimage.store import JobStore
from holdfast.text.wording import sentence_of


@dataclass(frozen=True)
class Planner:
    """Inspects an image and this machine; fetches the descriptor, and changes nothing."""

    images: ImageLibrary
    store: JobStore
    examiner: PostBootChecks
    state_dir: Path
    describe: Callable[[ImageSummary | None, str | None, StageRequest | None], Machine]
    trials: Trials

    def plan(
        self,
        request: StageRequest,
        problems: Sequence[str],
        notes: Sequence[str],
        progress: Progress,
        *,
        explain: bool,
    ) -> ReimagePlan:
        """Return the plan; `problems` are in the way already, and `notes` are not.

        `explain` is for callers who may learn the digest of what is there. Raises `CancelledError`.
        """
        image, source, blocked = None, None, list(problems)
        notes = list(notes)
        space: list[SpaceReport] = []
        trial: list[TrialRow] = []
        try:
            if request.manifest is not None:
                self.examiner.proof.exists(request.manifest)
        except RequestError as error:
            blocked.append(error.detail)
        try:
            # This machine's own, or one that a key or a digest vouches for.
            kept = self.store.previous.obtained(request.descriptor_sha256)
            found = kept or self.images.plan(request, progress, explain=explain)
            source = self.images.content_url(request, found)
            image = self.images.summary(found)
        except (RequestError, OperationFailed, OSError) as error:
            blocked.append(sentence_of(error))
        else:
            blocked += preflight.image_problems(image, request, source)
            notes += preflight.image_notes(image)
            directory = self.store.image_directory(found.sha256)
            try:
                # What was kept is linked, and not copied.
                present = image.content_bytes if kept else self.images.present_bytes(directory)
                space = self._space(request, image, present)
            except OSError as error:
                blocked.append(f"Free space cannot be inspected: {sentence_of(error)}")
            blocked += preflight.space_problems(space)
            trial = self.trials.planned(request, image)
            blocked += failures(trial)
            if request.mode == "staged":
                source = str(directory / "image")
            elif not preflight.on_the_network(source):
                source = None
        seen = self.describe(image, source, request)
        blocked += seen.blocked
        return ReimagePlan(
            **seen.model_dump(exclude={"blocked", "space"}),
            space=space,
            blocked=blocked,
            ok=not blocked,
            image=image,
            mode=request.mode,
            identity=request.identity,
            steps=preflight.steps(seen, image, request),
            trial=trial,
            notes=list(notes),
        )

    def _space(self, request: StageRequest, image: ImageSummary, present: int) -> list[SpaceReport]:
        """Return the space that staging takes, and keeping the old system. Raises `OSError`."""
        staging = None
        if request.mode == "staged":
            staging = preflight.staging_space(image, self.state_dir, present)
        found = [] if staging is None else [staging]
        if request.save_previous:
            found.append(saving_space(self.state_dir, staging))
        return found
