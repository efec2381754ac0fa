"""Parts of tuning on their own: qdiscs as text, other owners, what may be written, the record."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from holdfast.node.links import ShownQdisc
from holdfast.privileged.writes import Qdisc, Refused, Write, sysctl_path
from holdfast.tuning.changes.store import Change, Entry, State
from holdfast.tuning.config_files.owners import Owners
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.subsystems import qdiscs

WRITE: TypeAdapter[Write] = TypeAdapter(Write)


def shown(kind: str, handle: str = "8001:", parent: str = "", **options: object) -> ShownQdisc:
    return ShownQdisc(kind, handle, not parent, parent, options)


WHOLE_FQ = (
    "fq limit 10000 flow_limit 100 buckets 1024 orphan_mask 1023 quantum 3028 "
    "initial_quantum 15140 refill_delay 40000us"
)


class TestQdiscs:
    @pytest.mark.parametrize(
        ("lines", "text"),
        [
            ([shown("noqueue", "0:")], "default noqueue"),
            ([], "default noop"),
            ([shown("pfifo", limit=77)], "pfifo limit 77"),
            (
                [shown("tbf", rate=1250000, burst=32767, lat=50000)],
                "tbf rate 1250000bps burst 32767 latency 50000us",
            ),
            (
                [
                    shown("mq", "0:"),
                    shown("pfifo_fast", "0:", ":1"),
                    shown("pfifo_fast", "0:", ":2"),
                ],
                "default mq: pfifo_fast",
            ),
            (
                [
                    shown("mq", "1:"),
                    shown("pfifo", parent="1:1", limit=5),
                    shown("pfifo", parent="1:2", limit=5),
                ],
                "mq: pfifo limit 5",
            ),
            (
                [shown("mq", "1:"), shown("pfifo", parent="1:a", limit=5)],
                "mq: " + "; ".join([*(f"{n} noop" for n in range(1, 10)), "10 pfifo limit 5"]),
            ),
            (
                [
                    shown("mq", "1:"),
                    shown("pfifo_fast", "0:", "1:1"),
                    shown("pfifo", parent="1:2", limit=5),
                ],
                "mq: 1 default pfifo_fast; 2 pfifo limit 5",
            ),
            (
                # As tc of iproute2 6.1 shows them on Linux 6.1.
                [
                    shown(
                        "fq",
                        limit=5000,
                        flow_limit=50,
                        buckets=2048,
                        orphan_mask=511,
                        pacing=False,
                        quantum=3000,
                        initial_quantum=9000,
                        maxrate=12500000,
                        low_rate_threshold=125000,
                        refill_delay=20000,
                        ce_threshold=5000,
                        timer_slack=20000,
                        horizon=5000000,
                        horizon_cap=None,
                    )
                ],
                "fq limit 5000 flow_limit 50 buckets 2048 orphan_mask 511 nopacing quantum 3000 "
                "initial_quantum 9000 maxrate 12500000bps low_rate_threshold 125000bps "
                "refill_delay 20000us ce_threshold 5000us timer_slack 20000ns horizon 5000000us "
                "horizon_cap",
            ),
            (
                [shown("fq_codel", limit=1024)],
                "fq_codel noecn limit 1024",
            ),
            (
                [shown("fq_codel", limit=1024, target=4999, interval=99999, ecn=True)],
                "fq_codel limit 1024 target 4999us interval 99999us ecn",
            ),
        ],
    )
    def test_what_tc_shows_is_written_as_text(self, lines: list[ShownQdisc], text: str) -> None:
        assert qdiscs.observed(lines) == text
        assert qdiscs.covers(text, text)

    def test_what_could_not_be_brought_back_is_not_taken(self) -> None:
        for qdisc in (shown("htb"), shown("pfifo", limit=5, colour="red")):
            with pytest.raises(qdiscs.UnknownQdiscError):
                qdiscs.observed([qdisc])

    @pytest.mark.parametrize(
        ("kind", "given", "queues", "text"),
        [
            ("fq", {}, 1, "fq"),
            (
                "fq",
                {"limit": "10000", "maxrate": "1gbit"},
                4,
                "mq: fq limit 10000 maxrate 125000000bps",
            ),
            (
                "tbf",
                {"rate": "10mbit", "burst": "32kb", "latency": "50ms"},
                4,
                "tbf rate 1250000bps burst 32768 latency 50000us",
            ),
            ("bfifo", {"limit": "64k"}, 1, "bfifo limit 65536"),
            ("fq", {"timer_slack": "20us"}, 1, "fq timer_slack 20000ns"),
            ("fq_codel", {"target": "5ms", "ecn": ""}, 1, "fq_codel target 5000us ecn"),
        ],
    )
    def test_amounts_are_written_in_base_units(
        self, kind: str, given: dict[str, str], queues: int, text: str
    ) -> None:
        assert qdiscs.desired(kind, given, queues=queues) == text

    @pytest.mark.parametrize(
        ("wanted", "found", "right"),
        [
            ("fq limit 10000", "fq limit 10000 flow_limit 100", True),
            ("fq limit 10000", "fq limit 9999 flow_limit 100", False),
            ("fq", "default fq", True),
            ("mq: fq", "default mq: fq limit 5", True),
            ("mq: fq", "mq: 1 fq; 2 noop", False),
            ("mq: fq", "fq", False),
            ("pfifo limit 5", "default noop", False),
            ("fq_codel target 5000us", "fq_codel target 4999us", True),
            (WHOLE_FQ, f"{WHOLE_FQ} maxrate 5bps", False),
            (f"{WHOLE_FQ} maxrate 5bps", WHOLE_FQ, False),
            (WHOLE_FQ, WHOLE_FQ, True),
            ("fq_codel noecn", "fq_codel noecn limit 5", True),
            ("fq_codel noecn", "fq_codel limit 5 ecn", False),
            ("fq_codel target 5000us", "fq_codel target 4899us", False),
            ("tbf rate 5bps burst 32768", "tbf rate 5bps burst 32767 latency 5us", True),
            ("tbf rate 5bps burst 32768", "tbf rate 5bps burst 22767 latency 5us", False),
            ("default mq: fq", "default noqueue", True),
            ("default mq", "mq: fq", False),
        ],
    )
    def test_all_that_is_wanted_has_to_be_found(self, wanted: str, found: str, right: bool) -> None:
        assert qdiscs.covers(wanted, found) is right

    @given(st.text(max_size=12))
    def test_an_amount_is_read_or_refused(self, text: str) -> None:
        for name in ("rate", "latency", "burst", "limit"):
            try:
                value = qdiscs.amount("tbf", name, text)
            except ValueError:
                continue
            assert qdiscs.amount("tbf", name, value) == value


class TestOwners:
    def test_of_one_name_the_first_directory_counts(self, tmp_path: Path) -> None:
        for where, value in (("etc", "1"), ("usr/lib", "2")):
            directory = tmp_path / where / "sysctl.d"
            directory.mkdir(parents=True)
            (directory / "50-x.conf").write_text(f"# c\n-vm.swappiness = {value}\n")
        found = Owners(tmp_path).conflicts(Knob("sysctl", "", "vm.swappiness"), "9")
        assert found == [f"{tmp_path}/etc/sysctl.d/50-x.conf sets it to 1"]
        assert Owners(tmp_path).conflicts(Knob("sysctl", "", "vm.swappiness"), "1") == []

    def test_tuned_counts_while_it_runs_with_what_it_includes(self, tmp_path: Path) -> None:
        for path, text in (
            ("etc/tuned/active_profile", "mine\n"),
            ("etc/tuned/mine/tuned.conf", "[main]\ninclude=base\n[sysctl]\nvm.swappiness=5\n"),
            (
                "usr/lib/tuned/base/tuned.conf",
                "[main]\nsummary=x\n[vm]\ntransparent_hugepages=always\n[disk]\nreadahead=>4096\n",
            ),
            ("run/tuned/tuned.pid", "77\n"),
        ):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        swappiness = Knob("sysctl", "", "vm.swappiness")
        assert Owners(tmp_path).conflicts(swappiness, "1") == []
        (tmp_path / "proc/77").mkdir(parents=True)
        owners = Owners(tmp_path)
        assert owners.conflicts(swappiness, "1") == ["tuned (mine) sets it to 5"]
        pages = Knob("memory", "", "transparent_hugepages")
        assert owners.conflicts(pages, "never") == ["tuned (mine) sets it to always"]
        assert owners.conflicts(Knob("block", "sda", "read_ahead_kb"), "4096") == []
        assert "tuned is active" in owners.notes[0]

    def test_udev_rules_and_networkd_are_named(self, tmp_path: Path) -> None:
        rules = tmp_path / "etc/udev/rules.d"
        network = tmp_path / "etc/systemd/network"
        for directory in (rules, network):
            directory.mkdir(parents=True)
        (rules / "60-io.rules").write_text(
            'ACTION=="add", ATTR{queue/scheduler}="bfq"\n#ATTR{queue/nomerges}="1"\n'
        )
        (network / "10-eth.network").write_text("[Match]\nName=eth*\n[FairQueueing]\n")
        owners = Owners(tmp_path)
        assert len(owners.conflicts(Knob("block", "sda", "scheduler"), "none")) == 1
        assert owners.conflicts(Knob("block", "sda", "nomerges"), "2") == []
        assert len(owners.conflicts(Knob("network", "eth0", "qdisc"), "mq: fq_codel")) == 1
        assert owners.conflicts(Knob("network", "eth0", "qdisc"), "mq: fq") == []
        assert owners.conflicts(Knob("network", "ens5", "qdisc"), "mq: fq_codel") == []


class TestWrites:
    @pytest.mark.parametrize(
        "name",
        [
            "vm",
            "",
            "vm..x",
            "../x.y",
            "vm/../../etc",
            "vm.a b",
            "a.b\n",
            ".vm.x",
            "vm.x\0",
            "kernel.core_pattern",
            "kernel/core_pattern",
            "kernel.modprobe",
            "kernel.poweroff_cmd",
            "fs.binfmt_misc.register",
            "kernel.modules_disabled",
            "kernel.kexec_load_disabled",
            "kernel.yama.ptrace_scope",
            "kernel.unprivileged_bpf_disabled",
        ],
    )
    def test_sysctls_that_are_not_for_tuning_are_refused(self, name: str) -> None:
        with pytest.raises(Refused):
            sysctl_path(name)

    def test_names_are_split_as_sysctl_does(self) -> None:
        assert sysctl_path("net.ipv4.conf.eth0/100.rp_filter")[3] == "eth0.100"
        assert sysctl_path("net/ipv4/conf/eth0.100/rp_filter")[3] == "eth0.100"

    @pytest.mark.parametrize(
        "write",
        [
            {"kind": "block", "device": "../sda", "attribute": "nomerges", "value": "1"},
            {"kind": "block", "device": "sda", "attribute": "../../x", "value": "1"},
            {"kind": "block", "device": "sda", "attribute": "nomerges", "value": "1\n2"},
            {"kind": "hugepages", "attribute": "enabled", "value": "a b"},
            {"kind": "module", "module": "..", "parameter": "x", "value": "1"},
            {"kind": "module", "module": "a", "parameter": "x/y", "value": "1"},
            {"kind": "sysctl", "name": "vm.x", "value": "1\n2"},
            {"kind": "limits", "unit": "../../x.service", "limits": {}},
            {"kind": "file", "place": "udev", "content": "x"},
            {"kind": "swap", "areas": [{"path": "relative", "priority": 1}]},
            {"kind": "qdisc", "interface": "a", "ifindex": 1, "root": {"kind": "evil"}},
            {"kind": "shell", "command": "id"},
        ],
    )
    def test_what_is_no_such_write_is_refused(self, write: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            WRITE.validate_python(write)

    def test_parameters_of_a_qdisc_are_those_it_has(self) -> None:
        for parameters in ({"colour": "1"}, {"limit": "1; reboot"}, {"limit": "-x"}):
            with pytest.raises(Refused):
                Qdisc(kind="pfifo", parameters=parameters).check()
        with pytest.raises(Refused):
            Qdisc.model_construct(kind="evil", parameters={}).check()

    def test_a_write_is_plain_data(self) -> None:
        write = WRITE.validate_python({"kind": "sysctl", "name": "vm.x", "value": "1"})
        assert WRITE.validate_json(WRITE.dump_json(write)) == write


class TestRecord:
    def test_the_way_to_the_first_stays_when_the_record_is_shortened(self) -> None:
        state = State()
        for number in range(100):
            change = Change(
                subsystem="sysctl",
                target="",
                name="vm.x",
                before=str(number),
                after=str(number + 1),
            )
            state.push(
                Entry.model_validate(
                    {
                        "profile": "p",
                        "applied_at": "2026-01-01T00:00:00Z",
                        "previous": None,
                        "changes": [change],
                    }
                )
            )
        assert len(state.history) == 32
        assert state.history[0].changes[0].before == "0"
        for older, newer in zip(state.history, state.history[1:], strict=False):
            assert older.changes[0].after == newer.changes[0].before
