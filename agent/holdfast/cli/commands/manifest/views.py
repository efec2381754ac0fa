"""Views of manifests, and of the results of operations on them, for a person."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.phrases import name_of, show_left_out, took_of, when_of
from holdfast.cli.terminal.tables import Column
from holdfast.manifests.models import (
    BuildResult,
    CompareResult,
    FileProblem,
    Manifest,
    ManifestDetails,
    ManifestList,
    Reading,
    Totals,
    VerifyResult,
)

_EXAMPLES = 10
_CHUNK = 64 << 20  # ranges are as fine as chunks, which are a multiple of this
_SIGNS = {
    "identical": "=",
    "differing": "!",
    "mismatched": "!",
    "changed": "!",
    "unreadable": "!",
    "unproven": "!",
    "only_left": "-",
    "missing": "-",
    "only_right": "+",
    "extra": "+",
    "moved": "~",
    "metadata": "~",
}


def show_built(out: Output, operation: Mapping[str, Any]) -> None:
    """Print what a build recorded."""
    result = BuildResult.model_validate(operation["result"])
    read = took_of(operation, result.hashed_bytes)
    out.line(f"recorded {units.size(result.bytes)} in {_contents(result)}{read}")
    if result.reused_files:
        out.line(
            f"{units.counted(result.reused_files, 'file')} had not changed: "
            f"{units.size(result.reused_bytes)} not read again"
        )
    if result.resumed_bytes:
        out.line(f"{units.size(result.resumed_bytes)} had been read before the interruption")
    if result.previous_unusable:
        out.line(f"the earlier manifest was of no use: {units.printable(result.previous_unusable)}")
    _show_reading(out, result)
    _show_problems(out, result, result.problems, all_named=result.problems_all)
    show_left_out(out, result.left_out)
    if not result.files and result.left_out:
        out.line("no file was recorded: all that is there was left out", "bold red")
    out.line(f"manifest {result.manifest}, {units.size(result.record_bytes)} on disk")
    out.hint(f"to verify: holdfast manifest verify {result.manifest}")


def show_verified(out: Output, operation: Mapping[str, Any]) -> None:
    """Print the result of a verification."""
    result = VerifyResult.model_validate(operation["result"])
    what = units.counted(result.checked_files, "file")
    if result.sample_percent is not None:
        what = (
            f"{units.count(result.chunks_checked)} of {units.count(result.chunks_total)} chunks "
            f"in {what}"
        )
    out.line(f"read {units.size(result.bytes)}, {what}{took_of(operation, result.bytes)}")
    _show_reading(out, result)
    for line in finding_lines(result.model_dump(mode="json")["findings"]):
        out.line(f"  {line}")
    if not result.findings_all:
        out.line(f"  and more: holdfast manifest report {operation['id']}")
    show_left_out(out, result.left_out)
    counts = (
        (result.mismatched, "mismatched"),
        (result.missing, "missing"),
        (result.extra, "extra"),
        (result.changed, "changed while reading"),
        (result.unreadable, "unreadable"),
        (result.unproven, "without a digest in the manifest"),
    )
    wrong = ", ".join(f"{units.count(number)} {name}" for number, name in counts if number)
    where = f"{units.printable(result.path)} against manifest {result.manifest}"
    if result.ok:
        sample = " as far as was read" if result.sample_percent is not None else ""
        match = f"all {what} match{sample}" if result.checked_files else "neither has a file"
        out.line(f"ok: {where}, {match}", "green")
    else:
        out.line(f"NOT OK: {where}: {wrong or result.why}", "bold red")


def show_compared(out: Output, operation: Mapping[str, Any]) -> None:
    """Print in what two manifests differ, as far as the result lists it."""
    result = CompareResult.model_validate(operation["result"])
    for line in finding_lines(result.model_dump(mode="json")["findings"]):
        out.line(line)
    if not result.findings_all:
        out.line(f"and more: holdfast manifest report {operation['id']}")
    out.line(comparison(result))


def comparison(result: CompareResult) -> str:
    """Return one line on how two manifests differ."""
    counts = (
        (result.identical, "identical"),
        (result.differing, "differing"),
        (result.only_left, "only left"),
        (result.only_right, "only right"),
        (result.moved, "moved"),
        (result.metadata, "with other metadata"),
        (result.unproven, "without a digest"),
    )
    counted = ", ".join(f"{units.count(number)} {name}" for number, name in counts if number)
    return counted or "both are empty"


def show_manifest(out: Output, answer: Any) -> None:
    """Print a stored manifest."""
    manifest = ManifestDetails.model_validate(answer)
    safe = "not cryptographic: finds accidents, not forgeries"
    if manifest.cryptographic:
        safe = "cryptographic: finds forgeries as well"
    out.line(f"manifest {manifest.id}", "bold")
    out.fields(
        [
            ("of", _base(manifest)),
            ("made", f"{when_of(manifest.created_at)} on {units.printable(manifest.host)}"),
            ("digests", f"{manifest.algorithm} ({safe})"),
            ("contents", f"{units.size(manifest.bytes)} in {_contents(manifest)}"),
            ("only", ", ".join(map(units.printable, manifest.include))),
            ("without", ", ".join(map(units.printable, manifest.exclude))),
            ("on disk", units.size(manifest.record_bytes)),
            ("marks", _marks(manifest)),
        ],
        indent=2,
    )
    if manifest.largest:
        out.heading("Largest files")
        out.table(
            [">size", Column("digest", rank=1), "~file"],
            [
                (
                    units.size(file.size),
                    file.digest or "-",
                    units.printable(name_of(file)),
                )
                for file in manifest.largest
            ],
            indent=2,
        )
    _show_problems(out, manifest, manifest.problems, all_named=manifest.problems_all)


def show_manifests(out: Output, answer: Any) -> None:
    """Print the stored manifests as a table."""
    stored = ManifestList.model_validate(answer)
    if not stored.manifests:
        out.line("no manifests yet")
        out.hint("to make one: holdfast manifest build")
    else:
        out.table(
            [
                "manifest",
                "made",
                ">bytes",
                Column("files", right=True, rank=2),
                Column("without digest", right=True, rank=3),
                Column("digests", rank=4),
                Column("host", rank=5),
                Column("of", rank=1),
                "",
            ],
            [
                (
                    manifest.id,
                    units.age(manifest.created_at),
                    units.size(manifest.bytes),
                    units.count(manifest.files),
                    units.count(manifest.files - manifest.ok),
                    manifest.algorithm,
                    units.printable(manifest.host),
                    _base(manifest),
                    _marks(manifest),
                )
                for manifest in stored.manifests
            ],
        )
    for damaged in stored.damaged:
        out.line(f"{damaged.id} cannot be used: {units.printable(damaged.detail)}")


def show_stored(out: Output, answer: Any) -> None:
    """Print a manifest that was put into the store."""
    manifest = ManifestDetails.model_validate(answer)
    out.line(f"stored as manifest {manifest.id}")
    out.hint(f"to verify: holdfast manifest verify {manifest.id} --path DIRECTORY")


def findings_of(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the findings of a report, one line at a time."""
    for line in lines:
        member = json.loads(line)
        if "finding" in member:
            yield member


def finding_lines(findings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Write findings as lines that begin with `= ! + - ~`."""
    for finding in findings:
        path = _path(finding)
        if finding["type"] == "directory":
            path += "/"
        if moved_to := finding.get("moved_to"):
            path += f" -> {_path(moved_to)}"
        detail = _detail_of(finding)
        sign = _SIGNS.get(finding["finding"], "?")
        yield f"{sign} {path}" + (f"  ({detail})" if detail else "")


def _detail_of(finding: Mapping[str, Any]) -> str:
    kind, reason = finding["finding"], finding.get("reason")
    parts = []
    if fields := finding.get("fields"):
        parts.append("other " + ", ".join(map(units.printable, fields)))
    if kind in ("changed", "unreadable", "unproven"):
        parts.append(
            {
                "changed": "changed while it was read",
                "unreadable": "unreadable",
                "unproven": "no digest to compare with",
            }[kind]
        )
    left, right = finding.get("left_size"), finding.get("right_size")
    if reason == "size" and left is not None and right is not None:
        parts.append(f"size {left} -> {right}")
    elif reason:
        parts.append(f"other {units.printable(reason)}")
    if ranges := finding.get("ranges"):
        parts.append(_bytes(ranges, kind, left, right))
    if detail := finding.get("detail"):
        parts.append(units.printable(detail))
    return ", ".join(parts)


def _bytes(ranges: Sequence[Sequence[int]], kind: str, left: int | None, right: int | None) -> str:
    """Name ranges, each `[from, to)`."""
    begin, end = ranges[0]
    if left is not None and right is not None:
        whole = end == max(left, right)
    else:
        # A verification reports no sizes: what does not end where a chunk does ends with the file.
        whole = kind == "mismatched" and end % _CHUNK != 0
    if begin == 0 and whole:
        return "whole file"
    shown = ", ".join(f"{begin}-{end}" for begin, end in ranges[:_EXAMPLES])
    more = f" and {len(ranges) - _EXAMPLES} more ranges" if len(ranges) > _EXAMPLES else ""
    return f"bytes {shown}{more}"


def _base(manifest: Manifest) -> str:
    """Name the directory that a manifest is of."""
    return units.printable(str(PurePosixPath(manifest.root, manifest.path)))


def _path(located: Mapping[str, Any]) -> str:
    encoded = located.get("path_b64")
    path = os.fsdecode(base64.b64decode(encoded)) if encoded else located["path"]
    return units.printable(path)


def _contents(totals: Totals) -> str:
    more = (
        (totals.directories, "directory", "directories"),
        (totals.symlinks, "symlink", None),
        (totals.specials, "special file", None),
    )
    parts = [units.counted(totals.files, "file")]
    parts += [units.counted(number, noun, plural) for number, noun, plural in more if number]
    return ", ".join(parts)


def _show_reading(out: Output, reading: Reading) -> None:
    if reading.hole_bytes:
        out.line(f"{units.size(reading.hole_bytes)} were holes, which need no reading")
    for seconds, why in (
        (reading.rate_wait_seconds, "for the rate limit"),
        (reading.pressure_wait_seconds, "to give way to others"),
    ):
        if seconds >= 1:
            out.line(f"waited {units.duration(seconds)} {why}")
    if reading.reader_note:
        out.line(f"read by {reading.reader}: {units.printable(reading.reader_note)}")


def _show_problems(
    out: Output, totals: Totals, problems: Sequence[FileProblem], *, all_named: bool
) -> None:
    counts = (
        (totals.changed, "changed while they were read"),
        (totals.vanished, "vanished"),
        (totals.errors, "could not be read"),
    )
    counted = ", ".join(f"{units.count(number)} {what}" for number, what in counts if number)
    if not counted:
        return
    out.line(f"without a digest: {counted}")
    for problem in problems[:_EXAMPLES]:
        detail = f" ({units.printable(problem.detail)})" if problem.detail else ""
        out.line(f"  {units.printable(name_of(problem))}: {problem.status}{detail}")
    if len(problems) > _EXAMPLES or not all_named:
        out.line("  and more, which --json names")


def _marks(manifest: Manifest) -> str:
    marks = (("latest", manifest.latest), ("uploaded", manifest.uploaded))
    return ", ".join(name for name, holds in marks if holds)
