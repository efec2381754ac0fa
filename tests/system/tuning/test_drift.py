"""Drift is seen, reported and, if the profile asks for it, corrected, but never in a loop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.capabilities.tuning import SYSCTLS, Tuned, row_of, start_in, tuned
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.machine.namespaces import own_namespaces
from tests.support.waiting import until

NAME = "net.core.somaxconn"


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
    with tuned(start_daemon, disk_dir) as found:
        yield found


def metric(node: Tuned, name: str, subsystem: str) -> float | None:
    wanted = f'holdfast_tuning_{name}{{subsystem="{subsystem}"}} '
    for line in node.daemon.http.get("/metrics").text.splitlines():
        if line.startswith(wanted):
            return float(line.removeprefix(wanted))
    return None


class TestReport:
    def test_drift_is_in_the_state_the_metrics_and_the_events(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        node.apply("mine")
        until(
            lambda: metric(node, "settings", "sysctl") == len(SYSCTLS), what="the settings counted"
        )
        assert metric(node, "drifted_settings", "sysctl") == 0

        node.ns.set_sysctl(NAME, "7")

        (drifted,) = node.state()["drifted"]
        assert (drifted["name"], drifted["desired"], drifted["observed"]) == (NAME, "4321", "7")
        until(lambda: metric(node, "drifted_settings", "sysctl") == 1, what="the metric")
        until(lambda: node.events("drifted"), what="the event")
        assert node.ns.sysctl(NAME) == "7"

        node.ns.set_sysctl(NAME, "4321")
        until(lambda: node.events("settled"), what="the end of the drift")
        assert node.state()["drifted"] == []
        assert len(node.events("drifted")) == 1

    def test_events_are_streamed(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        with node.daemon.client().stream(
            "GET", "/v1/tuning/events", headers={"Accept": "application/x-ndjson"}
        ) as stream:
            lines = stream.iter_lines()
            next(lines)  # it listens now
            node.apply("mine")
            applied = json.loads(next(line for line in lines if line))
            node.ns.set_sysctl(NAME, "7")
            drifted = json.loads(next(line for line in lines if line))
        assert (applied["kind"], drifted["kind"]) == ("applied", "drifted")
        assert drifted["settings"] == [f"sysctl {NAME}"]

    def test_a_profile_whose_file_changed_is_told(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS)
        node.apply("mine")
        assert node.state()["profile_changed"] is False
        node.profile("mine", {**SYSCTLS, NAME: "9"})
        assert node.state()["profile_changed"] is True
        assert node.state()["drifted"] == []


class TestEnforce:
    def test_drift_is_written_back_and_then_contested(self, node: Tuned) -> None:
        node.profile("mine", SYSCTLS, head='policy = "enforce"')
        node.apply("mine")
        for turn in range(3):
            node.ns.set_sysctl(NAME, "7")
            until(lambda: node.ns.sysctl(NAME) == "4321", what="the correction")
            until(partial(self._enforced, node, turn + 1), what="the event")
        node.ns.set_sysctl(NAME, "7")
        until(lambda: node.events("contested"), what="the end of corrections")
        assert node.ns.sysctl(NAME) == "7"
        assert node.state()["drifted"][0]["contested"] is True
        assert len(node.events("contested")) == 1
        # An operator who applies it again means it.
        assert node.apply("mine")["written"] == 1
        node.ns.set_sysctl(NAME, "7")
        until(lambda: node.ns.sysctl(NAME) == "4321", what="the correction")

    @staticmethod
    def _enforced(node: Tuned, times: int) -> bool:
        return len(node.events("enforced")) == times


class TestCommandLine:
    def test_plan_apply_show_rollback(self, node: Tuned) -> None:
        cli = node.daemon.cli
        node.profile("mine", SYSCTLS)
        before = node.sysctls()

        planned = cli("tune", "plan", "mine")
        assert planned.returncode == 3, planned.stderr
        rows = [line.split() for line in planned.stdout.splitlines()]
        assert ["~", NAME, before[NAME], "->", "4321"] in rows
        assert "would change 6 of 6 settings" in planned.stdout

        applied = cli("tune", "apply", "mine")
        assert applied.returncode == 0, applied.stderr
        assert "6 of 6 settings written, all read back" in applied.stdout
        assert cli("tune", "plan", "mine").returncode == 0
        assert cli("tune", "show").returncode == 0

        node.ns.set_sysctl(NAME, "7")
        shown = cli("tune", "show")
        assert shown.returncode == 3
        assert NAME in shown.stdout
        assert "1 of 6 settings DRIFTED" in shown.stdout
        assert json.loads(cli("tune", "show", "--json").stdout)["drifted"][0]["name"] == NAME

        back = cli("tune", "rollback")
        assert back.returncode == 0, back.stderr
        assert node.sysctls() == before
        nothing = cli("tune", "rollback")
        assert nothing.returncode == 1
        assert "nothing to roll back" in nothing.stderr

    def test_mistakes_are_one_line(self, node: Tuned) -> None:
        (node.profiles / "bad.toml").write_text("[sysctl]\nvm.swapiness = \n")
        done = node.daemon.cli("tune", "plan", "bad")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "bad.toml:2" in done.stderr
        listed = node.daemon.cli("tune", "profiles")
        assert listed.returncode == 0
        assert "UNUSABLE" in listed.stdout
        assert "cassandra" in listed.stdout
        described = node.daemon.cli("tune", "profiles", "elasticsearch")
        assert "base + nvme + network + elasticsearch" in described.stdout

    def test_without_a_daemon_the_command_does_the_same(self, disk_dir: Path) -> None:
        with own_namespaces(disk_dir / "scratch") as ns:
            profiles = disk_dir / "profiles.d"
            profiles.mkdir()
            (profiles / "mine.toml").write_text(f'[sysctl]\n"{NAME}" = 4321\n')
            config = disk_dir / "holdfast.toml"
            root = disk_dir / "data"
            root.mkdir()
            config.write_text(
                f'roots = ["{root}"]\n[tuning]\nprofiles_dir = "{profiles}"\n'
                f'journal_dir = "{disk_dir}/journal"\n'
            )
            before = ns.sysctl(NAME)

            def local(*arguments: str) -> subprocess.CompletedProcess[str]:
                return run_cli(
                    "tune", *arguments, "--local", "--config", config, wrapper=ns.wrapper
                )

            assert local("plan", "mine").returncode == 3
            done = local("apply", "mine")
            assert done.returncode == 0, done.stderr
            assert "1 of 1 setting written" in done.stdout
            assert ns.sysctl(NAME) == "4321"
            ns.set_sysctl(NAME, "7")
            assert local("show").returncode == 3
            assert local("rollback").returncode == 0
            assert ns.sysctl(NAME) == before


class TestBoot:
    def test_after_a_boot_the_profile_is_applied_again_and_can_be_taken_back(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path
    ) -> None:
        """A boot is what takes the kernel's values back and changes the boot id."""
        with own_namespaces(disk_dir / "scratch") as ns:
            boot = disk_dir / "boot_id"
            boot.write_text("11111111-1111-4111-8111-111111111111\n")
            ns.run("mount", "--bind", boot, "/proc/sys/kernel/random/boot_id")
            node = start_in(start_daemon, disk_dir, ns)
            node.profile("mine", SYSCTLS, '[limits."x.service"]\nnofile = 5\n')
            before = node.sysctls()
            node.apply("mine")

            node.daemon.stop()
            boot.write_text("22222222-2222-4222-8222-222222222222\n")
            for name, value in before.items():
                ns.set_sysctl(name, value)
            ns.set_sysctl(NAME, "555")  # as another image has it
            node.daemon.restart()

            until(lambda: node.sysctls() == SYSCTLS, what="the profile in force again")
            (operation,) = until(
                lambda: [
                    operation
                    for operation in node.daemon.http.get(
                        "/v1/operations", params={"kind": "tuning.apply", "state": "succeeded"}
                    ).json()["operations"]
                    if operation["actor"] == "start"
                ],
                what="the end of the operation",
            )
            assert (operation["actor"], operation["state"]) == ("start", "succeeded")
            assert len(node.state()["history"]) == 1
            node.rollback()
            assert node.sysctls() == {**before, NAME: "555"}
            assert not ns.exists("/etc/systemd/system/x.service.d")

    def test_a_new_node_gets_the_profile_that_its_settings_name(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path
    ) -> None:
        with own_namespaces(disk_dir / "scratch") as ns:
            profiles = disk_dir / "profiles.d"
            profiles.mkdir()
            (profiles / "mine.toml").write_text(f'[sysctl]\n"{NAME}" = 4321\n')
            node = start_in(start_daemon, disk_dir, ns, tuning={"profile": "mine"})
            until(lambda: ns.sysctl(NAME) == "4321", what="the profile in force")
            assert row_of(node.plan("mine"), NAME)["action"] == "none"
