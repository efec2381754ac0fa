"""Calls of the engine for manifests, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.tree import GIB, MIB

_CHECKOUT = Path(__file__).resolve().parents[2]
_MOST_BYTES = 4 * GIB


@dataclass(frozen=True)
class Call:
    """One call: its result and its cost."""

    seconds: float
    process_seconds: float
    """From the start of the process to its end, which is what a peer is measured by."""
    processor_seconds: float
    peak_memory: int
    samples: Sequence[tuple[float, int, str]]
    """Seconds since the start, bytes done by then, and the phase; every ten milliseconds."""
    outcome: Mapping[str, Any]

    @property
    def rate(self) -> float:
        """Bytes of the tree in a second of the call."""
        return float(self.outcome["bytes"]) / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.seconds:.3f} s ({self.process_seconds:.3f} s the process, "
            f"{self.processor_seconds:.2f} s of processors), {self.rate / 1e9:.2f} GB/s, "
            f"peak {self.peak_memory / MIB:.0f} MiB"
        )


def call(name: str, request: Mapping[str, Any], processors: Sequence[int] | None = None) -> Call:
    """Call the engine in a process of its own, on some of the processors only if so asked."""
    document = {"call": name, "request": request, "processors": processors}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.worker"],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        cwd=_CHECKOUT,
        check=False,
    )
    process_seconds = time.monotonic() - began
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Call(process_seconds=process_seconds, **json.loads(done.stdout))


def build(
    root: Path,
    destination: Path,
    *,
    previous: Path | None = None,
    reader: str = "auto",
    processors: Sequence[int] | None = None,
) -> Call:
    """Build a manifest of a whole root; raises `RuntimeError` if any file could not be read."""
    built = call(
        "build_manifest",
        {
            "place": {"root": str(root), "path": ""},
            "exclude": [],
            "include_patterns": [],
            "exclude_patterns": [],
            "algorithm": "xxh64",
            "destination": str(destination),
            "journal": f"{destination}.journal",
            "previous": [] if previous is None else [str(previous)],
            "max_bytes": _MOST_BYTES,
            "header": {},
            "bytes_per_second": None,
            "pressure": None,
            "reader": reader,
        },
        processors,
    )
    if built.outcome["ok"] != built.outcome["files"]:
        raise RuntimeError(f"not every file was read: {built.outcome}")
    return built


def verify(
    root: Path, record: Path, report: Path, *, processors: Sequence[int] | None = None
) -> Call:
    """Verify a root against a manifest; raises `RuntimeError` if anything differs."""
    verified = call(
        "verify_manifest",
        {
            "record": str(record),
            "max_bytes": _MOST_BYTES,
            "place": {"root": str(root), "path": ""},
            "exclude": [],
            "sample_percent": None,
            "seed": 0,
            "report": str(report),
            "header": {},
            "bytes_per_second": None,
            "pressure": None,
            "reader": "auto",
        },
        processors,
    )
    if not verified.outcome["ok"]:
        raise RuntimeError(f"what was just built does not verify: {verified.outcome}")
    return verified


def export(record: Path, destination: Path) -> str:
    """Export a manifest as xxhsum prints it, and return the text."""
    with destination.open("wb") as output:
        call(
            "export_manifest",
            {
                "source": str(record),
                "output": output.fileno(),
                "max_bytes": _MOST_BYTES,
                "form": "xxhsum",
            },
        )
    text = destination.read_text()
    destination.unlink()
    return text
