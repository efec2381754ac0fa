"""The imager's orders: job.json, and what it reports with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.node.models import BlockDevice
from holdfast.node.paths.directories import DirectoryIdentity
from holdfast.privileged.boot.models import (
    OUTCOME_BYTES,
    ArmRequest,
    BootMode,
    OutcomeRecord,
    Target,
)
from holdfast.privileged.writes import Refused
from holdfast.text.wording import first

MAX_DESCRIPTOR = 64 << 20
"""Bytes."""


class _Partition(BaseModel, defer_build=True):
    model_config = ConfigDict(extra="allow")

    number: int
    file_system: str | None = None


class _PartitionTable(BaseModel, defer_build=True):
    kind: str | None = None
    partitions: list[_Partition] = []


class Descriptor(BaseModel, defer_build=True):
    """The part of an image's descriptor that is checked here; the imager checks all of it."""

    model_config = ConfigDict(frozen=True)

    format: str
    version: int
    name: str
    image_version: str = ""
    size_bytes: int
    boot_modes: list[BootMode] = []
    partition_table: _PartitionTable | None = None
    root_partition: int | None = None
    inspected: bool = False
    sector_bytes: int | None = None
    architecture: str | None = None
    root: dict[str, Any] | None = None

    @property
    def root_file_system(self) -> str | None:
        """The file system that the identity is written to."""
        if self.root is not None and self.root.get("volume"):
            kind = self.root.get("file_system")
            return kind if isinstance(kind, str) else None
        if self.partition_table is None:
            return None
        for partition in self.partition_table.partitions:
            if partition.number == self.root_partition:
                return partition.file_system
        return None


def parse_descriptor(content: bytes, sha256: str) -> Descriptor:
    """Parse a descriptor that must have this digest. Raises `Refused`.

    Neither the content of another file nor its digest is reported: the caller may not be allowed to
    read it.
    """
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Refused(f"The descriptor has another SHA-256 than {sha256}.")
    try:
        descriptor = Descriptor.model_validate_json(content)
    except ValidationError as error:
        raise Refused(f"The descriptor is wrong: {first(error)}.") from None
    if (descriptor.format, descriptor.version) != ("holdfast-image", 1):
        raise Refused("It is no descriptor of an image that is known here.")
    return descriptor


def now() -> str:
    """Return the time as the job has it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Job:
    """All that the imager receives."""

    request: ArmRequest
    hostname: str
    target: Target
    source: dict[str, Any]
    network: dict[str, Any] | None
    outcome_offset: int
    data_disks: Sequence[BlockDevice]
    modules: Sequence[str]
    previous: dict[str, Any] | None = None
    """Where the old disk is kept, in the form of an image's `source`."""
    state_dir: DirectoryIdentity | None = None
    """The state directory, by which the imager and the new system recognise it."""
    lifeboat: Mapping[str, int] | None = None
    """Where on the target it is: `offset_bytes` and `length_bytes`."""
    watchdog: bool = False
    """There is a hardware watchdog, and its module is among `modules` or part of the kernel."""

    def document(self) -> bytes:
        """Return job.json."""
        status, at = self.request.status, now()
        document = {
            "format": "holdfast-job",
            "version": 1,
            "nonce": self.request.nonce,
            "secret": self.request.secret,
            "operation": self.request.operation,
            "created": at,
            "hostname": self.hostname,
            "target": self.target.model_dump(),
            "descriptor_sha256": self.request.descriptor_sha256,
            "source": self.source,
            "network": self.network,
            "status": None
            if status is None
            else {
                "listen": status.listen,
                "tls": status.certificate is not None,
                "tokens": status.tokens is not None,
                "client_ca": status.client_ca is not None,
            },
            "outcome": {"offset_bytes": self.outcome_offset, "length_bytes": OUTCOME_BYTES},
            "data_disks": [
                {
                    "serial": disk.serial,
                    "model": disk.model,
                    "wwid": disk.wwid,
                    "size_bytes": disk.size_bytes,
                }
                for disk in self.data_disks
            ],
            "modules": list(self.modules),
            "time": at,
            "state_dir": None if self.state_dir is None else self.state_dir.model_dump(),
            "lifeboat": self.lifeboat,
            "watchdog": self.watchdog,
            "options": {
                "grow_root": self.request.grow_root,
                **({"allow_unprotected": True} if self.request.allow_unprotected else {}),
                "save_previous": None
                if self.previous is None
                else {
                    "file_system": self.previous["file_system"],
                    "uuid": self.previous["uuid"],
                    "array": self.previous["array"],
                    "directory": self.previous["path"],
                },
            },
        }
        return json.dumps(document, indent=1).encode() + b"\n"


def blank_outcome(nonce: str) -> bytes:
    """Return the record as the imager finds it."""
    record = OutcomeRecord(nonce=nonce, started=0, state="armed")
    document = {"format": "holdfast-outcome", "version": 1} | record.model_dump()
    text = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    return text.ljust(OUTCOME_BYTES)


def parse_outcome(content: bytes) -> OutcomeRecord:
    """Read a record. Raises `ValueError` with a clause."""
    if len(content) != OUTCOME_BYTES:
        raise ValueError(f"has {len(content)} bytes instead of {OUTCOME_BYTES}")
    try:
        document = json.loads(content.partition(b"\n")[0])
        if (document["format"], document["version"]) != ("holdfast-outcome", 1):
            raise ValueError("is of another format")
        return OutcomeRecord.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"cannot be understood: {first(error)}") from None
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be understood: {' '.join(str(error).split())}") from None
