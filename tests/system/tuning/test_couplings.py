"""The kernel couples settings: what a write changed besides is reverted with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.capabilities.tuning import Tuned, kept, tuned
from tests.support.daemon.harness import Daemon
from tests.support.machine.loops import loop

VM = Path("/proc/sys/vm")
DIRTY = ("dirty_bytes", "dirty_ratio", "dirty_background_bytes", "dirty_background_ratio")
OTHER = {"net.ipv4.tcp_fin_timeout": "33"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="settings are root's to change")


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
    with tuned(start_daemon, disk_dir) as found:
        yield found


@pytest.fixture
def vm() -> Iterator[None]:
    names = (*DIRTY, "overcommit_kbytes", "overcommit_ratio", "min_free_kbytes")
    with kept(*(str(VM / name) for name in names)):
        yield


def values(*names: str) -> dict[str, str]:
    return {name: (VM / name).read_text().strip() for name in names}


@pytest.mark.usefixtures("vm")
class TestPairs:
    """Of some pairs of settings one is 0 while the other counts, and 0 cannot be written."""

    def test_bytes_go_back_by_the_ratio_that_was_there(self, node: Tuned) -> None:
        before = values(*DIRTY)
        node.profile("db", {"vm.dirty_bytes": "268435456", "vm.dirty_background_bytes": "67108864"})
        node.profile("other", OTHER)
        node.apply("db")
        assert values(*DIRTY)["dirty_ratio"] == "0"

        node.rollback()

        assert values(*DIRTY) == before
        node.apply("db")
        node.apply("other")
        assert values(*DIRTY) == before
        assert node.state()["problem"] is None
        assert node.apply("other")["written"] == 0
        node.rollback()
        assert values(*DIRTY)["dirty_bytes"] == "268435456"
        node.rollback("first")
        assert values(*DIRTY) == before

    def test_a_ratio_that_an_apply_made_0_is_there_again(self, node: Tuned) -> None:
        before = values("overcommit_kbytes", "overcommit_ratio")
        node.profile("db", {"vm.overcommit_kbytes": "60000000"})
        node.apply("db")
        node.rollback()
        assert values("overcommit_kbytes", "overcommit_ratio") == before

    def test_after_a_failed_apply_the_pair_is_as_before(self, node: Tuned) -> None:
        before = values(*DIRTY)
        node.profile("bad", {"vm.dirty_bytes": "268435456", "net.ipv4.tcp_syn_retries": "127777"})
        assert "tcp_syn_retries" in node.refused("bad")["detail"]
        assert values(*DIRTY) == before
        assert node.state()["problem"] is None

    def test_another_profile_with_the_same_setting_leaves_its_pair_alone(self, node: Tuned) -> None:
        before = values(*DIRTY)
        node.profile("one", {"vm.dirty_bytes": "268435456", **OTHER})
        node.profile("two", {"vm.dirty_bytes": "134217728"})
        node.apply("one")
        assert {row["name"]: row["action"] for row in node.plan("two")["settings"]} == {
            "vm.dirty_bytes": "set",
            "net.ipv4.tcp_fin_timeout": "restore",
        }
        node.apply("two")
        assert node.apply("two")["written"] == 0
        assert node.state()["left"] == []
        node.rollback("first")
        assert values(*DIRTY) == before

    def test_a_child_decides_over_what_its_parent_excludes(self, node: Tuned) -> None:
        before = values(*DIRTY)
        node.profile("parent", {"vm.dirty_ratio": "40"})
        node.profile("child", {"vm.dirty_bytes": "268435456"}, head='extends = "parent"')
        plan = node.plan("child")
        assert [row["name"] for row in plan["settings"]] == ["vm.dirty_bytes"]
        assert any("vm.dirty_ratio is left out" in note for note in plan["notes"])
        node.apply("child")
        node.apply("parent")
        assert values(*DIRTY)["dirty_ratio"] == "40"
        node.rollback("first")
        assert values(*DIRTY) == before

    def test_what_excludes_each_other_in_one_profile_is_refused(self, node: Tuned) -> None:
        node.profile("both", {"vm.overcommit_kbytes": "60000000", "vm.overcommit_ratio": "60"})
        assert "excludes vm.overcommit_ratio" in node.refused("both")["detail"]
        node.profile("names", {"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.forwarding": "0"})
        assert "two names for this one setting" in node.refused("names")["detail"]


COPIED: Sequence[tuple[str, str, dict[str, str]]] = (
    (
        "net.ipv4.ip_forward",
        "1",
        {
            "net.ipv4.conf.all.accept_redirects": "0",
            "net.ipv4.conf.v1.forwarding": "1",
        },
    ),
    (
        "net.ipv4.conf.all.forwarding",
        "1",
        {"net.ipv4.conf.all.accept_redirects": "0", "net.ipv4.conf.lo.forwarding": "1"},
    ),
    ("net.ipv6.conf.all.disable_ipv6", "1", {"net.ipv6.conf.v1.disable_ipv6": "1"}),
    ("net.ipv6.conf.all.forwarding", "1", {"net.ipv6.conf.v1.forwarding": "1"}),
    ("net.ipv6.conf.all.addr_gen_mode", "1", {"net.ipv6.conf.v1.addr_gen_mode": "1"}),
    ("net.ipv4.conf.default.rp_filter", "2", {"net.ipv4.conf.v1.rp_filter": "1"}),
    (
        "net.ipv4.neigh.v1.base_reachable_time_ms",
        "15400",
        {"net.ipv4.neigh.v1.base_reachable_time_ms": "20004"},
    ),
)


class TestInterfaces:
    """What is set for all interfaces is copied to each of them."""

    def test_each_copy_is_as_before(self, node: Tuned) -> None:
        node.ns.pair("v0", "v1")
        node.profile("other", OTHER)
        for name, value, there_before in COPIED:
            for other, is_set in there_before.items():
                node.ns.set_sysctl(other, is_set)
            before = all_of(node)
            node.profile("mine", {name: value, **OTHER})

            node.apply("mine")
            assert node.ns.sysctl(name) == value
            assert node.apply("mine")["written"] == 0
            node.rollback()
            assert all_of(node) == before, name

            node.apply("mine")
            node.apply("other")
            assert all_of(node) == before | {"net/ipv4/tcp_fin_timeout": "33"}, name
            node.rollback("first")
            assert all_of(node) == before, name

    def test_what_was_changed_since_and_not_by_an_apply_stays(self, node: Tuned) -> None:
        node.ns.pair("v0", "v1")
        node.ns.set_sysctl("net.ipv4.conf.v1.rp_filter", "1")
        node.profile("mine", {"net.ipv4.conf.default.rp_filter": "2"})
        node.apply("mine")
        node.ns.set_sysctl("net.ipv4.conf.v1.rp_filter", "0")
        node.rollback()
        assert node.ns.sysctl("net.ipv4.conf.v1.rp_filter") == "0"


def all_of(node: Tuned) -> dict[str, str]:
    """Read all sysctls of the network that can be written."""
    script = "cd /proc/sys; find net -type f -perm -204 -exec grep -H '' {} + 2>/dev/null"
    lines = node.ns.run("sh", "-c", script + " || true").splitlines()
    return dict(line.partition(":")[::2] for line in lines)


class TestOrder:
    def test_settings_that_must_be_written_in_an_order_are(self, node: Tuned) -> None:
        before = node.ns.sysctl("net.ipv4.ip_local_port_range")
        node.profile(
            "ports",
            {
                "net.ipv4.ip_unprivileged_port_start": "500",
                "net.ipv4.ip_local_port_range": "600 65000",
            },
        )
        node.apply("ports")
        assert node.ns.sysctl("net.ipv4.ip_local_port_range") == "600 65000"
        node.rollback()
        assert node.ns.sysctl("net.ipv4.ip_local_port_range") == before

    def test_a_period_below_the_present_runtime_waits_for_the_runtime(self, node: Tuned) -> None:
        names = ("sched_rt_period_us", "sched_rt_runtime_us")
        with kept(*(f"/proc/sys/kernel/{name}" for name in names)):
            runtime = Path("/proc/sys/kernel/sched_rt_runtime_us")
            try:
                runtime.write_text("400000")
                runtime.write_text("950000")
            except OSError as error:
                pytest.skip(f"this kernel does not take less time for real time: {error}")
            before = [node.ns.sysctl(f"kernel.{name}") for name in names]
            node.profile(
                "rt",
                {"kernel.sched_rt_runtime_us": "400000", "kernel.sched_rt_period_us": "500000"},
            )
            node.apply("rt")
            assert [node.ns.sysctl(f"kernel.{name}") for name in names] == ["500000", "400000"]
            node.rollback()
            assert [node.ns.sysctl(f"kernel.{name}") for name in names] == before


class TestOthers:
    def test_the_reserve_of_memory_is_as_before_huge_pages_were_set(self, node: Tuned) -> None:
        mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
        reserve = VM / "min_free_kbytes"
        chosen = mode.read_text().partition("[")[2].partition("]")[0]
        with kept(str(reserve)):
            try:
                mode.write_text("always")
                reserve.write_text("20000")
                node.profile("off", rest='[memory]\ntransparent_hugepages = "never"\n')
                node.apply("off")
                node.rollback()
                assert reserve.read_text().strip() == "20000"
                assert "[always]" in mode.read_text()
            finally:
                mode.write_text(chosen)

    def test_a_queue_is_as_before_with_all_that_a_scheduler_has(
        self, node: Tuned, disk_dir: Path
    ) -> None:
        image = disk_dir / "queue.img"
        with loop(image) as device:
            queue = Path(f"/sys/class/block/{device.name}/queue")
            if "mq-deadline" not in (queue / "scheduler").read_text():
                pytest.skip("this kernel has no I/O scheduler to choose")
            for file, value in (
                ("scheduler", "mq-deadline"),
                ("iosched/read_expire", "77"),
                ("nr_requests", "60"),
                ("read_ahead_kb", "64"),
                ("max_sectors_kb", "512"),
            ):
                (queue / file).write_text(value)
            before = snapshot(queue)
            select = f'select = {{ backing_file = "{image}" }}'
            for settings in ('scheduler = "none"', "max_sectors_kb = 128", "nr_requests = 2"):
                node.profile("mine", rest=f"[[block]]\n{select}\n{settings}\n")
                node.apply("mine")
                assert snapshot(queue) != before
                node.rollback()
                assert snapshot(queue) == before

    def test_a_queue_without_length_has_none_again(self, node: Tuned) -> None:
        node.ns.pair("v0", "v1")
        node.ns.run("ip", "link", "set", "dev", "v0", "txqueuelen", "0")
        rest = '[[network]]\nselect = { name = "v0" }\nqdisc = { kind = "pfifo", limit = 7 }\n'
        node.profile("mine", rest=rest)
        node.apply("mine")
        node.rollback()
        assert " qlen " not in node.ns.run("ip", "link", "show", "dev", "v0")


def snapshot(queue: Path) -> dict[str, str]:
    """Read all attributes of a queue that can be written."""
    files = (file for file in queue.rglob("*") if file.is_file() and file.stat().st_mode & 0o200)
    found = {}
    for file in files:
        try:
            found[str(file.relative_to(queue))] = file.read_text().strip()
        except OSError:
            continue
    return found
