"""Offers and transfers as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.phrases import name_of, took_of, when_of
from holdfast.cli.terminal.tables import Column
from holdfast.transfer.models import (
    CarriedPageCache,
    OfferList,
    PullResult,
    RepairResult,
    Transfer,
    TransferList,
    TransferPass,
)

_LIMITS = {
    "source-read": "reading on the source",
    "wire": "the wire",
    "destination-write": "writing here",
    "processor": "processors",
}
_PROOFS = {
    "wire": "every byte arrived as it was sent",
    "flushed": "every byte is flushed to the device",
    "media": "every byte was read back from the device",
}
_EXAMPLES = 10


def show_pulled(out: Output, operation: Mapping[str, Any]) -> None:
    """Print what a pull did."""
    result = PullResult.model_validate(operation["result"])
    took = took_of(operation, result.sent_bytes)
    files = units.counted(result.files, "file")
    out.line(
        f"fetched {units.size(result.sent_bytes)} of {units.size(result.bytes)}, {files}{took}"
    )
    for number, finished in enumerate(result.passes, 1):
        out.line(f"  pass {number}: {_pass(finished)}")
    if result.limited_by is not None:
        out.line(f"limited by {_LIMITS[result.limited_by]}")
    if result.passes:
        _show_last(out, result.passes[-1])
    for holder in result.open_for_writing:
        out.line(f"open for writing all the same: {units.printable(holder)}", "yellow")
    if result.uninspected_processes:
        count = units.counted(result.uninspected_processes, "process", "processes")
        out.line(f"the open files of {count} could not be seen", "yellow")
    out.line(f"proof: {_PROOFS[result.proof]}")
    if not result.complete:
        remaining = units.size(result.remaining_bytes)
        out.hint(
            f"about {remaining} remain; to fetch what changes meanwhile, the same command "
            "again; to cut over, stop the datastore on the source and add --final"
        )
        return
    if result.page_cache is not None:
        _show_page_cache(out, result.page_cache)
    if result.source_manifest is not None and not result.source_manifest.equal:
        out.line("NOT EQUAL: the manifests of source and destination differ", "bold red")
    source = result.source_manifest
    same = ", equal to the source's" if source is not None and source.equal else ""
    where = units.printable(result.path)
    out.line(f"complete: {where}, manifest {result.manifest}{same}", "green")
    out.hint(f"to read all of it again: holdfast manifest verify {result.manifest}")


def _show_page_cache(out: Output, carried: CarriedPageCache) -> None:
    if carried.problem is not None:
        out.line(f"page cache not loaded: {units.printable(carried.problem)}", "yellow")
        return
    what = f"{units.size(carried.resident)} of {units.size(carried.requested)}"
    out.line(f"page cache: {what} that were in memory on the source are in memory here")


def _pass(finished: TransferPass) -> str:
    parts = [
        f"{units.size(finished.sent_bytes)} in {units.counted(finished.fetched_files, 'file')}",
        f"{units.count(finished.unchanged_files)} unchanged",
    ]
    for number, noun in (
        (finished.removed, "removed"),
        (finished.reconnects, "times connected again"),
        (finished.damaged_blocks, "blocks damaged in memory"),
        (finished.differed_on_media, "files differed on the device and were fetched again"),
        (finished.unfinished_files, "unfinished"),
    ):
        if number:
            parts.append(f"{units.count(number)} {noun}")
    rate = (
        f" ({units.rate(finished.sent_bytes / finished.seconds)})"
        if finished.sent_bytes and finished.seconds
        else ""
    )
    return f"{', '.join(parts)}, {units.duration(finished.seconds)}{rate}"


def _show_last(out: Output, last: TransferPass) -> None:
    """Print what the last pass could not transfer."""
    for unfinished in last.unfinished[:_EXAMPLES]:
        out.line(
            f"unfinished: {units.printable(name_of(unfinished))}: {unfinished.reason}", "yellow"
        )
    names = ", ".join(units.printable(name_of(name)) for name in last.special_names[:_EXAMPLES])
    for kind, count in last.specials.items():
        out.line(f"not made: {units.count(count)} {units.plain_words(kind)} ({names})", "yellow")
    for reason, count in last.left_out.items():
        out.line(f"left out by the source: {units.count(count)} {units.plain_words(reason)}")
    if last.unmapped_owners.count:
        named = ", ".join(last.unmapped_owners.names[:_EXAMPLES])
        out.line(f"owners without a name here, kept as numbers: {units.printable(named)}", "yellow")
    for what, count in last.unset.items():
        out.line(f"could not be set: {units.plain_words(what)} of {units.count(count)}", "yellow")


def show_repaired(out: Output, operation: Mapping[str, Any]) -> None:
    """Print what a repair found and healed."""
    result = RepairResult.model_validate(operation["result"])
    files = units.counted(result.files, "file")
    out.line(f"compared {units.size(result.bytes)} in {files}{took_of(operation, result.bytes)}")
    for finding in result.findings[:_EXAMPLES]:
        parts = f"{finding.offset}-{finding.offset + finding.length}"
        side = f", {units.plain_words(finding.side)}" if finding.side else ""
        state = "repaired" if finding.repaired else "NOT repaired"
        detail = f": {units.printable(finding.detail)}" if finding.detail else ""
        style = "" if finding.repaired else "bold red"
        out.line(f"  {units.printable(name_of(finding))} [{parts}] {state}{side}{detail}", style)
    if result.findings_total > _EXAMPLES:
        more = units.count(result.findings_total - _EXAMPLES)
        out.line(f"  and {more} more: holdfast op show {operation['id']}")
    for number, what in (
        (result.left_alone, "written to since the transfer and left alone: --overwrite-written"),
        (result.changed_on_source, "changed on the source since its manifest, not compared"),
        (result.unknown_on_source, "on the source that its manifest does not have"),
    ):
        if number:
            out.line(f"{units.counted(number, 'file')} {what}", "yellow")
    chunks = f"{units.counted(result.repaired_chunks, 'chunk')} repaired"
    where = units.printable(result.path)
    if result.ok:
        out.line(f"ok: {where} is as the source's manifest has it, {chunks}", "green")
    else:
        left = units.counted(result.differing_chunks - result.repaired_chunks, "chunk")
        out.line(f"NOT OK: {where}: {chunks}, {left} not", "bold red")


def show_transfers(out: Output, found: Any) -> None:
    """Print transfers into this node."""
    listed = TransferList.model_validate(found)
    if not listed.transfers:
        out.line("no transfer into this node is known")
        return
    out.table(
        ["id", "state", "~path", Column("source", rank=1), Column("started", rank=2)],
        [
            [
                transfer.id,
                "complete" if transfer.complete else "open",
                units.printable(transfer.path),
                f"{transfer.source} {units.printable(transfer.source_path)}",
                units.age(transfer.created_at),
            ]
            for transfer in listed.transfers
        ],
        styles={"complete": "green"},
    )


def show_transfer(out: Output, found: Any) -> None:
    """Print one transfer into this node."""
    transfer = Transfer.model_validate(found)
    out.fields(
        [
            ("id", transfer.id),
            ("path", units.printable(transfer.path)),
            ("source", f"{transfer.source} {units.printable(transfer.source_path)}"),
            ("offer", transfer.offer),
            ("started", when_of(transfer.created_at)),
            ("state", "complete" if transfer.complete else "open"),
            ("manifest", transfer.manifest or ""),
            ("last pull", transfer.operation or ""),
        ]
    )


def show_offers(out: Output, found: Any) -> None:
    """Print what this node offers."""
    listed = OfferList.model_validate(found)
    if not listed.offers:
        out.line("nothing is offered")
        return
    out.table(
        [
            "id",
            "state",
            "~path",
            Column("connections", right=True, rank=2),
            Column("sent", right=True, rank=1),
            Column("expires", rank=3),
        ],
        [
            [
                offer.id,
                offer.state.replace("_", " "),
                units.printable(offer.path),
                units.count(offer.connections),
                units.size(offer.sent_bytes),
                units.moment(offer.expires_at),
            ]
            for offer in listed.offers
        ],
    )
