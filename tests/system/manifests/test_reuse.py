"""A digest is used again only if it still holds, whatever the file system and way of writing."""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from holdfast import _engine
from tests.support.machine.filesystems import KINDS, new_file_system

PAGE = mmap.PAGESIZE
SIZE = 3 * PAGE + 100
NAMES = ("a", "b")
# Kept in whole seconds, times need a second to move on; else the kernel's tick.
REST_SECONDS = {"ext4-128": 1.1}


class Builder:
    """Builds manifests of a directory, one after the other, as the daemon does."""

    def __init__(self, root: Path, records: Path) -> None:
        self.root = root
        self._records = records
        self._count = 0
        self.result: dict[str, Any] = {}

    def build(self) -> dict[str, str | None]:
        """Build one; gives the digest of each file by its name, None for one without."""
        previous = self._records / f"{self._count}"
        self._count += 1
        record = self._records / f"{self._count}"
        request = {
            "place": {"root": str(self.root)},
            "exclude": [],
            "include_patterns": [],
            "exclude_patterns": [],
            "algorithm": "xxh64",
            "destination": str(record),
            "journal": f"{record}.journal",
            "previous": [str(previous)] if previous.exists() else [],
            "max_bytes": 1 << 30,
            "header": {},
            "bytes_per_second": None,
            "pressure": None,
        }
        self.result = json.loads(_engine.build_manifest(json.dumps(request), _engine.Progress()))
        lines = _engine.decompress(record.read_bytes(), "zstd", 1 << 30).decode().splitlines()[1:-1]
        entries = map(json.loads, lines)
        return {entry["path"]: entry.get("xxh64") for entry in entries if entry["type"] == "file"}

    def expected(self) -> dict[str, str]:
        """Read and hash every file, independently."""
        return {
            path.name: xxhash.xxh64_hexdigest(path.read_bytes())
            for path in self.root.iterdir()
            if path.is_file()
        }


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(kind: str, disk_dir: Path) -> Iterator[Path]:
    with new_file_system(kind, disk_dir) as place:
        (place / "data").mkdir()
        yield place / "data"


@pytest.fixture
def builder(root: Path, tmp_path: Path) -> Builder:
    return Builder(root, tmp_path)


@pytest.fixture
def rest(kind: str) -> Callable[[], None]:
    return lambda: time.sleep(REST_SECONDS.get(kind, 0.03))


def test_a_store_into_a_page_that_was_dirty_is_seen(
    builder: Builder, rest: Callable[[], None]
) -> None:
    """The kernel stamps a file at the first store into a clean page, and not at the second."""
    path = builder.root / "mapped"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        mapped[0:8] = b"version1"
        rest()
        assert builder.build() == builder.expected()
        mapped[0:8] = b"version2"
        assert builder.build() == builder.expected()
        mapped[PAGE : PAGE + 8] = b"version3"
        rest()
        assert builder.build() == builder.expected()
        mapped.flush()
        assert builder.build() == builder.expected()


def test_a_second_write_of_the_same_size_in_the_same_second_is_seen(
    builder: Builder, rest: Callable[[], None]
) -> None:
    path = builder.root / "quick"
    for round_ in range(2):
        # At the beginning of a second, so that all of it is in the same one.
        time.sleep(1.01 - time.time() % 1)
        path.write_bytes(b"one" * 100)
        time.sleep(0.05)
        assert builder.build() == builder.expected()
        path.write_bytes(b"%3d" % round_ * 100)
        assert builder.build() == builder.expected()


def test_what_is_unchanged_is_not_read_again(
    kind: str, builder: Builder, rest: Callable[[], None]
) -> None:
    for name in NAMES:
        (builder.root / name).write_bytes(name.encode() * SIZE)
    rest()
    rest()
    assert builder.build() == builder.expected()
    assert builder.build() == builder.expected()
    if kind in {"tmpfs", "overlay"}:
        assert builder.result["reused_files"] == 0
        assert "leaves a trace" in builder.result["previous_unusable"]
    else:
        assert (builder.result["reused_files"], builder.result["read_bytes"]) == (2, 0)


class Writers(RuleBasedStateMachine):
    """Programs that write to the same few files in every way, and builds at quiet moments."""

    builder: Builder
    rest: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self._maps: dict[str, mmap.mmap] = {}
        for path in self.builder.root.iterdir():
            path.unlink()
        for name in NAMES:
            self.write_whole(name, b"original")
        self.map_it(NAMES[0])

    def teardown(self) -> None:
        for mapped in self._maps.values():
            mapped.close()

    name = strategies.sampled_from(NAMES)
    data = strategies.binary(min_size=8, max_size=8)
    offset = strategies.sampled_from((0, 8, PAGE - 8, SIZE - 8))

    @rule(name=name, data=data)
    def write_whole(self, name: str, data: bytes) -> None:
        path = self.builder.root / name
        if name not in self._maps:  # else the mapped file must not become shorter
            path.write_bytes((data * (SIZE // 8 + 1))[:SIZE])

    @rule(name=name, data=data, offset=offset)
    def write_some(self, name: str, data: bytes, offset: int) -> None:
        with suppress(FileNotFoundError), (self.builder.root / name).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    @rule(name=name)
    def map_it(self, name: str) -> None:
        path = self.builder.root / name
        if name not in self._maps and path.exists() and path.stat().st_size >= SIZE:
            with path.open("r+b") as file:
                self._maps[name] = mmap.mmap(file.fileno(), SIZE)

    @rule(name=name, data=data, offset=offset, sync=strategies.booleans())
    def store(self, name: str, data: bytes, offset: int, sync: bool) -> None:
        if name in self._maps:
            self._maps[name][offset : offset + 8] = data
            if sync:
                self._maps[name].flush()

    @rule(name=name)
    def unmap(self, name: str) -> None:
        if name in self._maps:
            self._maps.pop(name).close()

    @rule(name=name, size=strategies.integers(0, SIZE))
    def truncate(self, name: str, size: int) -> None:
        path = self.builder.root / name
        if name not in self._maps and path.exists():
            os.truncate(path, size)
            os.truncate(path, SIZE)

    @rule(name=name, other=name)
    def rename_over(self, name: str, other: str) -> None:
        if name not in self._maps and other not in self._maps:
            with suppress(FileNotFoundError):
                (self.builder.root / name).replace(self.builder.root / other)

    @rule(name=name)
    def set_times(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.utime(self.builder.root / name, ns=(10**18, 10**18))

    @invariant()
    def a_manifest_is_what_is_there(self) -> None:
        # Else nothing would be old enough to be used again.
        self.rest()
        assert self.builder.build() == self.builder.expected()


def test_each_manifest_is_what_is_there(
    kind: str, builder: Builder, rest: Callable[[], None]
) -> None:
    machine = type("Writers", (Writers,), {"builder": builder, "rest": staticmethod(rest)})
    coarse = kind == "ext4-128"
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=1 if coarse else 6,
            stateful_step_count=6 if coarse else 20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
