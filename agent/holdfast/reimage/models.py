"""Requests and answers of re-imaging. Sizes and offsets are bytes, times UTC."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, PrivateAttr

from holdfast.config.confirm_when import CheckKind
from holdfast.node.models import Disk
from holdfast.operations.model import Timestamp
from holdfast.operations.results import OperationResult, Outcome
from holdfast.privileged.boot.models import (
    BootMode,
    CarriedItem,
    FileReport,
    IdentityName,
    LifeboatReport,
)
from holdfast.privileged.trial.models import TrialRow
from holdfast.records.models import Bytes, Request
from holdfast.reimage.interlock.models import InterlockReport
from holdfast.reimage.states import ReimageState

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Url = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[a-z][a-z0-9+.-]*:")]
ALL_IDENTITY: tuple[IdentityName, ...] = ("ssh_host_keys", "machine_id", "hostname", "holdfast")


class StageRequest(Request):
    """Which image this machine is to become, and how its arrival is to be judged."""

    descriptor: Url = Field(
        description="URL of the image's descriptor: https, http, s3, or file within a root.",
        examples=["https://images.example/web-abc.json"],
    )
    descriptor_sha256: Sha256 | None = Field(
        default=None,
        description="SHA-256 of the descriptor, which has the digests of everything else; needed "
        "unless the descriptor is signed by a trusted key.",
    )
    signature: Url | None = Field(
        default=None,
        description="URL of the descriptor's signature; by default, where one is needed, the "
        "descriptor's with `.sig` at its end. Each that is set has to hold.",
    )
    content: Url | None = Field(
        default=None,
        description="URL of the image, also of scheme ami; by default beside its descriptor.",
    )
    mirrors: list[Url] = Field(
        default=[],
        max_length=16,
        description="Other URLs of the image, asked in this order when `content` cannot be read; "
        "with mode `staged`.",
    )
    mode: Literal["staged", "network"] = Field(
        default="staged",
        description="`staged`: copied to the data volume and verified before anything else; "
        "`network`: fetched by the imager, twice, as it keeps no copy.",
    )
    identity: list[IdentityName] = Field(
        default=list(ALL_IDENTITY),
        max_length=len(ALL_IDENTITY),
        description="What the new system keeps of the old one.",
    )
    manifest: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="A manifest to verify the data by once the new system runs, or `latest`.",
    )
    sample_percent: float | None = Field(
        default=None, gt=0, le=100, description="Verify only this share of its chunks."
    )
    confirm: Literal["auto", "manual"] = Field(
        default="auto",
        description="`auto`: confirmed once all checks pass; `manual`: once a caller confirms it.",
    )
    grow_root: bool = Field(
        default=False,
        description="Extend the root partition, if it is the last one, and its file system to the "
        "end of the disk.",
    )
    save_previous: bool = Field(
        default=False,
        description="Keep the old system's disk as an image on the data volume, to be rolled back "
        "to; if it cannot be kept, nothing is written.",
    )
    allow_unprotected: bool = Field(
        default=False,
        description="Write the disk although it has no place for a lifeboat, without which a "
        "power cut during the write leaves a disk that does not boot.",
    )
    rollback: Literal["never", "automatic"] = Field(
        default="never",
        description="`automatic`: unless it is confirmed in time, the new system's holdfast puts "
        "the old one back. Needs `save_previous`.",
    )
    confirm_seconds: int = Field(
        default=900,
        ge=60,
        le=7 * 86400,
        description="With `rollback` `automatic`: how long the new system has from its boot.",
    )


class AttemptRequest(Request):
    """Of which attempt a call is."""

    operation: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="The whole id of the operation `reimage` that the caller means. Refused with "
        "409, and what is there instead, if the attempt here is of another one.",
    )


class StepRequest(AttemptRequest):
    """Take the next step."""

    dry_run: bool = Field(
        default=False,
        description="Make all checks of this step and report what it would write; change nothing.",
    )


class RebootRequest(StepRequest):
    """Reboot into the imager."""

    force: bool = Field(
        default=False,
        description="Ask window, lock, the operator's command and inhibitors, and heed none of "
        "them. What said no is in the state and in the audit log.",
    )


class RollbackRequest(AttemptRequest):
    """Go back to the system that was kept."""

    manifest: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="A manifest to verify the data by once it runs again, or `latest`.",
    )
    allow_unprotected: bool = Field(
        default=False,
        description="Write the disk without a lifeboat. The kept system is as large as the disk, "
        "so that there is never a place for one.",
    )
    confirm: Literal["auto", "manual"] = Field(
        default="auto",
        description="`auto`: confirmed once all checks pass; `manual`: once a caller confirms it.",
    )


class ConfirmRequest(AttemptRequest):
    """Take the new system for good."""

    override: bool = Field(
        default=False, description="Although checks failed; those that did are kept on record."
    )


class ImageSummary(BaseModel, defer_build=True):
    """An image, as its descriptor describes it."""

    name: str
    image_version: str
    descriptor_sha256: str
    size_bytes: Bytes
    mapped_bytes: Bytes = Field(description="That are not zeros.")
    content_bytes: Bytes = Field(description="Of the file as fetched.")
    encoding: str
    boot_modes: list[str]
    root_partition: int | None
    root_file_system: str | None
    root_volume: str | None = Field(
        default=None, description="The logical volume that it is on: group, `/`, volume."
    )
    signed_by: str | None = Field(
        default=None,
        description="File name, without `.pem`, of the trusted key that signed the descriptor; "
        "null where no signature was asked for.",
    )
    architecture: str | None = Field(
        default=None,
        description="What it is for, as `uname -m` names it; null where that is not known.",
    )
    sector_bytes: int | None = Field(
        default=None, description="Of the disk that its partition table is for."
    )
    system: str | None = Field(
        default=None, description="The operating system in it, as its os-release names it."
    )
    kernels: list[str] = Field(
        default_factory=list, description="Releases of kernels that it has modules for."
    )
    holdfast: str | None = Field(default=None, description="The version of holdfast in it.")
    cloud_init: bool | None = Field(default=None, description="Whether it has cloud-init.")
    selinux: str | None = Field(
        default=None, description="`enforcing`, `permissive` or `disabled`, if it has SELinux."
    )
    root_free_bytes: Bytes | None = Field(
        default=None, description="Free space of the root, before it is extended."
    )
    root_is_mounted: bool | None = Field(
        default=None,
        description="The imager can mount the root, to write identity and its marker to it.",
    )
    inspected: bool = Field(
        default=False, description="Its maker looked into it; older descriptors guess."
    )
    root_is_last: bool | None = Field(
        default=None, description="Nothing lies behind the root, so that it can be extended."
    )
    _facts: str | None = PrivateAttr(default=None)

    def with_facts(self, facts: str) -> ImageSummary:
        """Attach the descriptor without its digests, as JSON; it is not part of any response."""
        self._facts = facts
        return self

    @property
    def facts(self) -> str | None:
        """The content of the descriptor, if this summary was just made from it."""
        return self._facts


class PreviousSystem(BaseModel, defer_build=True):
    """The system that was kept before it was written over."""

    path: str = Field(description="The directory of its image and descriptor.")
    name: str
    size_bytes: Bytes = Field(description="Of the packed image.")
    when: Timestamp
    descriptor_sha256: str


class Boot(BaseModel, defer_build=True):
    """How this machine boots, and how it would boot the imager."""

    mode: BootMode
    loader: str | None = Field(description="For example `grub2-bios`; null when none was found.")
    kernel: str = Field(description="Release of the kernel that would run the imager.")
    entry: str | None = Field(description="What would be added to the boot loader.")
    files: list[FileReport] = Field(
        description="What would be written for it, in that order; variables of the firmware too."
    )


class SpaceReport(BaseModel, defer_build=True):
    """Space that is needed, and space that is free."""

    what: str
    needed_bytes: Bytes
    available_bytes: Bytes


class Machine(BaseModel, defer_build=True):
    """What of this machine matters for re-imaging it."""

    target: Disk | None = Field(description="The disk of the running system.")
    disks: list[Disk]
    boot: Boot | None = Field(description="Null where it cannot be determined.")
    loses: list[str] = Field(description="What else is on the target and would be lost.")
    unknown: list[str] = Field(description="What only the arming can determine, with its rights.")
    space: list[SpaceReport]
    lifeboat: LifeboatReport | None = Field(
        default=None,
        description="Where the lifeboat is or would be: `file`, blocks of a file of this system; "
        "`tail`, a range without a partition; `none`, and `reason`. `offset_bytes` is null where "
        "only arming can determine it. Null where the image is not known.",
    )
    blocked: list[str] = Field(description="Every reason why this machine is not re-imaged.")


class ReimagePlan(Machine):
    """What re-imaging with a certain image would do. Nothing was changed."""

    ok: bool = Field(description="Nothing is in the way.")
    image: ImageSummary | None = Field(description="Null if its descriptor cannot be had.")
    mode: str
    identity: list[IdentityName]
    steps: list[str] = Field(description="What would happen, in order, for a person.")
    trial: list[TrialRow] = Field(
        default_factory=list,
        description="What was tried of the new root on this machine, and what was not.",
    )
    notes: list[str] = Field(
        default_factory=list, description="What is not as safe as it could be, and blocks nothing."
    )


class Check(BaseModel, defer_build=True):
    """One thing that has to be true of the new system."""

    name: Literal["image", "identity", "data", "manifest"] | CheckKind
    passed: bool
    detail: str


class Phase(BaseModel, defer_build=True):
    """A part of the imager's work."""

    phase: str
    seconds: float
    bytes: Bytes = 0


class LifeboatRange(BaseModel, defer_build=True):
    """A range of the disk."""

    offset_bytes: Bytes
    length_bytes: Bytes


class ImagerReport(BaseModel, defer_build=True):
    """What the imager did, as it reported to the new system."""

    finished: str
    phases: list[Phase] = Field(default_factory=list)
    bytes_written: Bytes = 0
    bytes_mapped: Bytes = 0
    memory_peak_bytes: Bytes = 0
    resumed: int = Field(
        default=0, description="How often it was booted from the lifeboat, as after a power cut."
    )
    lifeboat: LifeboatRange | None = Field(
        default=None, description="Where the lifeboat was; null without one."
    )
    notes: list[str] = Field(
        default_factory=list, description="Of the partition table, the root, and the old disk."
    )


class Transition(BaseModel, defer_build=True):
    """A change of state."""

    at: Timestamp
    previous: ReimageState
    state: ReimageState
    why: str


class FetchedFrom(BaseModel, defer_build=True):
    """A source that gave bytes of an image."""

    source: Literal["origin", "mirror", "peer"]
    address: str = Field(description="The URL without user and query, or the peer.")
    bytes: Bytes = Field(description="That came from there, also where they were fetched anew.")


class ReimageStatus(Machine):
    """Where this machine is on its way to another image."""

    state: ReimageState
    reason: str | None = Field(
        description="Why it failed, is not confirmed, or cannot be determined."
    )
    operation: str | None = Field(description="The operation of kind `reimage` that it is of.")
    nonce: str | None = Field(description="Names this attempt; it proves nothing.")
    image: ImageSummary | None
    fetched: list[FetchedFrom] = Field(
        default_factory=list,
        description="Where the staged image came from, since the daemon started.",
    )
    mode: str | None
    image_id: str | None = Field(description="Of the system that runs now.")
    carried: list[CarriedItem] = Field(description="Identity that the arming packed up.")
    notes: list[str] = Field(description="What the arming found to be less than perfect.")
    trial: list[TrialRow] = Field(
        default_factory=list,
        description="What was tried of the new root once the image was staged, or by the arming.",
    )
    checks: list[Check]
    imager: ImagerReport | None
    previous: PreviousSystem | None = Field(description="That can be rolled back to.")
    rollback_of: str | None = Field(
        description="The operation that is undone, if this is a rollback."
    )
    rollback_at: Timestamp | None = Field(
        description="When the old system is put back, unless the new one is confirmed before."
    )
    interlock: InterlockReport | None = Field(
        default=None, description="Null from a daemon that asks nothing before a reboot."
    )
    history: list[Transition] = Field(description="Oldest first.")


class ReimageResult(OperationResult):
    """How a re-imaging ended that came to its end. Its outcome is `differs` if a check failed."""

    ok: bool = Field(description="Whether all checks passed.")
    image: ImageSummary
    image_id: str | None = Field(description="Of the system that runs now.")
    checks: list[Check] = Field(description="What was checked, and what was found.")
    imager: ImagerReport | None = Field(description="What the imager did.")
    down_seconds: float | None = Field(
        description="Seconds from the order to reboot until the new system's holdfast was there."
    )
    confirmed_seconds: float | None = Field(
        description="Seconds from the order to reboot until it was confirmed."
    )

    @property
    def outcome(self) -> Outcome:
        """`differs` if it was confirmed although a check failed."""
        return Outcome.OK if self.ok else Outcome.DIFFERS
