"""Requests to arm and disarm, and their responses, as plain data."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from holdfast.node.models import Disk
from holdfast.privileged.trial.models import TrialRow

IdentityName = Literal["ssh_host_keys", "machine_id", "hostname", "holdfast"]
"""What of a node's identity can be carried over to its new system."""
BootMode = Literal["bios", "uefi"]

OUTCOME_BYTES = 16384
"""Bytes of the outcome record, a multiple of any disk's sector."""

Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""Names an arming. Not a secret: the boot loader's entry and the API show it."""
Secret = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""Proves that a marker is of this arming; only the job, the initramfs and the marker have it."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00\n]*$", max_length=4096)]


class _Request(BaseModel, defer_build=True):
    model_config = ConfigDict(extra="forbid", frozen=True, revalidate_instances="always")


class StagedImage(_Request):
    """The image's content is in a file of a data volume."""

    kind: Literal["staged"] = "staged"
    path: AbsolutePath
    """A path of this machine, as mounted now; the arming finds file system and array below."""


class NetworkImage(_Request):
    """The imager fetches the content by itself."""

    kind: Literal["network"] = "network"
    url: Annotated[str, Field(max_length=4096)]

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[\x21-\x7e]+", value):
            raise ValueError("is not an http:// or https:// address")
        return value


ImageSource = Annotated[StagedImage | NetworkImage, Field(discriminator="kind")]


class StatusServer(_Request):
    """How the imager's own status is served; the files are read when arming."""

    listen: Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5}$")]
    """An address and a port; `0.0.0.0:9918`, `[::]:9918`."""
    certificate: AbsolutePath | None = None
    key: AbsolutePath | None = None
    tokens: AbsolutePath | None = None
    client_ca: AbsolutePath | None = None
    """Authorities of client certificates; with them, clients without one are refused."""

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("needs both the certificate and its key, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("cannot check client certificates without TLS")
        host = self.listen.rpartition(":")[0].strip("[]")
        guarded = self.certificate is not None and self.tokens is not None
        if not guarded and not ipaddress.ip_address(host).is_loopback:
            raise ValueError("reaches beyond this machine, which needs TLS and tokens")
        return self


class ArmRequest(_Request):
    """Have the next boot, and only that one, write an image to the disk of the root."""

    do: Literal["arm"] = "arm"
    nonce: Nonce
    secret: Secret | None = None
    operation: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    descriptor_path: AbsolutePath
    descriptor_sha256: Sha256
    signatures: Annotated[str, Field(pattern=r"^([0-9a-f]{128}){0,16}$")] = ""
    """Of the descriptor, in hexadecimal, one after the other."""
    source: ImageSource
    identity: list[IdentityName] = []
    status: StatusServer | None = None
    ca: AbsolutePath | None = None
    """Authorities that the imager trusts besides those of the system."""
    grow_root: bool = False
    """Extend the root partition and its file system to the end of the disk."""
    save_previous: AbsolutePath | None = None
    """The directory, not there yet, in which the imager keeps the old disk as an image."""
    allow_unprotected: bool = False
    """Arm it although there is no place for a lifeboat: a power cut may then cost the disk."""
    dry_run: bool = False
    """Check everything that arming would check, and write nothing."""


class TryRequest(_Request):
    """Try the new root of an arming that is not made: mount a copy of it, and change nothing."""

    do: Literal["try"] = "try"
    arming: ArmRequest
    seconds: Annotated[float, Field(gt=0, le=86400)] | None = None
    """How long it may take in all; what takes longer is not tried."""


class DisarmRequest(_Request):
    """Take an arming back; does nothing where there is none."""

    do: Literal["disarm"] = "disarm"


class ForgetLifeboatRequest(_Request):
    """Wipe what the imager left of the lifeboat, in the system that it wrote."""

    do: Literal["forget_lifeboat"] = "forget_lifeboat"


class OutcomeRequest(_Request):
    """Read what the imager left behind, and whether it is armed."""

    do: Literal["boot_outcome"] = "boot_outcome"


class IdentityRequest(_Request):
    """Compare what was carried over with what is there, and see how far the boot is."""

    do: Literal["identity_evidence"] = "identity_evidence"
    compare: bool = True
    """Read the carried files; otherwise only how far the boot is."""


class RebootRequest(_Request):
    """Reboot into the imager, if it is armed with this nonce."""

    do: Literal["reboot"] = "reboot"
    nonce: Nonce
    dry_run: bool = False
    """Make all the checks, and do not reboot."""


class UnitRequest(_Request):
    """Read the state of a unit of systemd."""

    do: Literal["unit_state"] = "unit_state"
    unit: Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.@-]{1,250}\.[a-z]{4,8}$")]


class InhibitorsRequest(_Request):
    """List what inhibits a shutdown."""

    do: Literal["inhibitors"] = "inhibitors"


class ExplainRequest(_Request):
    """What arming would do; whatever is not known yet is left out."""

    roots: Annotated[list[AbsolutePath], Field(min_length=1)]
    image_name: str = "NAME"
    image_bytes: int | None = None
    """Size of the image on the disk."""
    boot_modes: list[BootMode] | None = None
    """In which the image can be booted."""
    image: str | None = None
    """The content of the image's descriptor, as JSON; the digests of chunks may be left out."""
    source: ImageSource | None = None
    allow_kexec: bool = False
    allow_unprotected: bool = False
    require_lifeboat: bool = False
    """Root forbids `allow_unprotected`."""


class _Report(BaseModel, defer_build=True):
    model_config = ConfigDict(frozen=True)


class Target(_Report):
    """The disk that is written, and all that distinguishes it from others; as the job has it."""

    path: str
    """In /dev; for people, since names of devices change between boots."""
    serial: str | None
    model: str | None
    wwid: str | None
    size_bytes: int
    head_bytes: int
    head_sha256: str
    """SHA-256 of the first `head_bytes` of the disk."""
    volume_groups: list[str] = []
    """UUIDs of volume groups of LVM that the system runs from, and that go with it."""


class SystemSigns(_Report):
    """What distinguishes the running system from every other, as root observed it."""

    root_uuid: str | None
    """UUID of the file system of `/`; None where it has none."""
    partition_uuid: str | None = None
    """What `PARTUUID=` names of the partition that `/` is on; None where it is not known."""
    machine_id: str | None
    boot_id: str


class PlacedFile(_Report):
    """A file as the imager wrote it into the new system and read it back."""

    path: str
    sha256: Sha256
    mode: int
    uid: int
    gid: int
    label: str | None = None
    """Its SELinux label; None where none was known."""


class FileEvidence(_Report):
    """A carried file in its current state."""

    path: str
    differences: list[str]
    """Clauses: what is different from what was written; none if nothing is."""
    by: str | None = None
    """The program that changed it, and what it logged; None where no log shows it."""


CloudInit = Literal["running", "done", "failed"]


class BootProgress(_Report):
    """How far the boot of the running system is."""

    systemd: str | None
    """As `systemctl is-system-running` prints it; None on a machine without systemd."""
    cloud_init: CloudInit | None
    """None where it is not there, or disabled."""

    @property
    def settled(self) -> bool:
        """Whether what changes files at a boot is over."""
        return self.cloud_init != "running" and self.systemd not in (
            "initializing",
            "starting",
            "unknown",
        )

    def __str__(self) -> str:
        """Return it for a sentence."""
        said = [f"systemd: {self.systemd}"] if self.systemd else []
        said += [f"cloud-init: {self.cloud_init}"] if self.cloud_init else []
        return ", ".join(said) or "nothing reports its progress"


class IdentityEvidence(_Report):
    """What is found of an identity that was carried over."""

    boot: BootProgress
    nonce: str | None = None
    """Of the arming whose marker was compared."""
    files: list[FileEvidence] = []
    """All that the imager carried over."""
    hostname: FileEvidence | None = None
    """How the kernel's hostname differs from the carried one; None if it does not."""
    problem: str | None = None
    """A sentence: why nothing can be compared."""

    @property
    def changes(self) -> list[FileEvidence]:
        """What is different."""
        found = [file for file in self.files if file.differences]
        return found if self.hostname is None else [*found, self.hostname]


class FileReport(_Report):
    """A file that arming wrote, or would write."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None


class CarriedItem(_Report):
    """A part of the identity, and the files that it consists of here."""

    name: IdentityName
    paths: list[str]
    problems: list[str] = []
    """Sentences: what was left out and why."""


LifeboatKind = Literal["file", "tail", "none"]
"""Blocks of a file of the old system, a range without a partition, or nothing."""


class LifeboatReport(_Report):
    """Where the lifeboat is, or would be: what boots after a power cut while the disk is written.

    Offset and length are bytes of the target.
    """

    kind: LifeboatKind
    offset_bytes: int | None = None
    """None where only arming determines it."""
    length_bytes: int | None = None
    reason: str | None = None
    """Sentences: why there is none, or what is not known yet."""


class BootReport(_Report):
    """What arming finds on this machine and would do."""

    mode: BootMode
    loader: str | None
    """`grub2-bios`, `grub2-uefi`, `systemd-boot`, `efi-bootnext` or `kexec`; None for none."""
    kernel: str
    """Release of the kernel that would run the imager: the running kernel."""
    entry: str | None
    """What would be written into the boot loader's configuration."""
    files: list[FileReport]
    disks: list[Disk]
    loses: list[str]
    """Sentences: what else is on the target and is lost."""
    refusals: list[str]
    """Sentences: why arming would be refused."""
    unknown: list[str]
    """Sentences: what only a process with more rights can determine."""
    lifeboat: LifeboatReport | None = None
    """None where the image is not known."""

    @property
    def target(self) -> Disk | None:
        """The disk that would be written."""
        return next((disk for disk in self.disks if disk.target), None)


class ArmReport(_Report):
    """It is armed: all of this was written, flushed and read back from the disk."""

    nonce: str
    loader: str
    entry: str
    files: list[FileReport]
    target: Target
    kernel: str
    modules: list[str]
    identity: list[CarriedItem]
    network: str | None
    """The interface that the imager will use."""
    notes: list[str]
    """Sentences: what is not as good as it could be."""
    seen_by_grub: bool | None
    """Whether GRUB's own code finds all of it; None where grub-fstest is not installed."""
    trial: list[TrialRow] = []
    """What was tried of the new root before anything was written."""
    lifeboat: LifeboatReport | None = None


class TrialReport(_Report):
    """What was tried of a new root."""

    rows: list[TrialRow]


class Inhibitor(_Report):
    """A process that blocks a shutdown, in its own words."""

    who: str
    why: str
    uid: int
    pid: int


class DisarmReport(_Report):
    """What was put back; all empty if nothing was armed."""

    restored: list[str]
    """Paths of files that are again as they were, byte for byte."""
    edited: list[str]
    """Paths of files that another program changed meanwhile: only what is ours was removed."""
    removed: list[str]
    notes: list[str] = []


class ForgottenReport(_Report):
    """What was done about a lifeboat that was left in the new system."""

    notes: list[str] = []
    """Sentences: what was not done; none if nothing is left."""


class OutcomeRecord(_Report):
    """What the imager wrote for the old system."""

    nonce: str
    descriptor_sha256: Sha256 | None = None
    """Of the image that the imager was to write; None in a record of an older imager."""
    started: int
    """How often the imager was started with this nonce."""
    state: str
    """`armed` (never started), `started` or `refused`."""
    phase: str | None = None
    reason: str | None = None
    log: list[str] = []


class OutcomeReport(_Report):
    """What is found in /boot now."""

    record: OutcomeRecord | None
    armed: bool
    """The next boot is the imager's."""
    entry: bool
    """The boot loader has the entry, whether or not it is the next one booted."""
    entry_nonces: list[str] = []
    """Names of the armings that entries of the boot loader are of."""
    problem: str | None = None
    """A sentence: why the record cannot be read."""
    system: SystemSigns | None = None
    """Signs of the system that runs now."""


BootRequest = (
    ArmRequest
    | TryRequest
    | DisarmRequest
    | OutcomeRequest
    | IdentityRequest
    | RebootRequest
    | InhibitorsRequest
    | UnitRequest
    | ForgetLifeboatRequest
)
