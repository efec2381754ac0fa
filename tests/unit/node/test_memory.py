from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.node.memory import headroom, read_cgroups, read_memory
from holdfast.node.models import CgroupMemory

GIB = 1 << 30


def write(directory: Path, **values: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (directory / name.replace("__", ".")).write_text(f"{value}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path / "proc"


def mount(proc: Path, line: str, cgroup: str) -> None:
    (proc / "self/mountinfo").write_text(f"30 1 {line}\n")
    (proc / "self/cgroup").write_text(f"{cgroup}\n")


def test_version_2(proc: Path, tmp_path: Path) -> None:
    tree = tmp_path / "cg"
    write(tree)
    write(tree / "db", memory__max=4 * GIB, memory__high="max", memory__current=GIB)
    write(tree / "db/agent", memory__max="max", memory__high=2 * GIB, memory__current=GIB // 2)
    mount(proc, f"0:30 / {tree} rw - cgroup2 cgroup2 rw", "0::/db/agent")
    found = read_cgroups(proc)
    assert [
        (limits.path, limits.max_bytes, limits.high_bytes, limits.current_bytes) for limits in found
    ] == [
        ("/db/agent", None, 2 * GIB, GIB // 2),
        ("/db", 4 * GIB, None, GIB),
    ]
    assert {limits.version for limits in found} == {2}
    assert headroom(found) == 2 * GIB - GIB // 2


def test_version_1(proc: Path, tmp_path: Path) -> None:
    tree = tmp_path / "cg"
    unlimited = 9223372036854771712
    write(tree, memory__limit_in_bytes=unlimited, memory__usage_in_bytes=GIB)
    write(tree / "db", memory__limit_in_bytes=GIB, memory__usage_in_bytes=2 * GIB)
    mount(proc, f"0:30 / {tree} rw - cgroup cgroup rw,memory", "4:cpu:/x\n3:memory,x:/db")
    found = read_cgroups(proc)
    assert [(limits.path, limits.max_bytes, limits.current_bytes) for limits in found] == [
        ("/db", GIB, 2 * GIB),
        ("/", None, GIB),
    ]
    assert headroom(found) == 0


def test_a_container_that_sees_only_its_own_cgroup(proc: Path, tmp_path: Path) -> None:
    tree = tmp_path / "cg"
    write(tree, memory__max=GIB, memory__high="max", memory__current=0)
    mount(proc, f"0:30 /docker/abc {tree} rw - cgroup2 cgroup2 rw", "0::/docker/abc")
    assert [(limits.path, limits.max_bytes) for limits in read_cgroups(proc)] == [("/", GIB)]


def test_no_cgroups(proc: Path) -> None:
    assert read_cgroups(proc) == []
    mount(proc, "0:30 / /nowhere rw - cgroup2 cgroup2 rw", "0::/../elsewhere")
    assert read_cgroups(proc) == []
    assert headroom([]) is None


def test_a_limit_without_usage_counts_whole() -> None:
    group = CgroupMemory(version=2, path="/", max_bytes=7, high_bytes=None, current_bytes=None)
    assert headroom([group]) == 7


def test_this_machine() -> None:
    memory = read_memory()
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.total_bytes == physical
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert memory.page_size == os.sysconf("SC_PAGE_SIZE")
    assert memory.dirty_bytes is not None
