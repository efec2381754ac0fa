"""The model of this machine. Sizes are bytes; null means that the machine does not report it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from holdfast.operations.model import Timestamp


class Identity(BaseModel, defer_build=True):
    """Which machine this is, and which system runs on it."""

    hostname: str
    machine_id: str | None = Field(description="/etc/machine-id; changes with the image.")
    boot_id: str | None = Field(description="Changes with each boot.")
    image_id: str | None = Field(
        description="/etc/holdfast/image-id, or IMAGE_ID and IMAGE_VERSION of os-release."
    )
    os_name: str | None = Field(description="PRETTY_NAME of os-release.")
    kernel: str = Field(description="Release of the running kernel.")
    architecture: str
    cpus: int = Field(description="Logical processors online.")
    booted_at: Timestamp
    holdfast_version: str


class Instance(BaseModel, defer_build=True):
    """The instance of EC2 that this machine is, as its metadata service reports it; for people."""

    id: str | None
    type: str | None
    zone: str | None
    launch_image: str | None = Field(
        description="The AMI that the instance was launched from. What runs now is `image_id` of "
        "the node: re-imaging changes that one and leaves this one."
    )


class CgroupMemory(BaseModel, defer_build=True):
    """Memory of one cgroup that this process is in; null for a limit that is not set."""

    version: Literal[1, 2]
    path: str = Field(description="Within the hierarchy, `/` for its root.")
    max_bytes: int | None = Field(description="Above it the kernel reclaims, then kills.")
    high_bytes: int | None = Field(description="Above it the kernel throttles and reclaims.")
    current_bytes: int | None


class Memory(BaseModel, defer_build=True):
    """Memory of this machine, and what its cgroups leave to this process."""

    total_bytes: int
    available_bytes: int = Field(
        description="For new work without swapping, as the kernel guesses."
    )
    cached_bytes: int = Field(description="In the page cache.")
    dirty_bytes: int | None = Field(description="Waiting to be written.")
    swap_total_bytes: int
    swap_used_bytes: int
    page_size: int
    cgroups: list[CgroupMemory] = Field(
        description="This process's cgroup first, then its ancestors."
    )
    headroom_bytes: int | None = Field(
        description="What the tightest cgroup limit leaves; null when none is set."
    )


class BlockDevice(BaseModel, defer_build=True):
    """One block device. A partition has no queue of its own: see the device that it is on."""

    name: str = Field(description="The kernel's name, for example `nvme0n1p1`.")
    path: str = Field(description="In /dev, for example `/dev/mapper/data`.")
    type: Literal["disk", "partition", "dm", "md", "loop"]
    detail: str | None = Field(
        description="`raid0` of md, `lvm` or `crypt` of dm, the file behind a loop device."
    )
    number: str = Field(description="`major:minor`.")
    size_bytes: int | None
    read_only: bool | None
    model: str | None
    serial: str | None
    wwid: str | None = Field(description="World-wide id, where the disk has one.")
    rotational: bool | None
    scheduler: str | None
    read_ahead_kb: int | None
    nr_requests: int | None
    logical_block_size: int | None
    physical_block_size: int | None
    lies_on: list[str] = Field(description="Names of the devices right below; none for a disk.")


class Disk(BaseModel, defer_build=True):
    """A whole disk, and why it must not be written over."""

    name: str = Field(description="The kernel's name, for example `nvme0n1`.")
    path: str
    model: str | None
    serial: str | None
    wwid: str | None
    size_bytes: int
    target: bool = Field(description="Whether the running system is on it.")
    data: bool = Field(description="Whether a root is on it.")
    excluded: list[str] = Field(description="Sentences: why it must not be written over.")


class RootTopology(BaseModel, defer_build=True):
    """Where a root lies: its mount, and every device from there down to the disks."""

    root: str
    exists: bool
    mount_point: str | None
    source: str | None = Field(description="What is mounted, as the kernel names it.")
    file_system: str | None
    options: str | None = Field(
        description="Of the mount and its file system, as mount(8) on the machine shows them and "
        "not as the service does, which itself sees nearly everything read-only. The service's "
        "own view where /proc/1/mountinfo cannot be read or has no such mount."
    )
    size_bytes: int | None
    available_bytes: int | None = Field(description="To users who are not root.")
    devices: list[BlockDevice] = Field(description="From the mounted device down to the disks.")
    note: str | None = Field(description="Why something is not known.")


class NodeReport(Identity):
    """Everything that is reported of this machine."""

    node_id: str | None = Field(
        default=None,
        description="This node's own, which stays with its data: 32 hexadecimal digits. Null "
        "while the data volume is missing.",
    )
    cluster: str = Field(default="", description="Of the settings, as are `group` and `labels`.")
    group: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    instance: Instance | None = Field(
        default=None, description="Null elsewhere than in EC2, and until its service has replied."
    )
    memory: Memory
    roots: list[RootTopology]
