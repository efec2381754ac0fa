"""What is remembered of a re-imaging: one JSON file on the data volume, replaced whole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from holdfast.operations.model import RequestError, Slug, Timestamp
from holdfast.privileged.boot.models import ArmReport, SystemSigns
from holdfast.privileged.trial.models import TrialRow
from holdfast.reimage.interlock.models import GateReport
from holdfast.reimage.models import (
    Check,
    FetchedFrom,
    ImagerReport,
    ImageSummary,
    StageRequest,
    Transition,
)
from holdfast.reimage.planning.layout import RootLayout
from holdfast.reimage.previous import PreviousStore
from holdfast.reimage.states import ReimageState
from holdfast.storage.atomic_files import make_directory, replace_file
from holdfast.text.wording import first


class ConfirmationWait(BaseModel, defer_build=True):
    """Time that passed since the new system was recognised, by clocks that nobody sets."""

    boot_id: str
    since_seconds: float
    """CLOCK_BOOTTIME of that boot when it began to count."""
    before_seconds: float = 0.0
    """Counted in earlier boots."""
    synchronised: bool = False
    """Whether `booted_at` is of a wall clock that was synchronised."""
    crossed: bool = False
    """Whether there was a boot since."""


class StepCall(BaseModel, defer_build=True):
    """A call of a step that came with an idempotency key, and was done."""

    step: str
    key: str
    digest: str
    """Of what was asked."""
    operation: str
    """Of the attempt."""
    boot_id: str
    """In which it was done."""
    at: Timestamp


class Job(BaseModel, defer_build=True):
    """One attempt to become another image."""

    version: Literal[1] = 1
    operation: str
    nonce: str
    """Names the attempt; anybody may know it."""
    secret: str | None = None
    """Proves that a marker is of this attempt. Nobody but root and the agent may know it."""
    request: StageRequest
    state: ReimageState = ReimageState.STAGING
    reason: str | None = None
    image: ImageSummary | None = None
    content_url: str | None = None
    fetched: list[FetchedFrom] = Field(default_factory=list)
    """Which sources gave how much of the staged image."""
    trial: list[TrialRow] = Field(default_factory=list)
    """What was tried of the new root."""
    tried_in: str | None = None
    """The boot in which it was tried."""
    armed: ArmReport | None = None
    boot_id: str | None = None
    """Of the boot in which it was armed."""
    old_system: SystemSigns | None = None
    """Signs of the system that was armed, by which it is recognised after a boot."""
    layout: list[RootLayout] = Field(default_factory=list)
    """Of the data, when it was armed."""
    rebooted_at: Timestamp | None = None
    """When the reboot was ordered."""
    booted_at: Timestamp | None = None
    """When the new system's holdfast found itself there."""
    waiting: ConfirmationWait | None = None
    """How long the new system has run without being confirmed."""
    confirmed_at: Timestamp | None = None
    checks: list[Check] = Field(default_factory=list)
    imager: ImagerReport | None = None
    identity_problems: list[str] = Field(default_factory=list)
    image_file_systems: list[str] = Field(default_factory=list)
    """UUIDs of the file systems of the image that a system can run from."""
    image_root_partition: str | None = None
    """What `PARTUUID=` names of the partition of the image's root."""
    recognised: str | None = None
    """By which other sign than the marker the new system was recognised: a sentence."""
    restores: bool = False
    """The image is the old system as it was kept: this is a rollback."""
    rollback_of: str | None = None
    """The operation that is undone."""
    automatic: bool = False
    """A rollback that nobody asked for: it arms and reboots by itself."""
    unsettled: bool = False
    """The attempt before this one left a system that nobody has confirmed."""
    rollback_begun: Timestamp | None = None
    """When the automatic rollback of this attempt was started: there is at most one."""
    rollback_problem: str | None = None
    """Why it came to nothing."""
    gates: list[GateReport] = Field(default_factory=list)
    """The answers of the gates when a reboot was last requested."""
    calls: list[StepCall] = Field(default_factory=list)
    """Calls with a key, oldest first; those of earlier attempts are remembered too."""
    history: list[Transition] = Field(default_factory=list)

    @property
    def tried(self) -> list[TrialRow]:
        """What was tried of the new root, by the arming if there was one."""
        return self.trial if self.armed is None else self.armed.trial


class JobStore:
    """The file, and the directory of images beside it."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "reimage"
        self._file = self._directory / "job.json"
        self.images = state_dir / "images"
        """A directory for each image, by the SHA-256 of its descriptor."""
        self.previous = PreviousStore(state_dir)
        """The old system, if it was kept."""

    def load(self) -> Job | None:
        """Read the last attempt; None if there never was one. Raises `RequestError`."""
        try:
            return Job.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            why = first(error) if isinstance(error, ValidationError) else error
            raise RequestError(
                Slug.UNAVAILABLE,
                f"{self._file} cannot be read ({why}), so how far a re-imaging has come is not "
                "known; restore the file, or move it away to begin anew.",
            ) from None

    def save(self, job: Job) -> None:
        """Replace it; on the disk when this returns. Raises `OSError`."""
        make_directory(self._directory)
        replace_file(self._file, job.model_dump_json(indent=1).encode() + b"\n")

    def image_directory(self, descriptor_sha256: str) -> Path:
        """Return where an image is kept."""
        return self.images / descriptor_sha256
