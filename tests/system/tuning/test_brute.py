"""Each sysctl that holdfast sets by itself: changed and rolled back, all of /proc/sys is as before.

As many as fit into HOLDFAST_TEST_SYSCTL_SECONDS (20), in an order that HOLDFAST_TEST_SEED gives:
an hour is enough for all of them.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from holdfast.privileged.allowed import AllowList, Named
from holdfast.privileged.writes import SysctlWrite
from tests.support.capabilities.tuning import Tuned, kept, tuned
from tests.support.daemon.harness import Daemon

SECONDS = float(os.environ.get("HOLDFAST_TEST_SYSCTL_SECONDS", "20"))
PROFILE = "one"
# Of the whole machine, whatever the namespace.
GLOBAL = ("vm", "kernel", "fs")
SKIPPED: Mapping[str, str] = {
    r"kernel\.sched_rt_.*": "some kernels take less time for real time, and no more again",
}
MOVES = re.compile(
    r"kernel/(ns_last_pid|perf_event_max_sample_rate|random/.*|keys/.*|\w+_next_id"
    r"|hung_task_.*|tainted)|fs/(binfmt_misc|quota)/.*"
)
CHOICES: Mapping[str, tuple[str, ...]] = {
    # With 2 the kernel counts what is promised, which may be more than there is.
    "vm.overcommit_memory": ("1",),
    "vm.dirty_bytes": ("268435456",),
    "vm.dirty_background_bytes": ("67108864",),
    "vm.percpu_pagelist_high_fraction": ("8",),
    "net.ipv4.tcp_congestion_control": ("reno", "cubic"),
    "net.ipv4.ip_local_reserved_ports": ("7000-7001",),
}

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="settings are root's to change"),
    pytest.mark.timeout(SECONDS + 100),
]


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
    with tuned(start_daemon, disk_dir, tuning={"check_seconds": 60}) as found:
        found.ns.pair("v0", "v1")
        yield found


def sysctls(node: Tuned) -> dict[str, str]:
    """Read all that can be written and that does not move by itself, by path below /proc/sys."""
    script = "cd /proc/sys; find net vm kernel fs -type f -perm -204 -exec grep -H '' {} + || true"
    command = ("sh", "-c", f"({script}) 2>/dev/null")
    values: dict[str, str] = {}
    for line in node.ns.run(*command).splitlines():
        path, _, value = line.partition(":")
        values[path] = f"{values[path]}\n{value}" if path in values else value
    return {path: value for path, value in values.items() if not MOVES.fullmatch(path)}


def name_of(path: str) -> str:
    return ".".join(part.replace(".", "/") for part in path.split("/"))


def allowed(paths: Mapping[str, str]) -> dict[str, str]:
    """Return those that no profile of root's has to name, with their paths, by name."""
    allow = AllowList(Named, Path("/nonexistent"))
    names = {name_of(path): path for path in paths}
    return {
        name: path
        for name, path in names.items()
        if allow.refusal(SysctlWrite(name=name, value="1")) is None
        and not any(re.fullmatch(pattern, name) for pattern in SKIPPED)
    }


def candidates(name: str, present: str) -> list[str]:
    """Return other values that the kernel may take, the least change first."""
    if name in CHOICES:
        return [value for value in CHOICES[name] if value != present]
    first, *rest = present.split() or [""]
    if not all(re.fullmatch(r"-?\d+", word) for word in (first, *rest)):
        return []
    number = int(first)
    others = dict.fromkeys((number + 1, number - 1, number + 7, 0, 1, 2))
    if name.split(".", maxsplit=1)[0] in GLOBAL:
        others = dict.fromkeys((number + 1, number - 1))
    return [" ".join([str(other), *rest]) for other in others if other != number]


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {
        path: (before.get(path, "-"), after.get(path, "-"))
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    }


def test_each_setting_changed_and_rolled_back_leaves_all_as_it_was(node: Tuned) -> None:
    first = sysctls(node)
    names = allowed(first)
    # Two interfaces, and what is for all of them, each have copies.
    assert {"net.ipv4.conf.v0.rp_filter", "net.ipv4.conf.all.rp_filter"} <= names.keys()
    assert {"vm.swappiness", "fs.file-max", "kernel.threads-max"} <= names.keys()
    order = sorted(names)
    seed = os.environ.get("HOLDFAST_TEST_SEED", "0")
    random.Random(seed).shuffle(order)
    end = time.monotonic() + SECONDS

    changed: list[str] = []
    refused: list[str] = []
    wrong: dict[str, object] = {}
    with kept(*(f"/proc/sys/{path}" for path in first if path.split("/")[0] in GLOBAL)):
        for name in order:
            if time.monotonic() >= end:
                break
            before = sysctls(node)
            for value in candidates(name, before.get(names[name], "")):
                node.profile(PROFILE, {name: value})
                response = node.ask("apply", profile=PROFILE)
                if response.status_code == 200:
                    if node.ns.sysctl(name) != before[names[name]] and name not in changed:
                        changed.append(name)
                    node.rollback()
                if found := difference(before, sysctls(node)):
                    wrong[f"{name} = {value} ({response.status_code})"] = found
                    break
                if response.status_code == 200:
                    break
            if name not in changed:
                refused.append(name)

    tried = len(changed) + len(refused)
    print(f"{tried} of {len(order)} settings, {len(changed)} changed, seed {seed}; not: {refused}")
    assert wrong == {}
    assert node.state()["left"] == []
    assert len(changed) > 0.8 * tried, refused
