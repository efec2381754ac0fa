"""Page-cache results as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.phrases import name_of, show_left_out, show_skipped, took_of, when_of
from holdfast.cli.terminal.tables import Column
from holdfast.pagecache.models import Dump, DumpList, DumpResult, EvictResult, LoadResult
from holdfast.records.models import Located

_BAR = 16
_EXAMPLES = 5


def show_dumped(out: Output, operation: Mapping[str, Any]) -> None:
    """Print what a dump recorded."""
    result = DumpResult.model_validate(operation["result"])
    took = took_of(operation)
    out.line(
        f"dumped {units.size(result.bytes)} resident in {units.counted(result.files, 'file')}, "
        f"of {units.count(result.files_scanned)} inspected{took}"
    )
    out.line(f"dump {result.dump}, {units.size(result.record_bytes)} on disk")
    _show_skipped(out, result)
    if result.method == "mincore":
        out.line(
            "each file was probed the slow way, with mincore: this kernel has no cachestat (Linux "
            "6.5), or a root is on a file system where cachestat does not see the pages"
        )
    out.hint(f"to load it: holdfast pagecache load {result.dump}")


def show_loaded(out: Output, operation: Mapping[str, Any]) -> None:
    """Print what a load read again, and what it did not."""
    result = LoadResult.model_validate(operation["result"])
    took = took_of(operation, result.loaded)
    out.line(
        f"loaded {units.size(result.loaded)}{took}; "
        f"{units.size(result.already_resident)} was there already"
    )
    there = result.loaded + result.already_resident
    bar = units.bar(there, result.requested, 2 * _BAR, unicode=out.unicode)
    out.line(
        f"{bar}  {units.percent(there, result.requested)} of the {units.size(result.requested)} "
        f"in dump {result.dump}, {units.count(result.files_complete)} of "
        f"{units.counted(result.files, 'file')} complete"
    )
    if result.expected_hits is not None:
        out.line(
            f"{units.percent(result.expected_hits, 1)} of the expected hits, by "
            f"{units.counted(len(result.dumps), 'dump')}"
        )
    elif result.order == "share":
        out.line(f"an even share of every file; {result.order_detail or 'as requested'}")
    for unused in result.dumps_left_out:
        out.line(f"dump {unused.dump} did not count: {units.printable(unused.detail)}")
    if result.missing:
        out.line(f"missing {units.size(result.missing)}, also after reading it again")
    if result.stopped is not None:
        out.line(
            f"stopped early for {units.plain_words(result.stopped)}: "
            f"{units.size(result.budget)} was allowed by {units.plain_words(result.budget_limit)}"
        )
    if result.skipped_bytes:
        out.line(f"not asked for: {units.size(result.skipped_bytes)}")
    show_skipped(out, result.skipped, result.left_out)
    show_left_out(out, result.left_out)
    short = [file for file in result.reported if file.reason is not None or file.missing]
    for file in short[:_EXAMPLES]:
        what = units.plain_words(file.reason) if file.reason else ""
        if file.missing:
            what = f"missing {units.size(file.missing)}"
        _show_example(out, file, what, file.detail)
    if len(short) > _EXAMPLES:
        out.line(f"  and {units.count(len(short) - _EXAMPLES)} more, which --json names")


def show_evicted(out: Output, operation: Mapping[str, Any]) -> None:
    """Print what an eviction dropped and what stayed."""
    result = EvictResult.model_validate(operation["result"])
    out.line(
        f"evicted {units.size(result.evicted)} of {units.size(result.resident_before)} in "
        f"{units.counted(result.files, 'file')}{took_of(operation)}"
    )
    if result.retained:
        out.line(f"stayed in memory: {units.size(result.retained)}")
        out.table(
            [">stayed", Column("dirty", right=True, rank=1), "~why", "~file"],
            [
                (
                    units.size(entry.retained),
                    "" if entry.dirty is None else units.size(entry.dirty),
                    ", ".join(entry.reasons),
                    units.printable(name_of(entry)),
                )
                for entry in result.retained_files
            ],
            indent=2,
        )
    _show_skipped(out, result)


def show_dumps(out: Output, answer: Any) -> None:
    """Print the stored dumps as a table."""
    stored = DumpList.model_validate(answer)
    if not stored.dumps:
        out.line("no dumps yet")
        out.hint("to make one: holdfast pagecache dump")
    else:
        _show_dump_table(out, stored.dumps)
    for damaged in stored.damaged:
        out.line(f"{damaged.id} cannot be used: {units.printable(damaged.detail)}")


def _show_dump_table(out: Output, dumps: Sequence[Dump]) -> None:
    out.table(
        [
            "dump",
            "made",
            ">in memory",
            Column("files", right=True, rank=2),
            Column("on disk", right=True, rank=3),
            Column("host", rank=4),
            Column("roots", rank=1),
            "",
        ],
        [
            (
                dump.id,
                units.age(dump.created_at),
                units.size(dump.bytes),
                units.count(dump.files),
                units.size(dump.record_bytes),
                units.printable(dump.host),
                ", ".join(units.printable(root) for root in dump.roots),
                _marks(dump),
            )
            for dump in dumps
        ],
    )


def show_stored(out: Output, answer: Any) -> None:
    """Print a dump that was put into the store."""
    dump = Dump.model_validate(answer)
    out.line(f"stored as dump {dump.id}")
    out.fields(
        [
            ("made", f"{when_of(dump.created_at)} on {units.printable(dump.host)}"),
            ("of", ", ".join(units.printable(root) for root in dump.roots)),
            ("in memory", f"{units.size(dump.bytes)} of {units.counted(dump.files, 'file')}"),
        ],
        indent=2,
    )
    out.hint(f"to load it: holdfast pagecache load {dump.id}")


def _marks(dump: Dump) -> str:
    marks = (
        ("latest", dump.latest),
        ("uploaded", dump.uploaded),
    )
    return ", ".join(name for name, holds in marks if holds)


def _show_skipped(out: Output, result: DumpResult | EvictResult) -> None:
    show_skipped(out, result.skipped, result.left_out)
    others = [each for each in result.examples if each.reason not in result.left_out]
    for example in others[:_EXAMPLES]:
        _show_example(out, example, units.plain_words(example.reason), example.detail)
    show_left_out(out, result.left_out)


def _show_example(out: Output, file: Located, what: str, detail: str | None) -> None:
    more = f" ({units.printable(detail)})" if detail else ""
    out.line(f"  {units.printable(name_of(file))}: {what}{more}")
