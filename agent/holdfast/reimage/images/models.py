"""Images as Python knows them. Sizes are bytes, times are UTC."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from holdfast._engine import inspect_descriptor
from holdfast.operations.results import OperationResult, Outcome
from holdfast.records.models import Bytes, Count

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower case, as `sha256sum` prints it."""
Name = Annotated[str, Field(min_length=1, max_length=255)]


class Content(BaseModel, defer_build=True):
    """The file an image is delivered in."""

    file: str
    """Its name; it lies beside the descriptor."""
    encoding: Literal["identity", "zstd", "gzip", "xz"]
    size_bytes: Bytes
    """Of the packed file."""
    sha256: Sha256
    """Of the packed file."""


class Partition(BaseModel, defer_build=True):
    """A partition, as described by the table and the file system in it."""

    number: Count
    start_bytes: Bytes
    size_bytes: Bytes
    type: str
    """In a GPT a GUID in lower case, in an MBR two hexadecimal digits."""
    name: str
    file_system: str | None
    uuid: str | None
    label: str | None
    part_uuid: str | None = None
    """What `PARTUUID=` of a kernel's command line names."""


class PartitionTable(BaseModel, defer_build=True):
    """An image's partitions, in the order of the table."""

    kind: Literal["gpt", "mbr"]
    id: str
    partitions: list[Partition]


class VolumeRange(BaseModel, defer_build=True):
    """Where a logical volume is on the disk, in one piece."""

    start_bytes: Bytes
    size_bytes: Bytes


class Root(BaseModel, defer_build=True):
    """Where an image's root is, found by looking into it."""

    partition: Count
    volume: str | None = None
    """The logical volume: group, `/`, volume."""
    volume_range: VolumeRange | None = None
    """Null where the volume may not be written."""
    volume_problem: str | None = None
    """A clause about why it may not."""
    subvolume: str | None = None
    """Of a btrfs, where it is not mounted by default."""
    deployment: str | None = None
    """The path of a deployment of OSTree."""
    verity: bool = False
    """Whether dm-verity protects it."""
    file_system: str | None = None
    uuid: str | None = None
    label: str | None = None
    free_bytes: Bytes | None = None
    features: list[str] = []
    os_release: bool | None = None
    because: str = ""
    """How it was found, as the end of "because"."""


class System(BaseModel, defer_build=True):
    """The operating system in an image."""

    name: str | None = None
    id: str | None = None
    version: str | None = None
    kernels: list[str] = []
    """Releases that it has modules for."""
    cloud_init: bool = False
    selinux: str | None = None
    """`enforcing`, `permissive` or `disabled`, if it has SELinux."""
    holdfast: str | None = None
    """The version of holdfast in it."""


class Inspection(BaseModel, defer_build=True):
    """What was found by looking into an image; absent from descriptors of older versions."""

    inspected: bool = False
    sector_bytes: int | None = None
    """Of the disk that its partition table is for."""
    architecture: str | None = None
    """As `uname -m` names it."""
    root: Root | None = None
    system: System | None = None
    notes: list[str] = []
    """Sentences: what is odd, and what could not be determined."""


class Descriptor(Inspection, defer_build=True):
    """The summary of an image in its descriptor, without the digests of chunks."""

    model_config = ConfigDict(frozen=True)

    name: str
    image_version: str
    created: str
    size_bytes: Bytes
    """Of the image, unpacked."""
    mapped_bytes: Bytes
    """Bytes of it in chunks that are not all zeros."""
    chunk_bytes: Bytes
    content: Content
    boot_modes: list[Literal["bios", "uefi"]]
    partition_table: PartitionTable | None
    root_partition: int | None

    @property
    def root_file_system(self) -> str | None:
        """The file system of the root: of the logical volume where it is on one."""
        if self.root is not None and self.root.volume is not None:
            return self.root.file_system
        partitions = self.partition_table.partitions if self.partition_table else []
        found = (
            partition.file_system
            for partition in partitions
            if partition.number == self.root_partition
        )
        return next(found, None)

    @classmethod
    def parse(cls, data: bytes) -> Descriptor:
        """Read a descriptor that is not trusted; the engine checks that it holds together.

        Raises `RecordError`.
        """
        return cls.model_validate_json(inspect_descriptor(data))


class Params(BaseModel, defer_build=True):
    """What the command line asks for; paths come as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Inspected(OperationResult):
    """What looking into an image found, without digests."""

    size_bytes: Bytes
    encoding: Literal["identity", "zstd", "gzip", "xz"]
    boot_modes: list[Literal["bios", "uefi"]]
    partition_table: PartitionTable | None
    root_partition: int | None
    sector_bytes: int | None
    architecture: str | None
    root: Root | None
    system: System | None
    notes: list[str]
    problems: list[str]
    """Clauses: why it cannot be described."""


class InspectParams(Params):
    """An image to look into."""

    file: Path
    root_partition: Annotated[int, Field(ge=1)] | None = None


class DescribeParams(Params):
    """An image to describe."""

    file: Path | None = None
    ami: str | None = None
    """A machine image of EC2 in place of a file: `ami://…`; it is not kept."""
    output: Path | None = None
    """Where the descriptor is written, replacing what is there; by default beside the image."""
    name: Name
    image_version: Name
    created: datetime
    root_partition: Annotated[int, Field(ge=1)] | None = None
    """The number of the partition that has the root, if that is known better than by looking."""


class Described(OperationResult):
    """A descriptor that was written."""

    descriptor: Path
    descriptor_sha256: Sha256
    image: Descriptor


class VerifyParams(Params):
    """The file of an image, raw or packed, to check against a descriptor."""

    file: Path
    descriptor: Path
    descriptor_sha256: Sha256 | None = None
    key: Path | None = None
    """The public key that must have signed the descriptor, or a directory of several."""
    signature: Path | None = None
    """By default beside the descriptor."""


class Difference(BaseModel, defer_build=True):
    """A chunk that differs from the descriptor."""

    offset: Bytes
    length: Bytes
    kind: Literal["differs", "zeros", "not_zeros"]


class Verified(OperationResult):
    """What comparing a file with a descriptor found."""

    ok: bool = Field(validation_alias="matches")
    problem: str | None
    """What is wrong with the file as a whole."""
    size_bytes: Bytes
    mapped_bytes: Bytes
    content_bytes: Bytes
    content_sha256: Sha256 | None
    """Of the content, if it was read to its end."""
    different_chunks: Count
    differences: list[Difference]
    """The first hundred."""
    signed_by: str | None = None
    """The name of the key, if one was asked for."""

    @property
    def outcome(self) -> Outcome:
        """`differs` if the file does not match its descriptor."""
        return Outcome.OK if self.ok else Outcome.DIFFERS

    def why(self) -> str:
        """Return what is wrong with the file, as the end of a sentence."""
        if self.problem is not None:
            return self.problem
        first = self.differences[0].offset if self.differences else 0
        several = self.different_chunks > 1
        differ = f"{self.different_chunks} chunks differ" if several else "one chunk differs"
        return f"{differ}, {'the first ' if several else ''}at byte {first}"
