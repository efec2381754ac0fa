"""Settings of devices: queues of loop devices, qdiscs of virtual interfaces, memory, modules."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.capabilities.tuning import Tuned, row_of, tuned
from tests.support.daemon.contract import check_problem
from tests.support.daemon.harness import Daemon
from tests.support.machine.loops import MIB, Loop, loop
from tests.support.waiting import until

APPEAR_SECONDS = 2.0


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
    with tuned(start_daemon, disk_dir) as found:
        yield found


@pytest.fixture
def device(disk_dir: Path) -> Iterator[Loop]:
    with loop(disk_dir / "one.img") as found:
        yield found


def block(image: Path | str, **values: object) -> str:
    lines = "".join(f'{name} = "{value}"\n' for name, value in values.items())
    return f'[[block]]\nselect = {{ backing_file = "{image}" }}\n{lines}'


def network(name: str, **values: str) -> str:
    lines = "".join(f"{key} = {value}\n" for key, value in values.items())
    return f'[[network]]\nselect = {{ name = "{name}" }}\n{lines}'


class TestBlock:
    def test_attributes_are_set_and_brought_back(self, node: Tuned, device: Loop) -> None:
        wanted = {
            "scheduler": "mq-deadline",
            "nr_requests": "64",
            "read_ahead_kb": "512",
            "nomerges": "2",
            "rq_affinity": "2",
            "max_sectors_kb": "256",
        }
        before = {name: device.get(name) for name in wanted}
        node.profile("mine", rest=block(device.image, **wanted))

        assert node.apply("mine")["written"] == len(wanted)

        assert {name: device.get(name) for name in wanted} == wanted
        assert node.apply("mine")["written"] == 0
        node.rollback()
        assert {name: device.get(name) for name in wanted} == before

    def test_what_a_scheduler_changes_besides_is_brought_back_too(
        self, node: Tuned, device: Loop
    ) -> None:
        device.set("nr_requests", "77")
        node.profile("mine", rest=block(device.image, scheduler="mq-deadline"))
        node.apply("mine")
        assert device.get("nr_requests") != "77", "the kernel does not set it anew any more"
        node.rollback()
        assert (device.get("scheduler"), device.get("nr_requests")) == ("none", "77")

    def test_a_value_that_was_right_stays_so_when_another_write_disturbs_it(
        self, node: Tuned, device: Loop
    ) -> None:
        device.set("nr_requests", "77")
        wanted = {"scheduler": "mq-deadline", "nr_requests": "77"}
        node.profile("mine", rest=block(device.image, **wanted))
        assert row_of(node.plan("mine"), "nr_requests", device.name)["action"] == "none"
        node.apply("mine")
        assert {name: device.get(name) for name in wanted} == wanted

    def test_what_the_kernel_is_known_to_round_is_announced_and_set(
        self, node: Tuned, device: Loop
    ) -> None:
        node.profile("mine", rest=block(device.image, nr_requests="1"))
        plan = node.ask("plan", profile="mine")
        assert "rounds 1 to 4" in plan.text
        assert node.ask("apply", profile="mine").is_success
        assert device.get("nr_requests") == "4"

    def test_what_a_device_does_not_offer_is_said_before_anything_is_written(
        self, node: Tuned, device: Loop
    ) -> None:
        wanted = {"nomerges": "2", "scheduler": "cfq", "max_sectors_kb": "4194304"}
        before = device.get("nomerges")
        node.profile("mine", rest=block(device.image, **wanted))
        problem = check_problem(node.ask("apply", profile="mine"), 422, "invalid-request")
        assert "should be one of none, " in problem["detail"]
        assert "which is what the device can do" in problem["detail"]
        assert device.get("nomerges") == before

    def test_devices_are_selected_by_where_the_data_are(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path, device: Loop
    ) -> None:
        subprocess.run(["mkfs.ext4", "-q", device.device], check=True)
        point = disk_dir / "mnt"
        point.mkdir()
        subprocess.run(["mount", device.device, point], check=True)
        try:
            rest = (
                '[[block]]\nselect = { role = "data-volume" }\nread_ahead_kb = 256\n'
                '[[block]]\nselect = { role = "data-disk", type = "loop" }\nnomerges = 1\n'
                f'[[block]]\nselect = {{ mount = "{point}" }}\nrq_affinity = 0\n'
                '[[block]]\nselect = { role = "array" }\nread_ahead_kb = 1\n'
            )
            root = point / "data"
            with tuned(start_daemon, disk_dir, roots=[root]) as node:
                node.profile("mine", rest=rest)
                plan = node.plan("mine")
                assert {(row["target"], row["name"]) for row in plan["settings"]} == {
                    (device.name, "read_ahead_kb"),
                    (device.name, "nomerges"),
                    (device.name, "rq_affinity"),
                }
                assert any("matches nothing" in note for note in plan["notes"])
                node.daemon.stop()
        finally:
            subprocess.run(["umount", "--lazy", point], check=True)

    def test_open_files_that_keep_the_old_read_ahead_are_counted(
        self, node: Tuned, device: Loop
    ) -> None:
        subprocess.run(["mkfs.ext4", "-q", device.device], check=True)
        point = node.profiles / "mnt"
        node.ns.run("mkdir", point)
        node.ns.run("mount", device.device, point)
        node.profile("mine", rest=block(device.image, read_ahead_kb=336))
        assert row_of(node.plan("mine"), "read_ahead_kb", device.name)["needs"] is None
        script = 'exec 3>"$1/a" 4>"$1/b"; echo open; exec sleep infinity'
        command = [*node.ns.wrapper, "sh", "-c", script, "sh", str(point)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "open\n"
                old = device.get("read_ahead_kb")
                row = row_of(node.apply("mine"), "read_ahead_kb", device.name)
            finally:
                holder.kill()
        assert row["needs"] == "reopen"
        assert "2 open files of sleep" in row["note"]
        assert f"keep {old} KiB" in row["note"]
        node.rollback()
        node.ns.run("umount", point)

    def test_a_device_that_appears_gets_its_settings(self, node: Tuned, disk_dir: Path) -> None:
        node.profile("mine", rest=block(disk_dir / "late-*.img", read_ahead_kb=444))
        node.apply("mine")
        with loop(disk_dir / "late-1.img") as found:
            old = "128" if found.get("read_ahead_kb") == "444" else found.get("read_ahead_kb")
            until(
                lambda: found.get("read_ahead_kb") == "444",
                seconds=APPEAR_SECONDS,
                what="the setting of a device that appeared",
            )
            until(lambda: node.events("hotplugged"), what="the event")
            assert node.state()["settings"] == {"block": 1}
            assert node.state()["drifted"] == []
            node.rollback()
            assert found.get("read_ahead_kb") == old or found.get("read_ahead_kb") != "444"

    def test_a_device_that_goes_is_forgotten_and_does_not_hinder(
        self, node: Tuned, disk_dir: Path
    ) -> None:
        with ExitStack() as stack:
            one = stack.enter_context(loop(disk_dir / "go-1.img"))
            two = stack.enter_context(loop(disk_dir / "go-2.img"))
            before = two.get("nomerges")
            node.profile("mine", rest=block(disk_dir / "go-*.img", nomerges=1))
            assert node.apply("mine")["written"] == 2
            one.detach()
            until(
                lambda: node.state()["settings"] == {"block": 1},
                what="the end of a setting whose device is gone",
            )
            assert node.state()["drifted"] == []
            back = node.rollback()
            assert any(one.name in note for note in back["notes"])
            assert two.get("nomerges") == before

    def test_a_device_that_vanishes_after_the_plan_is_not_in_the_way(
        self, node: Tuned, disk_dir: Path
    ) -> None:
        with loop(disk_dir / "v-1.img") as one, loop(disk_dir / "v-2.img") as two:
            node.profile("mine", rest=block(disk_dir / "v-*.img", nomerges=1))
            plan = node.plan("mine")
            assert plan["changes"] == 2
            one.detach()
            check_problem(node.ask("apply", profile="mine", plan=plan["plan"]), 409, "conflict")
            assert two.get("nomerges") != "1"
            assert node.apply("mine")["written"] == 1
            assert two.get("nomerges") == "1"
            node.rollback()

    def test_another_device_of_the_same_name_is_not_given_the_old_values(
        self, node: Tuned, disk_dir: Path
    ) -> None:
        with loop(disk_dir / "first.img") as one:
            node.profile("mine", rest=block(disk_dir / "first.img", nomerges=1))
            node.apply("mine")
            one.detach()
            with loop(disk_dir / "second.img") as two:
                if two.name != one.name:
                    pytest.skip("the kernel gave the second device another name")
                two.set("nomerges", "2")
                notes = node.rollback()["notes"]
                assert two.get("nomerges") == "2"
                assert any("is gone" in note for note in notes)


class TestNetwork:
    def test_a_qdisc_is_set_and_the_default_comes_back(self, node: Tuned) -> None:
        node.ns.pair("hf0", "hg0")
        before = node.ns.qdiscs("hf0")
        tbf = '{ kind = "tbf", rate = "10mbit", burst = "32kb", latency = "50ms" }'
        node.profile("mine", rest=network("hf0", qdisc=tbf, txqueuelen="500"))

        assert node.apply("mine")["written"] == 2

        assert node.ns.qdiscs("hf0")[0].startswith("tbf")
        assert "rate 10Mbit" in node.ns.qdiscs("hf0")[0]
        assert node.ns.read("/proc/net/dev").count("hf0") == 1
        assert " qlen 500 " in node.ns.run("ip", "link", "show", "dev", "hf0").replace("\n", " ")
        assert node.apply("mine")["written"] == 0
        node.rollback()
        assert node.ns.qdiscs("hf0") == before
        assert " qlen 1000 " in node.ns.run("ip", "link", "show", "dev", "hf0").replace("\n", " ")

    def test_each_queue_gets_a_leaf_below_mq(self, node: Tuned) -> None:
        node.ns.pair("hf0", "hg0", "numtxqueues", "4")
        rest = network("hf0", qdisc='{ kind = "pfifo", limit = 222 }')
        node.profile("mine", rest=rest)
        node.apply("mine")
        shown = node.ns.qdiscs("hf0")
        assert sum("pfifo" in line and "limit 222p" in line for line in shown) == 4
        assert sum(line.startswith("mq") for line in shown) == 1
        # Another program removes one queue's leaf, and it is drift.
        node.ns.run("tc", "qdisc", "del", "dev", "hf0", "parent", "1:2")
        until(lambda: node.state()["drifted"], what="the drift")
        assert node.apply("mine")["written"] == 1
        assert node.ns.qdiscs("hf0") == shown
        node.rollback("first")
        assert node.ns.qdiscs("hf0") == ["noqueue root refcnt 2"]

    def test_what_somebody_had_set_up_comes_back_as_it_was(self, node: Tuned) -> None:
        node.ns.pair("hf0", "hg0", "numtxqueues", "4")
        for command in (
            "replace dev hf0 root handle 1: mq",
            "replace dev hf0 parent 1:2 tbf rate 10mbit burst 32kb latency 50ms",
            "replace dev hf0 parent 1:4 pfifo limit 7",
            "replace dev hg0 root pfifo limit 77",
        ):
            node.ns.run("tc", "qdisc", *command.split())
        before = node.ns.qdiscs("hf0"), node.ns.qdiscs("hg0")
        rest = network("h?0", qdisc='{ kind = "bfifo", limit = "64kb" }')
        node.profile("mine", rest=rest)
        node.apply("mine")
        assert any("bfifo" in line for line in node.ns.qdiscs("hg0"))
        node.rollback()
        assert (node.ns.qdiscs("hf0"), node.ns.qdiscs("hg0")) == before

    @pytest.mark.parametrize("hook", ["clsact", "ingress"])
    @pytest.mark.parametrize("root", [None, "1:", "8002:"])
    def test_queues_are_set_beside_filters_and_below_an_mq_of_any_handle(
        self, node: Tuned, hook: str, root: str | None
    ) -> None:
        node.ns.pair("hf0", "hg0", "numtxqueues", "4")
        node.ns.run("tc", "qdisc", "add", "dev", "hf0", hook)
        if root is not None:
            node.ns.run("tc", "qdisc", "replace", "dev", "hf0", "root", "handle", root, "mq")
        before = node.ns.run("tc", "qdisc", "show", "dev", "hf0")
        node.profile("mine", rest=network("hf0", qdisc='{ kind = "pfifo", limit = 777 }'))

        node.apply("mine")

        shown = node.ns.qdiscs("hf0")
        assert sum("pfifo" in line and "limit 777p" in line for line in shown) == 4
        assert any(line.startswith(hook) for line in shown)
        assert node.apply("mine")["written"] == 0
        node.rollback()
        # The handle as well, that scripts and filters know.
        assert node.ns.run("tc", "qdisc", "show", "dev", "hf0") == before

    def test_a_qdisc_that_could_not_be_brought_back_is_not_replaced(self, node: Tuned) -> None:
        node.ns.pair("hf0", "hg0")
        node.ns.run("tc", "qdisc", "replace", "dev", "hf0", "root", "handle", "1:", "htb")
        node.profile("mine", {"net.core.somaxconn": "99"}, network("hf0", qdisc='"pfifo_fast"'))
        problem = check_problem(node.ask("apply", profile="mine"), 422, "invalid-request")
        assert "htb" in problem["detail"]
        assert node.ns.sysctl("net.core.somaxconn") != "99"

    def test_a_kind_that_this_kernel_lacks_takes_everything_back(self, node: Tuned) -> None:
        node.ns.pair("hf0", "hg0")
        missing = '{ kind = "fq_codel", flows = 512 }'
        done = subprocess.run(
            [*node.ns.wrapper, "tc", "qdisc", "add", "dev", "hg0", "root", "fq_codel"],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            pytest.skip("this kernel has fq_codel")
        node.profile("mine", {"net.core.somaxconn": "99"}, network("hf0", qdisc=missing))
        before = node.ns.sysctl("net.core.somaxconn"), node.ns.qdiscs("hf0")
        problem = check_problem(node.ask("apply", profile="mine"), 500, "io-error")
        assert problem["setting"] == {"subsystem": "network", "target": "hf0", "name": "qdisc"}
        assert "unknown" in problem["reason"]
        assert (node.ns.sysctl("net.core.somaxconn"), node.ns.qdiscs("hf0")) == before

    def test_an_interface_that_appears_gets_its_settings(self, node: Tuned) -> None:
        node.profile("mine", rest=network("hf*", txqueuelen="321"))
        node.apply("mine")
        node.ns.pair("hf7", "hg7")
        until(
            lambda: "qlen 321" in node.ns.run("ip", "link", "show", "dev", "hf7"),
            seconds=APPEAR_SECONDS,
            what="the setting of an interface that appeared",
        )
        node.ns.run("ip", "link", "del", "hf7")
        until(lambda: node.state()["settings"] == {}, what="the end of its setting")
        node.rollback()

    @pytest.mark.parametrize("name", ["-h", "a;reboot", "$(id)", 'q"x', "dev", "a#b", "é", "..a"])
    def test_hostile_names_are_names(self, node: Tuned, name: str) -> None:
        node.ns.run("ip", "link", "add", "name", name, "type", "veth", "peer", "name", "hg0")
        node.profile("mine", rest=network("*", txqueuelen="55", qdisc='"pfifo_fast"'))
        applied = node.apply("mine")
        assert row_of(applied, "txqueuelen", name)["observed"] == "55"
        assert any("pfifo_fast" in line for line in node.ns.qdiscs(name))
        node.rollback()

    def test_a_name_that_is_no_text_is_passed_over(self, node: Tuned) -> None:
        script = r'ip link add name "$(printf "hf\377")" type veth peer name hf0'
        node.ns.run("sh", "-c", script)
        node.profile("mine", rest=network("hf*", txqueuelen="55"))
        assert [row["target"] for row in node.apply("mine")["settings"]] == ["hf0"]
        assert node.state()["drifted"] == []
        node.rollback()


class TestMemory:
    def test_huge_pages_are_set_and_brought_back(self, node: Tuned) -> None:
        enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
        before = enabled.read_text()
        wanted = "never" if "[never]" not in before else "madvise"
        node.profile("mine", rest=f'[memory]\ntransparent_hugepages = "{wanted}"\n')
        node.apply("mine")
        try:
            assert f"[{wanted}]" in enabled.read_text()
        finally:
            node.rollback()
        assert enabled.read_text() == before

    def test_swap_is_turned_off_and_on_again(self, node: Tuned, disk_dir: Path) -> None:
        if len(Path("/proc/swaps").read_text().splitlines()) > 1:
            pytest.skip("this machine swaps, which is not for a test to change")
        area = disk_dir / "swap"
        area.touch(mode=0o600)
        subprocess.run(["fallocate", "-l", str(16 * MIB), area], check=True)
        subprocess.run(["mkswap", "-q", area], check=True, capture_output=True)
        done = subprocess.run(["swapon", "-p", "7", area], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"nothing can be swapped to here: {done.stderr!r}")
        try:
            node.profile("mine", rest='[memory]\nswap = "off"\n')
            node.apply("mine")
            assert str(area) not in Path("/proc/swaps").read_text()
            node.rollback()
            line = Path("/proc/swaps").read_text().splitlines()[1].split()
            assert (line[0], line[-1]) == (str(area), "7")
        finally:
            subprocess.run(["swapoff", area], check=False, capture_output=True)

    def test_a_module_parameter_is_set_and_brought_back(self, node: Tuned) -> None:
        parameter = Path("/sys/module/printk/parameters/time")
        if not parameter.exists():
            pytest.skip("this kernel has no parameter to try this with")
        before = parameter.read_text().strip()
        wanted = "false" if before == "Y" else "true"
        node.profile("mine", rest=f"[modules.printk]\ntime = {wanted}\n")
        node.apply("mine")
        assert parameter.read_text().strip() != before
        assert node.apply("mine")["written"] == 0
        node.rollback()
        assert parameter.read_text().strip() == before

        node.profile("gone", rest="[modules.no_such_module]\nx = 1\n")
        problem = check_problem(node.ask("apply", profile="gone"), 422, "invalid-request")
        assert "not loaded" in problem["detail"]
