"""Files of a tmpfs, saved to the device and put back, beside cp(1) and xxh64sum(1)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.context import Context
from tests.bench.figures import Section, at_least
from tests.support.capabilities.memory import MIB, MemoryNode, memory_node
from tests.support.daemon.harness import create_tokens, daemons

_DATA = 1024 * MIB
_HOLE = 1024 * MIB


def benchmark(context: Context) -> Iterator[Section]:
    """Save and restore a file of which half is a hole."""
    work = context.work / "memory"
    work.mkdir()
    data = int(_DATA * min(1.0, context.scale))
    with daemons(work, create_tokens(work)) as start:
        size = 4 * data + 64 * MIB
        with memory_node(start, work, size=size, log_level="warning") as node:
            with (node.root / "memory_file").open("wb") as file:
                for _ in range(data // MIB):
                    file.write(os.urandom(MIB))
                file.truncate(data + _HOLE)
            (node.root / "memory_file.meta").write_bytes(b"x" * 400)
            yield from _measure(context, node, work, data, size)


def _measure(
    context: Context, node: MemoryNode, work: Path, data: int, size: int
) -> Iterator[Section]:
    about = (
        f"One file of {data // MIB} MiB of data and a hole of {_HOLE // MIB} MiB. holdfast: the "
        "operation's own time, flushed, with the digest. cp: `cp --sparse=always`, `sync -f` "
        "after a save, and `xxh64sum` of the copy; from the page cache after a save, without it "
        "before a restore."
    )
    saving, restoring = Section("Saves", about, "MB/s"), Section("Restores", about, "MB/s")
    took: dict[str, list[float]] = {}
    copy, file = work / "copy", node.root / "memory_file"
    for _ in range(context.rounds):
        began = time.monotonic()
        subprocess.run(["cp", "--sparse=always", file, copy], check=True)
        subprocess.run(["sync", "-f", copy], check=True)
        took.setdefault("cp out", []).append(time.monotonic() - began)
        subprocess.run(["xxh64sum", copy], check=True, capture_output=True)
        took.setdefault("cp and xxh64sum out", []).append(time.monotonic() - began)
        took.setdefault("holdfast out", []).append(_seconds(node, "saves", {}))
        subprocess.run(["dd", f"if={copy}", "iflag=nocache", "count=0"], check=False,
                       capture_output=True)  # fmt: skip
        node.lose(size)
        began = time.monotonic()
        subprocess.run(["cp", "--sparse=always", copy, file], check=True)
        took.setdefault("cp in", []).append(time.monotonic() - began)
        subprocess.run(["xxh64sum", file], check=True, capture_output=True)
        took.setdefault("cp and xxh64sum in", []).append(time.monotonic() - began)
        node.lose(size)
        took.setdefault("holdfast in", []).append(_seconds(node, "restores", {}))
    for section, suffix in ((saving, " out"), (restoring, " in")):
        for name, seconds in took.items():
            if name.endswith(suffix):
                rates = [data / each / 1e6 for each in seconds]
                section.add(name.removesuffix(suffix), rates)
        ours, theirs = (min(took[name + suffix]) for name in ("holdfast", "cp and xxh64sum"))
        section.verdicts.append(at_least("speed", theirs / ours, 1.0, of="cp and xxh64sum"))
        yield section


def _seconds(node: MemoryNode, path: str, body: dict[str, Any]) -> float:
    operation = node.daemon.finish(node.daemon.start(f"/v1/memory/{path}", body), seconds=600)
    assert operation["state"] == "succeeded", operation
    moments = [datetime.fromisoformat(operation[f"{what}_at"]) for what in ("started", "finished")]
    return (moments[1] - moments[0]).total_seconds()
