"""`holdfast pagecache`: see, dump, load and evict what is in the page cache."""
# Modules that are only needed once a command runs are imported there: `--help` should be instant.
# ruff: noqa: PLC0415

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.registration.arguments import Wait, absolute, share_of, size_of, span_of
from holdfast.cli.registration.command import command, group
from holdfast.cli.registration.completion import dump_ids
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import UsageError

app = group(
    "pagecache",
    "See, dump, load and evict what the page cache holds of the roots' files.",
    lines=[
        "holdfast pagecache show",
        "holdfast pagecache dump",
        "holdfast pagecache load",
    ],
)


class Policy(StrEnum):
    """Which files still count as those dumped."""

    STRICT = "strict"
    CLAMP = "clamp"
    ANY = "any"


class Order(StrEnum):
    """Which pages a load begins with."""

    AUTO = "auto"
    DUMPS = "dumps"
    SHARE = "share"


class Report(StrEnum):
    """Which files the result of a load names one by one."""

    INCOMPLETE = "incomplete"
    ALL = "all"


class GroupBy(StrEnum):
    """By what residency is grouped."""

    TABLE = "table"
    INDEX = "index"
    FILE_KIND = "file-kind"


class OnDenied(StrEnum):
    """What to do about files that may not be probed."""

    FAIL = "fail"
    SKIP = "skip"


DumpId = Annotated[
    str,
    typer.Argument(metavar="DUMP", help="A dump's id, or `latest`.", autocompletion=dump_ids),
]


@command(
    app,
    "show",
    local=True,
    lines=[
        "holdfast pagecache show",
        "holdfast pagecache show /mnt/data/sstables --depth 2 --top 20",
        "holdfast pagecache show --by table",
        "holdfast pagecache show --json | jq '.reports[].total.resident'",
    ],
)
def show(
    session: Session,
    *,
    path: Annotated[
        Path | None,
        typer.Argument(
            readable=False, help="A root, or a file or directory in one.", show_default="every root"
        ),
    ] = None,
    depth: Annotated[
        int, typer.Option(min=0, max=64, help="Levels of directories to break it down to.")
    ] = 1,
    top: Annotated[
        int,
        typer.Option(min=0, max=10_000, help="Files or groups to name, those with most in memory."),
    ] = 10,
    by: Annotated[
        GroupBy | None,
        typer.Option(
            help="Group the files of PostgreSQL, Cassandra, Lucene and RocksDB instead.",
            show_default="directories and files",
        ),
    ] = None,
) -> None:
    """Show how much of each root is in memory, by directory and by file, or by what it is."""
    named = None if path is None else absolute(path)
    state = session.backend.residency(
        path=named, depth=depth, top=top, by=None if by is None else by.value
    )
    if session.out.as_json:
        session.out.json(state)
        return
    from holdfast.cli.commands.pagecache.residency import show_state

    show_state(session.out, state)


@command(
    app,
    "dump",
    local=True,
    lines=[
        "holdfast pagecache dump",
        "holdfast pagecache dump /mnt/data/sstables --no-wait",
    ],
)
def dump(
    session: Session,
    *,
    path: Annotated[
        Path | None,
        typer.Argument(
            readable=False,
            help="Only this root, or file or directory in one.",
            show_default="every root",
        ),
    ] = None,
    hotness: Annotated[bool, typer.Option("--hotness", hidden=True, help="Has no effect.")] = False,
    on_denied: Annotated[
        OnDenied,
        typer.Option(help="When the kernel hides which pages of a file are resident."),
    ] = OnDenied.FAIL,
    unless_loading: Annotated[
        bool,
        typer.Option(
            "--unless-loading",
            help="Do nothing while the daemon loads a dump, of which a part would be missing.",
        ),
    ] = False,
    wait: Wait = True,
) -> None:
    """Record which pages of the roots' files are in memory."""
    from holdfast.cli.commands.pagecache.views import show_dumped
    from holdfast.cli.run.outcome import perform

    if hotness:
        session.out.note("--hotness has no effect any more: leave it out")
    if unless_loading:
        running = session.backend.running("pagecache.load")
        if running is not None:
            session.out.note(f"no dump is made while operation {running} loads one")
            return
    body = {
        "path": path and absolute(path),
        "on_denied": None if on_denied is OnDenied.FAIL else on_denied.value,
    }
    perform(session, "pagecache.dump", body, show_dumped, wait=wait)


@command(
    app,
    "load",
    local=True,
    lines=[
        "holdfast pagecache load",
        "holdfast pagecache load latest --budget 16GiB --rate 500MiB",
        "holdfast pagecache load --until 90% --deadline 15m",
        "holdfast pagecache load 01JDCB7X7V0Q1B5Y3F8M2R9T4K --into /mnt/data",
    ],
)
def load(
    session: Session,
    *,
    dump: DumpId = "latest",
    into: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="ROOT", help="The root to load into, for a dump made elsewhere."
        ),
    ] = None,
    policy: Annotated[
        Policy,
        typer.Option(
            help="Files that count as those dumped: strict, same size and time; clamp, same name; "
            "any, also a dump of another page size."
        ),
    ] = Policy.CLAMP,
    budget: Annotated[
        int | None,
        typer.Option(parser=size_of, metavar="SIZE", help="Load at most this much, e.g. 16GiB."),
    ] = None,
    reserve: Annotated[
        int | None,
        typer.Option(
            parser=size_of,
            metavar="SIZE",
            help="Leave this much memory free.",
            show_default="as configured",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(parser=size_of, metavar="SIZE", help="Read at most this much a second."),
    ] = None,
    order: Annotated[
        Order | None,
        typer.Option(
            help="What comes first: dumps, the pages that several dumps show to be needed most; "
            "share, an even share of every file; auto, dumps under a budget.",
            show_default="dumps with --until, else auto",
        ),
    ] = None,
    report: Annotated[
        Report, typer.Option(help="Files that --json lists one by one.")
    ] = Report.INCOMPLETE,
    until: Annotated[
        float | None,
        typer.Option(
            parser=share_of,
            metavar="SHARE",
            help="Return once this share of the expected hits was loaded, e.g. 90%; of the bytes "
            "where there is one dump only. The daemon loads on, one read at a time; --local ends.",
        ),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(
            parser=span_of, metavar="TIME", help="Return after so long at the latest, e.g. 15m."
        ),
    ] = None,
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="Succeed if there is no dump at all.")
    ] = False,
    wait: Wait = True,
) -> None:
    """Read the pages of a dump back into memory, and check with the kernel that they are there."""
    from holdfast.cli.commands.pagecache.views import show_loaded
    from holdfast.cli.run.outcome import Enough, perform

    enough = None
    if until is not None or deadline is not None:
        if not wait:
            raise UsageError("--until and --deadline bound the wait, so not with --no-wait")
        enough = Enough(
            until,
            deadline,
        )
    if missing_ok and not session.backend.dumps.list()["dumps"]:
        session.out.note("there is no dump to load")
        return
    body = {
        "dump": dump,
        "root": into and absolute(into),
        "policy": None if policy is Policy.CLAMP else policy.value,
        "budget_bytes": budget,
        "reserve_bytes": reserve,
        "bytes_per_second": rate,
        "order": order.value if order is not None else Order.DUMPS.value if until else None,
        "yield_at": until,
        "report": None if report is Report.INCOMPLETE else report.value,
    }
    perform(
        session,
        "pagecache.load",
        body,
        show_loaded,
        wait=wait,
        enough=enough,
    )


@command(
    app,
    "evict",
    local=True,
    lines=[
        "holdfast pagecache evict /mnt/data/old-sstables",
        "holdfast pagecache evict --sync /mnt/data",
    ],
)
def evict(
    session: Session,
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(readable=False, help="Files, directories or roots; all must be in a root."),
    ],
    sync: Annotated[
        bool, typer.Option("--sync", help="Write dirty pages out first, so that they can go too.")
    ] = False,
    wait: Wait = True,
) -> None:
    """Drop the pages of files from memory. No data is lost: they are read again when needed."""
    from holdfast.cli.commands.pagecache.views import show_evicted
    from holdfast.cli.run.outcome import perform

    body = {"paths": [absolute(path) for path in paths], "sync": sync or None}
    perform(session, "pagecache.evict", body, show_evicted, wait=wait)


@command(
    app,
    "list",
    local=True,
    lines=["holdfast pagecache list", "holdfast pagecache list --json | jq -r '.dumps[].id'"],
)
def list_dumps(session: Session) -> None:
    """List the stored dumps, newest first."""
    dumps = session.backend.dumps.list()
    if session.out.as_json:
        session.out.json(dumps)
        return
    from holdfast.cli.commands.pagecache.views import show_dumps

    show_dumps(session.out, dumps)


@command(
    app,
    "delete",
    local=True,
    lines=["holdfast pagecache delete 01JDCB7X7V0Q1B5Y3F8M2R9T4K"],
)
def delete(
    session: Session,
    *,
    dumps: Annotated[
        list[str], typer.Argument(metavar="DUMP...", help="Ids of dumps.", autocompletion=dump_ids)
    ],
) -> None:
    """Delete stored dumps."""
    for dump_id in dumps:
        session.backend.dumps.delete(dump_id)
        if not session.out.as_json:
            session.out.line(f"deleted dump {dump_id}")
    if session.out.as_json:
        session.out.json({"deleted": dumps})
