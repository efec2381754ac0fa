"""A profile is planned, applied whole, and reverted: sysctls of a network namespace and files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.capabilities.tuning import SYSCTLS, Tuned, row_of, tuned
from tests.support.daemon.contract import check_problem
from tests.support.daemon.harness import Daemon


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
    with tuned(start_daemon, disk_dir) as found:
        yield found


class TestPlan:
    def test_it_says_what_would_change_and_changes_nothing(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        before = node.sysctls()

        plan = node.plan("mine")

        assert plan["changes"] == len(SYSCTLS)
        assert plan["applicable"] is True
        row = row_of(plan, "net.ipv4.tcp_keepalive_time")
        assert (row["observed"], row["desired"]) == (before["net.ipv4.tcp_keepalive_time"], "61")
        assert (row["action"], row["subsystem"], row["target"]) == ("set", "sysctl", "")
        assert node.sysctls() == before
        assert node.state()["profile"] is None

    def test_the_comment_beside_a_value_is_its_source(self, node: Tuned) -> None:
        text = '[sysctl]\n"net.core.somaxconn" = 4321  # Because of #7, "quoted".\n'
        (node.profiles / "mine.toml").write_text(text)
        row = row_of(node.plan("mine"), "net.core.somaxconn")
        assert row["source"] == 'Because of #7, "quoted".'
        assert row["defined_at"].endswith("mine.toml:2")

    def test_what_is_not_here_is_skipped_only_if_the_profile_says_so(self, node: Tuned) -> None:
        node.profile("soft", {"net.core.nope": "{ value = 1, only_if_present = true }"})
        plan = node.plan("soft")
        assert row_of(plan, "net.core.nope")["action"] == "skip"
        assert node.apply("soft")["written"] == 0

        node.profile("hard", {"net.core.somaxcon": "1"})
        row = row_of(node.plan("hard"), "net.core.somaxcon")
        assert row["action"] == "impossible"
        assert "did you mean `net.core.somaxconn`?" in row["note"]
        problem = check_problem(node.ask("apply", profile="hard"), 422, "invalid-request")
        assert problem["errors"][0]["field"].endswith("hard.toml:5: sysctl.net.core.somaxcon")

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("net.ipv4.tcp_rmem", "4096", "needs 3 numbers"),
            ("net.core.somaxconn", "many", "should be from 0 to"),
            ("net.ipv4.tcp_syn_retries", "many", "should be a number like the present"),
            ("kernel.ostype", "Other", "is read-only"),
            ("vm.swappiness", "201", "should be from 0 to 200"),
            ("kernel.core_pattern", "|/bin/sh", "run programs as root"),
            ("kernel.modules_disabled", "1", "cannot be reverted"),
            ("../../etc/passwd", "x", "is not the name of a sysctl"),
        ],
    )
    def test_a_value_that_cannot_be_is_refused_with_file_line_and_key(
        self, node: Tuned, name: str, value: str, reason: str
    ) -> None:
        node.profile("mine", {"net.ipv4.tcp_retries2": "6", name: value})
        before = node.sysctls()
        problem = check_problem(node.ask("apply", profile="mine"), 422, "invalid-request")
        assert reason in problem["detail"]
        assert f"mine.toml:6: sysctl.{name}" in problem["errors"][0]["field"]
        assert node.sysctls() == before

    def test_another_owner_is_named(self, node: Tuned) -> None:
        node.ns.write("/etc/sysctl.d/99-other.conf", "net.core.somaxconn = 5\n")
        node.ns.write("/etc/sysctl.d/10-same.conf", "net/core/somaxconn = 4321\n")
        node.profile("mine", {"net.core.somaxconn": "4321"})
        conflicts = row_of(node.plan("mine"), "net.core.somaxconn")["conflicts"]
        assert conflicts == [
            "/etc/sysctl.d/99-other.conf sets it to 5 and is read after holdfast's file"
        ]

    def test_a_profile_with_mistakes_is_an_error_that_names_them_all(self, node: Tuned) -> None:
        (node.profiles / "bad.toml").write_text(
            '[profile]\nextend = "base"\n[sysctl]\nvm.swappiness = true\n[blok]\nx = 1\n'
            '[[block]]\nselect = { name = "sda" }\nschedular = "none"\n'
        )
        problem = check_problem(node.ask("plan", profile="bad"), 422, "invalid-request")
        fields = [error["field"].rpartition("/")[2] for error in problem["errors"]]
        assert sorted(fields) == [
            "bad.toml:2: profile.extend",
            "bad.toml:4: sysctl.vm.swappiness",
            "bad.toml:5: blok",
            "bad.toml:8: block[1].select.name",
            "bad.toml:9: block[1].schedular",
        ]
        listed = node.daemon.http.get("/v1/tuning/profiles").json()["profiles"]
        assert (
            "bad.toml:2" in next(profile for profile in listed if profile["name"] == "bad")["error"]
        )
        check_problem(node.ask("plan", profile="nope"), 404, "not-found")

    def test_a_circle_of_profiles_is_named(self, node: Tuned) -> None:
        node.profile("one", head='extends = "two"')
        node.profile("two", head='extends = "one"')
        problem = check_problem(node.ask("plan", profile="one"), 422, "invalid-request")
        assert "one > two > one" in problem["detail"]

    def test_parents_that_disagree_are_an_error_until_the_child_decides(self, node: Tuned) -> None:
        node.profile("one", {"net.core.somaxconn": "1001"})
        node.profile("two", {"net.core.somaxconn": "1002"})
        node.profile("both", head='extends = ["one", "two"]')
        problem = check_problem(node.ask("plan", profile="both"), 422, "invalid-request")
        assert "contradicts" in problem["detail"]
        node.profile("both", {"net.core.somaxconn": "1003"}, head='extends = ["one", "two"]')
        assert row_of(node.plan("both"), "net.core.somaxconn")["desired"] == "1003"

    def test_a_profile_that_others_could_have_written_is_not_trusted(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        (node.profiles / "mine.toml").chmod(0o666)
        problem = check_problem(node.ask("apply", profile="mine"), 422, "invalid-request")
        assert "could have been written by other users" in problem["detail"]


class TestApply:
    def test_every_setting_is_written_and_read_back(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        before = node.sysctls()

        applied = node.apply("mine")

        assert applied["written"] == len(SYSCTLS)
        assert node.sysctls() == SYSCTLS
        row = row_of(applied, "net.core.somaxconn")
        assert (row["previous"], row["observed"]) == (before["net.core.somaxconn"], "4321")
        state = node.state()
        assert (state["profile"], state["settings"]) == ("mine", {"sysctl": len(SYSCTLS)})
        assert state["drifted"] == []

        back = node.rollback()
        assert back["written"] == len(SYSCTLS)
        assert back["profile"] is None
        assert node.sysctls() == before
        check_problem(node.ask("rollback"), 409, "conflict")

    def test_a_second_apply_writes_nothing(self, node: Tuned, tmp_path: Path) -> None:
        if shutil.which("strace") is None:
            pytest.skip("strace is not installed")
        node.ns.pair("hf0", "hg0")
        rest = '[[network]]\nselect = { name = "hf0" }\nqdisc = { kind = "pfifo", limit = 99 }\n'
        node.profile("mine", SYSCTLS, rest)
        trace = tmp_path / "trace"
        node.apply("mine")

        with _strace(node.daemon.pid, trace):
            assert node.apply("mine")["written"] == 0

        lines = trace.read_text().splitlines()
        opened = [
            line for line in lines if "open" in line and ("/proc/sys" in line or '"/sys' in line)
        ]
        assert opened, "the trace shows no reading of the settings"
        assert [line for line in opened if "O_WRONLY" in line or "O_RDWR" in line] == []
        started = [line for line in lines if "execve" in line and "/tc" in line]
        assert started, "the trace shows no reading of the qdiscs"
        assert [line for line in started if '"show"' not in line] == []
        assert [line for line in lines if "tuning/" in line and "rename" in line] == []

    def test_a_value_that_the_kernel_refuses_takes_everything_back(self, node: Tuned) -> None:
        wrong = {**SYSCTLS, "net.ipv4.tcp_congestion_control": "nonesuch"}
        node.profile("mine", wrong)
        before = node.sysctls(*wrong)

        response = node.ask("apply", profile="mine")

        problem = check_problem(response, 500, "io-error")
        assert problem["setting"]["name"] == "net.ipv4.tcp_congestion_control"
        assert "No such file or directory" in problem["reason"]
        assert problem["not_reverted"] == []
        assert node.sysctls(*wrong) == before
        operation = node.daemon.http.get(response.headers["location"]).json()
        assert operation["state"] == "failed"
        assert node.state()["profile"] is None
        assert node.state()["problem"] is None

    def test_without_privilege_nothing_is_changed_and_it_says_so(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path
    ) -> None:
        disk_dir.chmod(0o755)
        with tuned(start_daemon, disk_dir, user=65534) as node:
            node.profile("mine", SYSCTLS)
            before = node.sysctls()
            problem = check_problem(node.ask("apply", profile="mine"), 403, "not-permitted")
            assert "root" in problem["detail"]
            assert node.sysctls() == before

    def test_exactly_the_plan_that_was_shown_can_be_asked_for(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        plan = node.plan("mine")["plan"]
        assert node.plan("mine")["plan"] == plan
        node.ns.set_sysctl("net.core.somaxconn", "77")
        check_problem(node.ask("apply", profile="mine", plan=plan), 409, "conflict")
        assert node.ns.sysctl("net.core.somaxconn") == "77"
        node.apply("mine", plan=node.plan("mine")["plan"])

    def test_the_same_idempotency_key_answers_the_same_apply(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        headers = {"Idempotency-Key": "k1"}
        first = node.daemon.http.post("/v1/tuning/apply", json={"profile": "mine"}, headers=headers)
        node.rollback()
        again = node.daemon.http.post("/v1/tuning/apply", json={"profile": "mine"}, headers=headers)
        assert first.json() == again.json()
        assert first.headers["location"] == again.headers["location"]
        assert node.state()["profile"] is None

    def test_only_an_admin_may(self, start_daemon: Callable[..., Daemon]) -> None:
        daemon = start_daemon()
        operate, read = daemon.client("operate"), daemon.client("read")
        check_problem(operate.post("/v1/tuning/apply", json={"profile": "base"}), 403, "forbidden")
        check_problem(operate.post("/v1/tuning/rollback"), 403, "forbidden")
        assert read.post("/v1/tuning/plan", json={"profile": "base"}).status_code == 200
        assert read.get("/v1/tuning").status_code == 200


class TestProfiles:
    def test_what_the_next_profile_leaves_out_goes_back(self, node: Tuned) -> None:
        node.profile("one", {"net.core.somaxconn": "1001", "net.ipv4.tcp_retries2": "7"})
        node.profile("two", {"net.ipv4.tcp_retries2": "8"})
        before = node.sysctls()
        node.apply("one")

        plan = node.plan("two")
        assert row_of(plan, "net.core.somaxconn")["action"] == "restore"
        node.apply("two")

        after = node.sysctls()
        assert after["net.core.somaxconn"] == before["net.core.somaxconn"]
        assert after["net.ipv4.tcp_retries2"] == "8"
        assert node.rollback()["profile"] == "one"
        assert node.sysctls("net.core.somaxconn", "net.ipv4.tcp_retries2") == {
            "net.core.somaxconn": "1001",
            "net.ipv4.tcp_retries2": "7",
        }
        assert node.state()["drifted"] == []
        node.apply("two")
        assert node.rollback("first")["profile"] is None
        assert node.sysctls() == before

    def test_nothing_goes_back_because_the_daemon_stops(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        before = node.sysctls()
        node.apply("mine")
        node.daemon.stop()
        assert node.sysctls() == SYSCTLS
        node.daemon.restart()
        assert node.state()["profile"] == "mine"
        assert node.apply("mine")["written"] == 0
        node.rollback()
        assert node.sysctls() == before

    def test_numbers_follow_from_the_machine(self, node: Tuned) -> None:
        node.profile(
            "mine",
            {
                "net.core.somaxconn": "${clamp(limit, 200, 999)}",
                "net.ipv4.tcp_retries2": '{ value = 9, when = "cpus > 100000" }',
            },
            '[variables]\nlimit = "1000 * cpus"\n',
        )
        plan = node.plan("mine")
        assert row_of(plan, "net.core.somaxconn")["desired"] == "999"
        assert len(plan["settings"]) == 1
        assert any("cpus > 100000" in note for note in plan["notes"])

    def test_a_built_in_profile_is_applied_and_rolled_back(self, node: Tuned) -> None:
        names = ("net.core.somaxconn", "net.ipv4.tcp_tw_reuse", "net.ipv4.ip_local_port_range")
        before = node.sysctls(*names)
        node.apply("network")
        assert node.sysctls(*names) == {
            "net.core.somaxconn": "4096",
            "net.ipv4.tcp_tw_reuse": "1",
            "net.ipv4.ip_local_port_range": "10240 65535",
        }
        node.rollback()
        assert node.sysctls(*names) == before


class TestFiles:
    def test_limits_are_a_drop_in_of_the_unit(self, node: Tuned) -> None:
        rest = '[limits."mydb.service"]\nnofile = 100000\nmemlock = "infinity"\n'
        node.profile("mine", rest=rest)
        node.apply("mine")
        path = "/etc/systemd/system/mydb.service.d/90-holdfast.conf"
        assert "[Service] LimitMEMLOCK=infinity LimitNOFILE=100000" in node.ns.read(path)
        node.rollback()
        assert not node.ns.exists(path)
        assert not node.ns.exists("/etc/systemd/system/mydb.service.d")

    def test_files_for_the_boot_are_written_on_request_and_go_with_a_rollback(
        self, node: Tuned
    ) -> None:
        path = "/etc/sysctl.d/90-holdfast.conf"
        thp = '[memory]\ntransparent_hugepages = "madvise"\n'
        node.profile("mine", SYSCTLS, thp)
        node.apply("mine", persist=True)
        content = node.ns.run("cat", path)
        assert content.startswith("# Written by holdfast for profile mine")
        node.ns.set_sysctl("net.core.somaxconn", "5")
        node.ns.run("sysctl", "-q", "-p", path)
        assert node.sysctls() == SYSCTLS
        assert "transparent_hugepage/enabled - - - - madvise" in node.ns.read(
            "/etc/tmpfiles.d/90-holdfast.conf"
        )
        node.ns.write(path, "net.core.somaxconn = 1\n")
        assert [setting["subsystem"] for setting in node.state()["drifted"]] == ["persistence"]
        node.apply("mine", persist=True)
        assert node.ns.run("cat", path) == content

        node.rollback("first")
        assert not node.ns.exists(path)
        assert not node.ns.exists("/etc/tmpfiles.d/90-holdfast.conf")

    def test_applied_without_files_the_next_time_they_go(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        node.apply("mine", persist=True)
        assert node.apply("mine")["written"] == 1
        assert not node.ns.exists("/etc/sysctl.d/90-holdfast.conf")
        assert node.sysctls() == SYSCTLS


@contextmanager
def _strace(pid: int, trace: Path) -> Iterator[None]:
    calls = "trace=open,openat,openat2,execve,rename,renameat,renameat2,write,pwrite64"
    with subprocess.Popen(
        ["strace", "-f", "-s", "200", "-e", calls, "-o", str(trace), "-p", str(pid)],
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stderr is not None
        try:
            line = tracer.stderr.readline()
            if "attached" not in line:
                pytest.skip(f"nothing can be traced here: {line}")
            yield
        finally:
            tracer.terminate()
