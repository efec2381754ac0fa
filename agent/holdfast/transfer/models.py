"""Requests and results of the transfer capability.

The same models describe the HTTP bodies, the stored operations and, as JSON, what the engine
returns. Sizes are bytes and rates bytes per second; times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from holdfast.engine.pressure import PressureLimit
from holdfast.operations.results import OperationResult, Outcome
from holdfast.records.models import AbsolutePath, Bytes, Count, Located, PathText, Request

DAY = 86_400
Proof = Literal["wire", "flushed", "media"]
LimitedBy = Literal["source-read", "wire", "destination-write", "processor"]
OtherFilesystems = Literal["refuse", "include", "leave_out"]
Side = Literal[
    "source-disk",
    "source-memory",
    "wire",
    "memory",
    "destination-memory",
    "destination-disk",
]
OfferState = Literal["unused", "in_use", "expired"]
Pattern = Annotated[str, Field(min_length=1, max_length=4096)]
Patterns = Annotated[list[Pattern], Field(max_length=1000)]
OfferId = Annotated[str, Field(min_length=26, max_length=26)]
Address = Annotated[
    str,
    Field(
        min_length=1, max_length=253, pattern=r"^[0-9A-Za-z]([0-9A-Za-z.:%_-]*)$|^::[0-9A-Fa-f.:]*$"
    ),
]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BytesPerSecond = Annotated[int, Field(ge=1, le=2**63 - 1)]


class OfferRequest(Request):
    """Offer a directory to one other node."""

    path: AbsolutePath = Field(description="The directory, in a root.")
    include: Patterns = Field(
        default_factory=list,
        description="Offer only what matches one of these; patterns as for manifests.",
    )
    exclude: Patterns = Field(
        default_factory=list,
        description="Leave out what matches one of these; a directory with all that is in it.",
    )
    files: Annotated[list[PathText], Field(min_length=1, max_length=100_000)] | None = Field(
        default=None,
        description="Offer only these files, relative to the directory; all of them if left out.",
    )
    other_filesystems: OtherFilesystems = Field(
        default="refuse",
        description="What to do where another file system is mounted below the directory: refuse "
        "to serve, include what is there, or leave it out and count it.",
    )
    expires_seconds: Annotated[int, Field(ge=1, le=30 * DAY)] = Field(
        default=DAY, description="How long the offer is valid; nothing is served afterwards."
    )
    bytes_per_second: BytesPerSecond | None = Field(
        default=None, description="Rate limit on what is read and sent."
    )
    pressure: PressureLimit | None = Field(
        default=None, description="Give way to others above a limit; never when left out."
    )


class TransferTicket(Request):
    """What one destination needs to fetch an offer; its bearer can fetch it, once.

    It is shown when the offer is made, and never again.
    """

    version: Literal[1] = 1
    offer: Hex32 = Field(description="The id of the offer, as a number.")
    addresses: Annotated[list[Address], Field(min_length=1, max_length=16)] = Field(
        description="Addresses of the source, tried in this order."
    )
    port: Annotated[int, Field(ge=1, le=65535)]
    fingerprint: Hex64 = Field(description="SHA-256 of the source's certificate.")
    key: Hex64 = Field(description="The single-use key.")
    path: PathText = Field(description="The path that is offered, for people.")
    expires_at: Annotated[int, Field(ge=0, le=2**53)] = Field(description="In Unix seconds.")


class TransferOffer(BaseModel, defer_build=True):
    """An offer, without its ticket."""

    id: str
    path: str
    include: list[str]
    exclude: list[str]
    files: Count | None = Field(description="How many files are listed; null for all.")
    other_filesystems: OtherFilesystems
    bytes_per_second: int | None
    created_at: datetime
    expires_at: datetime
    state: OfferState = Field(
        description="`unused`: no destination has used the ticket yet; `in_use`: one has, and only "
        "that one is served; `expired`: nothing is served."
    )
    connections: Count = Field(description="Connections of the destination that are open now.")
    sent_bytes: Bytes = Field(description="Bytes of files sent since the daemon started.")
    manifest: str | None = Field(
        description="The manifest that was made here when the destination completed."
    )
    manifest_digest: str | None = Field(
        description="SHA-256 of what a comparison compares; the destination has the same."
    )


class OfferList(BaseModel, defer_build=True):
    """Offers of this node, newest first."""

    offers: list[TransferOffer]


class OfferMade(BaseModel, defer_build=True):
    """A new offer, with its ticket."""

    offer: TransferOffer
    ticket: TransferTicket


class PullOptions(Request):
    """How to fetch."""

    path: AbsolutePath = Field(
        description="The destination directory, in a root; made if only its last name is missing."
    )
    final: bool = Field(
        default=False,
        description="Complete the transfer: refused while a process holds a file of the tree open "
        "for writing, on either end. A manifest is made, and no transfer writes there again.",
    )
    passes: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=8, description="Passes at most; a final pull makes one."
    )
    until_remaining: Bytes = Field(
        default=64 << 20,
        description="Stop after a pass that leaves at most this many bytes: as many as it fetched, "
        "and the files that kept changing while it read them.",
    )
    proof: Proof = Field(
        default="flushed",
        description="`wire`: every byte arrived as it was sent; `flushed`: and the device has "
        "confirmed it; `media`: and it was read back from the device, also what an earlier pull "
        "fetched.",
    )
    connections: Annotated[int, Field(ge=1, le=32)] | None = Field(
        default=None,
        description="Data connections; if left out, `transfer.connections` to begin with, and up "
        "to 32 while more are faster.",
    )
    bytes_per_second: BytesPerSecond | None = Field(
        default=None, description="Rate limit, beside that of the offer."
    )
    even_if_open: bool = Field(
        default=False,
        description="Make the final pass although files are held open for writing.",
    )
    map_owners: bool = Field(
        default=False,
        description="Give files to the users and groups that have the names here which the owners "
        "have on the source, not the numbers. The same in all pulls of a transfer.",
    )
    page_cache: bool = Field(
        default=False,
        description="With `final`: carry the source's record of what is in memory of the "
        "directory, and load it here.",
    )


class PullRequest(PullOptions):
    """Fetch what a ticket offers, or continue with a further ticket for the same directory."""

    ticket: TransferTicket


class PullParams(PullOptions):
    """What a pull was asked for; the ticket is kept apart, where no list of operations shows it."""

    offer: OfferId = Field(description="The id of the offer on the source.")
    source: str = Field(description="Address and port of the source.")
    source_path: str = Field(description="The path that is offered.")


class Unfinished(Located):
    """A file that could not be fetched whole."""

    reason: str


class UnmappedOwners(BaseModel, defer_build=True):
    """Owners without a name here; their files keep the number."""

    count: Count = 0
    names: list[str] = Field(default_factory=list, description="Some of them.")


class SourceManifest(BaseModel, defer_build=True):
    """The manifest that the source made of what it read."""

    digest: str = Field(description="SHA-256 of what a comparison of two manifests compares.")
    equal: bool = Field(description="Whether that of the destination is the same.")


class CarriedPageCache(BaseModel, defer_build=True):
    """What came of the source's record of its page cache."""

    record_bytes: Bytes = Field(description="Size of the record; 0 if the source had none.")
    requested: Bytes = Field(default=0, description="Bytes that were in memory on the source.")
    resident: Bytes = Field(default=0, description="Of these, bytes that are in memory here now.")
    problem: str | None = Field(default=None, description="Why it was not loaded, if it was not.")


class TransferPass(BaseModel, defer_build=True):
    """What one pass did."""

    files: Count = Field(description="Files on the source, each once.")
    bytes: Bytes
    fetched_files: Count = Field(description="Files that were fetched, whole or in part.")
    sent_bytes: Bytes = Field(description="Bytes of files that crossed the wire.")
    unchanged_files: Count = Field(description="Files that were here already.")
    removed: Count = Field(description="Names removed here, since the source has them no more.")
    seconds: float
    limited_by: LimitedBy | None = Field(description="What limited it; null if nothing was sent.")
    limited_seconds: dict[LimitedBy, float] = Field(
        default_factory=dict, description="For how long each thing limited it."
    )
    connections: Count = Field(default=0, description="Data connections, at the end.")
    reconnects: Count = Field(description="Attempts that failed and were made again.")
    differed_on_media: Count = Field(
        description="Files that were read back and differed, and were fetched again."
    )
    damaged_blocks: Count = Field(description="Blocks that were damaged in memory of either end.")
    unfinished_files: Count = Field(description="Files that kept changing or could not be read.")
    unfinished: list[Unfinished] = Field(description="Some of them, with the reason.")
    specials: dict[str, Count] = Field(
        description="FIFOs, sockets and devices, which are not made, by type."
    )
    special_names: list[Located] = Field(description="Some of them.")
    left_out: dict[str, Count] = Field(description="What the source left out, by reason.")
    unset: dict[str, Count] = Field(
        description="Of how many files, directories and links the `owner`, the `mode`, the `mtime` "
        "or `attributes` could not be set here."
    )
    unmapped_owners: UnmappedOwners = Field(
        default_factory=UnmappedOwners,
        description="Owners without a name here, whose files keep the number.",
    )


class PullResult(OperationResult):
    """What a pull did.

    Its outcome is `partial` if files are unfinished, something was left out but for what a pattern
    excludes, or an owner or attribute could not be set; `differs` if the manifests of both ends do.
    """

    transfer: str = Field(description="The id of the transfer.")
    path: str = Field(description="The destination directory.")
    proof: Proof = Field(description="How far every byte is proven.")
    complete: bool = Field(description="Whether the transfer is final; nothing writes there again.")
    manifest: str | None = Field(
        description="The id of the manifest of the destination; of a final pull only."
    )
    manifest_digest: str | None = Field(
        default=None, description="SHA-256 of what a comparison of that manifest compares."
    )
    source_manifest: SourceManifest | None = Field(
        default=None, description="The manifest that the source made; of a final pull only."
    )
    page_cache: CarriedPageCache | None = Field(
        default=None, description="What was loaded, if that was asked for."
    )
    files: Count = Field(description="Files on the source in the last pass.")
    bytes: Bytes = Field(description="Their bytes.")
    sent_bytes: Bytes = Field(description="Bytes of files that crossed the wire, in all passes.")
    remaining_bytes: Bytes = Field(
        description="Bytes that a further pass may fetch: as many as the last one, and the files "
        "that kept changing while it read them."
    )
    bytes_per_second: int | None = Field(
        description="Bytes sent by time, of the pass that sent most; null if nothing was sent."
    )
    limited_by: LimitedBy | None = Field(description="What limited that pass.")
    open_for_writing: list[str] = Field(
        default_factory=list,
        description="Who held files of the destination open for writing, where that was overruled.",
    )
    uninspected_processes: Count = Field(
        default=0,
        description="Processes whose open files this daemon may not see; they may hold some too.",
    )
    passes: list[TransferPass] = Field(description="What each pass did.")

    @property
    def outcome(self) -> Outcome:
        """`differs` if the manifests do, `partial` if the copy here is not all of the source."""
        if self.source_manifest is not None and not self.source_manifest.equal:
            return Outcome.DIFFERS
        last = self.passes[-1] if self.passes else None
        if last is None:
            return Outcome.OK
        left_out = last.left_out.keys() - {"excluded"}
        unset = last.unset or last.unmapped_owners.count
        incomplete = last.unfinished_files or last.specials or left_out or unset
        return Outcome.PARTIAL if incomplete else Outcome.OK


class RepairOptions(Request):
    """What to heal, and how."""

    path: AbsolutePath = Field(description="The destination directory, in a root.")
    overwrite_written: bool | None = Field(
        default=None,
        description="Whether files that were written to since they were transferred are set back "
        "to what the source's manifest has. If left out, only before the transfer is complete.",
    )
    bytes_per_second: BytesPerSecond | None = Field(
        default=None, description="Rate limit on what is read here."
    )
    even_if_open: bool = Field(
        default=False, description="Repair although files are held open for writing here."
    )


class RepairRequest(RepairOptions):
    """Compare a destination with the source's manifest, and fetch the chunks that differ."""

    ticket: TransferTicket


class RepairParams(RepairOptions):
    """What a repair was asked for; the ticket is kept apart."""

    offer: OfferId = Field(description="The id of the offer on the source.")
    source: str = Field(description="Address and port of the source.")
    source_path: str = Field(description="The path that is offered.")


class RepairFinding(Located):
    """A part of a file that differed."""

    offset: Bytes
    length: Bytes
    side: Side | None = Field(
        description="Which side is to blame; null where nobody can be named, as of a file that was "
        "written to."
    )
    repaired: bool = Field(description="Whether it is now as the source's manifest has it.")
    written_since: bool = Field(
        description="Whether the file was written to since it was transferred, or is gone."
    )
    detail: str | None


class RepairResult(OperationResult):
    """What a repair found and healed.

    Its outcome is `differs` if something is still not as the source's manifest has it, and
    `partial` if files changed on the source or are not in its manifest.
    """

    transfer: str = Field(description="The id of the transfer.")
    path: str = Field(description="The destination directory.")
    ok: bool = Field(description="All that could be compared is as the source's manifest has it.")
    files: Count = Field(description="Files that were compared.")
    bytes: Bytes
    differing_chunks: Count
    repaired_chunks: Count
    received_bytes: Bytes
    changed_on_source: Count = Field(
        description="Files that changed on the source since its manifest, and were not compared."
    )
    unknown_on_source: Count = Field(
        description="Files on the source that its manifest does not have."
    )
    left_alone: Count = Field(
        description="Files that were written to since they were transferred, and were left alone."
    )
    reconnects: Count
    findings_total: Count
    findings: list[RepairFinding] = Field(description="What differed, at most 1000 parts.")

    @property
    def outcome(self) -> Outcome:
        """`differs` if something is not healed, `partial` if not all could be compared."""
        if not self.ok:
            return Outcome.DIFFERS
        return Outcome.PARTIAL if self.changed_on_source or self.unknown_on_source else Outcome.OK


class Transfer(BaseModel, defer_build=True):
    """A transfer into this node."""

    id: str
    path: str = Field(description="The destination directory.")
    offer: str = Field(description="The id of the offer on the source that was used last.")
    source: str
    source_path: str
    created_at: datetime
    complete: bool = Field(description="Whether it is final; no transfer writes there again.")
    manifest: str | None = Field(description="The id of its manifest, once it is complete.")
    operation: str | None = Field(description="The pull that ran last.")


class TransferList(BaseModel, defer_build=True):
    """Transfers into this node, newest first."""

    transfers: list[Transfer]
