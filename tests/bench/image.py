"""Images: how fast one is described and verified, beside sha256sum on the same file."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.context import Context
from tests.bench.figures import Section, at_least, interleave
from tests.bench.peers import Timed, run
from tests.bench.tree import GIB, MIB

_SIZE = 4 * GIB
_HOLDFAST = (sys.executable, "-m", "holdfast")


def benchmark(context: Context) -> Iterator[Section]:
    """Describe a raw image without a hole, which is in the page cache, as whole processes."""
    size = max(64 * MIB, int(_SIZE * context.scale) // MIB * MIB)
    image = _write(context.work / "image" / "disk.raw", size)
    descriptor = image.with_name("disk.raw.json")
    section = Section(
        "Images: describe and verify",
        f"A raw image of {size / GIB:.2f} GiB without zeros, in the page cache; whole processes. "
        "To describe it takes two digests of each byte: of its chunk, and of the file.",
        "MiB/s",
    )

    def describe() -> Timed:
        return run([*_HOLDFAST, "image", "describe", image, "--quiet"])

    def verify() -> Timed:
        # It leaves nothing of the file in the page cache: what it read is read again for the next.
        done = run([*_HOLDFAST, "image", "verify", image, descriptor, "--quiet"])
        _warm(image)
        return done

    def sha256sum() -> Timed:
        return run(["sha256sum", image])

    describe()
    _warm(image)
    contenders = {"describe": describe, "verify": verify, "sha256sum": sha256sum}
    found = interleave(contenders, context.rounds, context.say)
    series = {
        name: section.add(name, [size / MIB / run.seconds for run in runs])
        for name, runs in found.items()
    }
    for name in ("describe", "verify"):
        ratio = series[name].median / series["sha256sum"].median
        section.verdicts.append(at_least(name, ratio, 0.9, of="sha256sum"))
    yield section


def _write(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    block = random.Random(0).randbytes(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)
    return path


def _warm(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass
