"""An independent reader and writer of dump records and of happycache's files.

Written from the description of the formats, with other programs than holdfast's: the `zstd`
command, the xxhash package, Python's gzip.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import xxhash

from tests.oracles.residency import PAGE, runs

Pages = Mapping[bytes, Iterable[int]]
_STRETCH = 1 << 20


def compress(data: bytes) -> bytes:
    """Make one zstd frame."""
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


def decompress(data: bytes) -> bytes:
    """Undo `compress`. Raises `CalledProcessError` for what is no zstd."""
    return subprocess.run(["zstdcat"], input=data, capture_output=True, check=True).stdout


@dataclass
class Record:
    """A record taken apart; `tiers` are the pages of each file by hotness, the coldest first."""

    header: dict[str, Any]
    lines: list[dict[str, Any]]
    trailer: dict[str, Any]
    digest: str
    tiers: dict[bytes, list[set[int]]] = field(default_factory=dict)

    @property
    def pages(self) -> dict[bytes, set[int]]:
        """All pages of each file, by its path relative to its root."""
        return {path: set().union(*tiers) for path, tiers in self.tiers.items()}


def path_of(line: Mapping[str, Any]) -> bytes:
    """Return the path of a line, in bytes."""
    if line.get("path_b64") is not None:
        return base64.b64decode(line["path_b64"], validate=True)
    text: str = line["path"]
    return text.encode()


def decode_tier(tier: Mapping[str, Any], pages: int) -> set[int]:
    """List the pages of a tier of a file of `pages` pages."""
    found: set[int] = set()

    def add(some: Iterable[int]) -> None:
        for page in some:
            assert page not in found, f"page {page} stands there twice"
            assert 0 <= page < pages, f"page {page} of {pages}"
            found.add(page)

    numbers: list[int] = tier.get("runs", [])
    at = 0
    for nth in range(0, len(numbers), 2):
        start = at + numbers[nth]
        at = start + numbers[nth + 1] if nth + 1 < len(numbers) else pages
        add(range(start, at))
    for first, text in tier.get("bits", []):
        for nth, byte in enumerate(base64.b64decode(text + "=" * (-len(text) % 4))):
            add(first + nth * 8 + bit for bit in range(8) if byte >> bit & 1)
    return found


def decode(content: bytes) -> Record:
    """Take a record apart, and check all that its trailer promises."""
    plain = decompress(content)
    assert plain.endswith(b"\n")
    lines = plain.split(b"\n")[:-1]
    header, *entries, trailer = (json.loads(line) for line in lines)
    before = plain[: plain.rindex(b"\n", 0, -1) + 1]
    record = Record(header, entries, trailer, xxhash.xxh64_hexdigest(before))
    assert trailer["xxh64"] == record.digest
    size = header["page_size"]
    for line in entries:
        sets = [decode_tier(tier, -(-line["size"] // size)) for tier in line["tiers"]]
        known = record.tiers.setdefault(path_of(line), [set() for _ in sets])
        for tier, pages in zip(known, sets, strict=True):
            assert not tier & pages
            tier.update(pages)
    total = sum(len(pages) for pages in record.pages.values())
    assert trailer["bytes"] == total * size
    assert trailer["files"] == len(record.tiers)
    assert sum(not line.get("more", False) for line in entries) == len(record.tiers)
    return record


def header(root: object = "/elsewhere", **other: Any) -> dict[str, Any]:
    """Make a header."""
    return {
        "format": "holdfast-pagecache-dump",
        "version": 1,
        "page_size": PAGE,
        "roots": [str(root)],
        "hotness": False,
    } | other


def line(path: str, size: int, *tiers: Any, **other: Any) -> dict[str, Any]:
    """Make a line; each tier is its `runs`, or a mapping. Without tiers, all pages of the file."""
    made = [tier if isinstance(tier, dict) else {"runs": tier} for tier in tiers or ([0],)]
    return {"path": path, "size": size, "mtime_ms": 0, "tiers": made} | other


def page_line(path: str, size: int, pages: Iterable[int], **other: Any) -> dict[str, Any]:
    """Make a line with exactly these pages."""
    numbers: list[int] = []
    at = 0
    for first, count in runs(sorted(pages)):
        numbers += [first - at, count]
        at = first + count
    return line(path, size, numbers, **other)


def plain_record(
    head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]], **trailer: Any
) -> bytes:
    """Write a record before its compression; `trailer` replaces members of the right one."""
    lines = list(lines)
    body = b"".join(json.dumps(each).encode() + b"\n" for each in [head, *lines])
    size = head.get("page_size", PAGE)
    pages = sum(
        len(decode_tier(tier, -(-each["size"] // size))) if "bytes" not in trailer else 0
        for each in lines
        for tier in each.get("tiers", [])
    )
    end = {
        "files": sum(not each.get("more", False) for each in lines),
        "bytes": pages * size,
        "xxh64": xxhash.xxh64_hexdigest(body),
    } | trailer
    return body + json.dumps(end).encode() + b"\n"


def encode(head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]], **trailer: Any) -> bytes:
    """Write a record."""
    return compress(plain_record(head, lines, **trailer))


def happycache(files: Pages) -> bytes:
    """Write a file as happycache 0.1.2 does."""
    text: list[bytes] = []
    for path, pages in files.items():
        before: int | None = None
        for page in sorted(pages):
            if before is None or before // _STRETCH != page // _STRETCH:
                text += [b"./" + path, b"%d" % page]
            else:
                text.append(b"%d" % (page - before))
            before = page
    return gzip.compress(b"".join(each + b"\n" for each in text))


def from_happycache(content: bytes) -> dict[bytes, set[int]]:
    """Read a file as happycache 0.1.2 does."""
    found: dict[bytes, set[int]] = {}
    path, page = b"", 0
    for each in gzip.decompress(content).splitlines():
        if each.startswith(b"./"):
            path, page = each[2:], 0
            continue
        # The first number after a path counts from 0, the others from the page before.
        page += int(each)
        known = found.setdefault(path, set())
        assert page not in known
        known.add(page)
    return found


def lone_manifest(prefix: str, count: int, first: int) -> bytes:
    """Make a manifest of files with names and content of their own."""
    head = {
        "format": "holdfast-manifest",
        "version": 1,
        "algorithm": "xxh64",
        "root": "/r",
        "path": "",
        "include": [],
        "exclude": [],
        "scan_started_ns": 0,
    }
    entry = (
        '{{"path":"{prefix}{nth:07}","type":"file","size":9,"status":"ok",'
        '"xxh64":"{content:016x}"}}'
    )
    body = json.dumps(head) + "\n"
    body += "".join(
        entry.format(prefix=prefix, nth=nth, content=first + nth) + "\n" for nth in range(count)
    )
    digest = xxhash.xxh64_hexdigest(body.encode())
    body += json.dumps({"files": count, "bytes": 9 * count, "xxh64": digest}) + "\n"
    return compress(body.encode())
