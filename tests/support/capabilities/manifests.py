"""Manifests over HTTP, and damage to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.oracles.records import compress, plain_record
from tests.support.capabilities.building import MIB

CHUNK = 64 * MIB


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def manifest_record(head: dict[str, Any], lines: list[dict[str, Any]], **trailer: Any) -> bytes:
    """Write a manifest; `trailer` replaces members of the right one."""
    files = [line for line in lines if line.get("type") == "file" and "hardlink_of" not in line]
    sums: dict[str, Any] = {
        "files": len(lines),
        "bytes": sum(line.get("size", 0) for line in files),
    }
    return compress(plain_record(head | {"page_size": 4096}, lines, **(sums | trailer)))


def head(**other: Any) -> dict[str, Any]:
    known = {"format": "holdfast-manifest", "version": 1, "algorithm": "xxh64", "root": "/r"}
    return known | {"path": "", "include": [], "exclude": [], "scan_started_ns": 0} | other


def file(path: str, size: int = 5, **other: Any) -> dict[str, Any]:
    line = {"path": path, "type": "file", "size": size, "status": "ok", "xxh64": "0" * 16}
    return {key: value for key, value in (line | other).items() if value is not None}
