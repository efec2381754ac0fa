"""The fleet's lock in a real etcd: never held by more nodes than slots, and none lost with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast.reimage.interlock.fleet_lock import FleetLock, Verdict
from tests.support.daemon.attempts import MINE, OLD_BOOT, Node
from tests.support.daemon.harness import Daemon
from tests.support.daemon.recorded_helper import recorded_helper
from tests.support.servers.fleet_lock_etcd import Etcd, etcd_fleet_lock, etcd_server
from tests.support.waiting import until

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with etcd_server(tmp_path_factory.mktemp("etcd")) as server:
        yield server


def test_nodes_that_race_at_two_managers_never_hold_more_than_the_slots(etcd: Etcd) -> None:
    group, slots = "race", 2
    with ExitStack() as stack:
        managers = [stack.enter_context(etcd_fleet_lock(etcd, slots=slots)) for _ in range(2)]

        def node(number: int) -> int:
            lock = FleetLock(managers[number % 2].url, f"n{number}", group)
            held = 0
            for _ in range(6):
                answer = lock.acquire()
                if answer.verdict is not Verdict.YES:
                    continue
                held += 1
                # Locks are recursive, and what is held is seen by every manager.
                assert lock.acquire().verdict is Verdict.YES
                holders = managers[(number + 1) % 2].read(group)[1]
                assert f"n{number}" in holders
                assert len(holders) <= slots
                until(lambda: lock.release().verdict is Verdict.YES, what="a release")
            return held

        with ThreadPoolExecutor(6) as pool:
            held = Counter(dict(enumerate(pool.map(node, range(6)))))
        assert held.total() > 0
        assert managers[0].read(group)[1] == set()


def test_without_its_etcd_a_lock_is_not_granted_and_what_is_held_outlives_it(etcd: Etcd) -> None:
    with etcd_fleet_lock(etcd) as manager:
        holder = FleetLock(manager.url, "holder", "outage")
        other = FleetLock(manager.url, "other", "outage")
        assert holder.acquire().verdict is Verdict.YES
        etcd.kill()
        try:
            answer = other.acquire()
            assert answer.verdict is Verdict.UNKNOWN
            assert "etcd does not answer" in answer.detail
            assert holder.release().verdict is Verdict.UNKNOWN
        finally:
            etcd.start()
        assert manager.holds("holder", "outage")
        refused = other.acquire()
        assert refused.verdict is not Verdict.YES
        assert "semaphore of outage is full" in refused.detail
        assert holder.release().verdict is Verdict.YES
        assert other.acquire().verdict is Verdict.YES


def test_a_node_takes_its_slot_before_the_boot_and_frees_it_once_confirmed(
    etcd: Etcd, disk_dir: Path, start_daemon: Callable[..., Daemon]
) -> None:
    with (
        etcd_fleet_lock(etcd) as manager,
        recorded_helper(disk_dir / "helper") as helper,
    ):
        rival = FleetLock(manager.url, "rival", "db")
        assert rival.acquire().verdict is Verdict.YES
        settings = {"url": manager.url, "id": "a-node", "group": "db", "seconds": 0}
        node = Node(
            disk_dir,
            start_daemon,
            helper=str(disk_dir / "helper"),
            reimage={"fleet_lock": settings},
        )
        node.stage(state="armed", boot_id=BOOT)
        status, problem = node.post("reboot", "first")
        assert status == 409
        assert "semaphore of db is full" in problem["detail"]
        assert helper.calls("reboot") == 0
        assert rival.release().verdict is Verdict.YES
        assert node.post("reboot", "second")[0] == 200
        assert manager.read("db")[1] == {"a-node"}
        # Over the boot, and while nobody has confirmed the new system, it stays.
        node.remember(state="unconfirmed", boot_id=OLD_BOOT)
        found = node.daemon.http.get("/v1/reimage").json()["interlock"]["fleet_lock"]
        assert (found["id"], found["operation"]) == ("a-node", MINE)
        assert rival.acquire().verdict is not Verdict.YES
        assert node.post("confirm", override=True)[0] == 200
        until(lambda: not manager.holds("a-node", "db"), what="a slot that is free")
        assert rival.acquire().verdict is Verdict.YES
