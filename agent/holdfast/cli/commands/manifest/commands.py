"""`holdfast manifest`: record files with their digests, verify and compare them."""
# Modules that are only needed once a command runs are imported there: `--help` should be instant.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.registration.arguments import Wait, absolute, size_of
from holdfast.cli.registration.command import command, group
from holdfast.cli.registration.completion import manifest_ids, operation_ids
from holdfast.cli.registration.pressure import PressureGroup, PressurePercent, pressure_limit
from holdfast.cli.run.session import Session

if TYPE_CHECKING:
    from holdfast.cli.terminal.output import Output

app = group(
    "manifest",
    "Record files with their digests; verify and compare them, to prove that a copy is faithful.",
    lines=[
        "holdfast manifest build",
        "holdfast manifest verify",
        "holdfast manifest diff 01JDCB7X7V0Q1B5Y3F8M2R9T4K latest",
    ],
)


class Algorithm(StrEnum):
    """Digests."""

    XXH64 = "xxh64"
    XXH3_128 = "xxh3_128"
    BLAKE3 = "blake3"


ManifestId = Annotated[
    str,
    typer.Argument(
        metavar="MANIFEST", help="A manifest's id, or `latest`.", autocompletion=manifest_ids
    ),
]
Rate = Annotated[
    int | None,
    typer.Option(parser=size_of, metavar="SIZE", help="Read at most this much a second."),
]


@command(
    app,
    "build",
    local=True,
    lines=[
        "holdfast manifest build",
        "holdfast manifest build /mnt/data/sstables --exclude '*.tmp' --rate 500MiB",
        "holdfast manifest build --algorithm blake3 --full",
    ],
)
def build(
    session: Session,
    *,
    path: Annotated[
        Path | None,
        typer.Argument(
            readable=False,
            help="A root, or a directory in one.",
            show_default="the root, if there is one only",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="List only what matches; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out what matches; may be repeated."),
    ] = None,
    algorithm: Annotated[
        Algorithm, typer.Option(help="The digest. Only blake3 is cryptographic.")
    ] = Algorithm.XXH64,
    full: Annotated[
        bool, typer.Option("--full", help="Read files also if they have not changed.")
    ] = False,
    rate: Rate = None,
    pressure: PressurePercent = None,
    pressure_cgroup: PressureGroup = None,
    wait: Wait = True,
) -> None:
    """Record every file below a directory with its digest. Unchanged files are not read again."""
    from holdfast.cli.commands.manifest.views import show_built
    from holdfast.cli.run.outcome import perform

    body = {
        "path": path and absolute(path),
        "include": include or None,
        "exclude": exclude or None,
        "algorithm": None if algorithm is Algorithm.XXH64 else algorithm.value,
        "full": full or None,
        **_limits(rate, pressure, pressure_cgroup),
    }
    perform(session, "manifest.build", body, show_built, wait=wait)


@command(
    app,
    "verify",
    local=True,
    lines=[
        "holdfast manifest verify",
        "holdfast manifest verify 01JDCB7X7V0Q1B5Y3F8M2R9T4K --path /mnt/data",
        "holdfast manifest verify --sample 5",
    ],
)
def verify(
    session: Session,
    *,
    manifest: ManifestId = "latest",
    path: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            help="The directory to verify, in a root.",
            show_default="where the manifest was made",
        ),
    ] = None,
    sample: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            min=0.0001,
            max=100,
            help="Read only this share of all chunks, at random.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Make the same choice again.")
    ] = None,
    rate: Rate = None,
    pressure: PressurePercent = None,
    pressure_cgroup: PressureGroup = None,
    wait: Wait = True,
) -> None:
    """Read files and compare them with a manifest. Exits with 3 if anything differs."""
    from holdfast.cli.commands.manifest.views import show_verified
    from holdfast.cli.run.outcome import judge, perform

    body = {
        "manifest": manifest,
        "path": path and absolute(path),
        "sample_percent": sample,
        "seed": seed,
        **_limits(rate, pressure, pressure_cgroup),
    }
    judge(perform(session, "manifest.verify", body, show_verified, wait=wait))


@command(
    app,
    "diff",
    local=True,
    lines=[
        "holdfast manifest diff 01JDCB7X7V0Q1B5Y3F8M2R9T4K latest",
        "holdfast manifest diff --all 01JDCB7X7V0Q1B5Y3F8M2R9T4K latest | grep '^!'",
    ],
)
def diff(
    session: Session,
    *,
    left: ManifestId,
    right: ManifestId,
    identical: Annotated[bool, typer.Option("--all", help="Name also what is identical.")] = False,
) -> None:
    """Print in what two manifests differ, a line each. Exits with 3 if anything does.

    = identical, ! differing, - only left, + only right, ~ moved or with other metadata.
    """
    from holdfast.cli.run.outcome import judge, perform

    def show(out: Output, operation: Mapping[str, Any]) -> None:
        from holdfast.cli.commands.manifest.views import comparison, finding_lines, findings_of
        from holdfast.manifests.models import CompareResult

        for line in finding_lines(findings_of(session.backend.report(operation["id"]))):
            out.line(line)
        out.note(comparison(CompareResult.model_validate(operation["result"])))

    body = {"left": left, "right": right, "identical": identical or None}
    judge(perform(session, "manifest.compare", body, show, wait=True))


@command(
    app,
    "report",
    local=True,
    lines=[
        "holdfast manifest report 01JDCB7X7V0Q1B5Y3F8M2R9T4K",
        "holdfast manifest report 01JDCB7X7V0Q1B5Y3F8M2R9T4K --json | jq -r .path",
    ],
)
def report(
    session: Session,
    *,
    operation: Annotated[
        str,
        typer.Argument(
            metavar="OPERATION", help="A verify or compare.", autocompletion=operation_ids
        ),
    ],
) -> None:
    """Print every finding of a verification or comparison; with --json a document on each line."""
    from holdfast.cli.commands.manifest.views import finding_lines, findings_of

    findings = findings_of(session.backend.report(operation))
    if session.out.as_json:
        for finding in findings:
            session.out.json_line(finding, at_once=False)
        return
    for line in finding_lines(findings):
        session.out.line(line)


@command(
    app,
    "show",
    local=True,
    lines=["holdfast manifest show", "holdfast manifest show --json | jq .bytes"],
)
def show_manifest(session: Session, *, manifest: ManifestId = "latest") -> None:
    """Show what a manifest has: totals, the largest files, those without a digest."""
    found = session.backend.manifests.show(manifest)
    if session.out.as_json:
        session.out.json(found)
        return
    from holdfast.cli.commands.manifest import views as manifest_views

    manifest_views.show_manifest(session.out, found)


@command(
    app,
    "list",
    local=True,
    lines=["holdfast manifest list", "holdfast manifest list --json | jq -r '.manifests[].id'"],
)
def list_manifests(session: Session) -> None:
    """List the stored manifests, newest first."""
    found = session.backend.manifests.list()
    if session.out.as_json:
        session.out.json(found)
        return
    from holdfast.cli.commands.manifest.views import show_manifests

    show_manifests(session.out, found)


@command(
    app,
    "delete",
    local=True,
    lines=["holdfast manifest delete 01JDCB7X7V0Q1B5Y3F8M2R9T4K"],
)
def delete(
    session: Session,
    *,
    manifests: Annotated[
        list[str],
        typer.Argument(
            metavar="MANIFEST...", help="Ids of manifests.", autocompletion=manifest_ids
        ),
    ],
) -> None:
    """Delete stored manifests."""
    for manifest in manifests:
        session.backend.manifests.delete(manifest)
        if not session.out.as_json:
            session.out.line(f"deleted manifest {manifest}")
    if session.out.as_json:
        session.out.json({"deleted": manifests})


def _limits(rate: int | None, percent: float | None, cgroup: str | None) -> dict[str, Any]:
    return {"bytes_per_second": rate, "pressure": pressure_limit(percent, cgroup)}
