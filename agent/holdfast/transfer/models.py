"""Requests and results of the transfer capability.

The same models describe the HTTP bodies, the stored operations and, as JSON, what the engine
returns. Sizes are bytes and rates bytes per second; times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from holdfast.operations.results import OperationResult, Outcome
from holdfast.pressure import PressureLimit
from holdfast.records.models import AbsolutePath, Bytes, Count, Located, PathText, Request

DAY = 86_400
Proof = Literal["wire", "flushed", "media"]
LimitedBy = Literal["source-read", "wire", "destination-write", "processor"]
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
    other_filesystems: Literal["refuse", "leave_out"] = Field(
        default="refuse",
        description="What to do where another file system is mounted below the directory: refuse "
        "to serve, or leave out what is there and count it.",
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


class TransferOffer(BaseModel):
    """An offer, without its ticket."""

    id: str
    path: str
    include: list[str]
    exclude: list[str]
    files: Count | None = Field(description="How many files are listed; null for all.")
    other_filesystems: Literal["refuse", "leave_out"]
    bytes_per_second: int | None
    created_at: datetime
    expires_at: datetime
    state: OfferState = Field(
        description="`unused`: no destination has used the ticket yet; `in_use`: one has, and only "
        "that one is served; `expired`: nothing is served."
    )
    connections: Count = Field(description="Connections of the destination that are open now.")
    sent_bytes: Bytes = Field(description="Bytes of files sent since the daemon started.")


class OfferList(BaseModel):
    """Offers of this node, newest first."""

    offers: list[TransferOffer]


class OfferMade(BaseModel):
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
        default=64 << 20, description="Stop after a pass that fetched at most this many bytes."
    )
    proof: Proof = Field(
        default="flushed",
        description="`wire`: every byte arrived as it was sent; `flushed`: and the device has "
        "confirmed it; `media`: and it was read back from the device.",
    )
    connections: Annotated[int, Field(ge=1, le=32)] | None = Field(
        default=None, description="Data connections; `transfer.connections` if left out."
    )
    bytes_per_second: BytesPerSecond | None = Field(
        default=None, description="Rate limit, beside that of the offer."
    )
    even_if_open: bool = Field(
        default=False,
        description="Make the final pass although files are held open for writing.",
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
        description="Owners and attributes that could not be set here, by kind."
    )


class PullResult(OperationResult):
    """What a pull did.

    Its outcome is `partial` if files are unfinished, something was left out but for what a pattern
    excludes, or an owner or attribute could not be set.
    """

    transfer: str = Field(description="The id of the transfer.")
    path: str = Field(description="The destination directory.")
    proof: Proof = Field(description="How far every byte is proven.")
    complete: bool = Field(description="Whether the transfer is final; nothing writes there again.")
    manifest: str | None = Field(
        description="The id of the manifest of the destination; of a final pull only."
    )
    files: Count = Field(description="Files on the source in the last pass.")
    bytes: Bytes = Field(description="Their bytes.")
    sent_bytes: Bytes = Field(description="Bytes of files that crossed the wire, in all passes.")
    remaining_bytes: Bytes = Field(
        description="Bytes that the last pass fetched: about what a further one would."
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
        """`partial` if the copy here is not all that the source has."""
        last = self.passes[-1] if self.passes else None
        if last is None:
            return Outcome.OK
        left_out = last.left_out.keys() - {"excluded"}
        incomplete = last.unfinished_files or last.specials or left_out or last.unset
        return Outcome.PARTIAL if incomplete else Outcome.OK


class Transfer(BaseModel):
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


class TransferList(BaseModel):
    """Transfers into this node, newest first."""

    transfers: list[Transfer]
