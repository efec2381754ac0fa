"""What units call: loads that wait only so long, dumps that hold back, the state directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.oracles.residency import pinned
from tests.support.daemon.harness import Daemon, clean_environment, run_cli
from tests.support.machine.disk import write_file
from tests.support.waiting import until

NOBODY = 65534


class TestLoadUntil:
    @pytest.fixture
    def dumped(self, daemon: Daemon) -> Daemon:
        """Give a daemon with a dump of 64 MiB, all of which is on the disk only."""
        write_file(daemon.root / "file", 64 << 20)
        with pinned(daemon.root / "file"):
            assert daemon.run("/v1/pagecache/dumps", {})["bytes"] == 64 << 20
        daemon.run("/v1/pagecache/evictions", {"paths": [str(daemon.root)]})
        return daemon

    def test_a_share_is_enough_and_the_rest_goes_on(self, dumped: Daemon) -> None:
        done = dumped.cli("pagecache", "load", "--until", "5%", "--rate", "1MiB")
        assert done.returncode == 0, done.stderr
        reported = re.search(
            r"(\d+)\.\d % of the bytes after .*: operation (\w+) continues", done.stderr
        )
        assert reported is not None, done.stderr
        assert 5 <= int(reported[1]) < 100
        now = dumped.http.get(f"/v1/operations/{reported[2]}").json()
        assert now["state"] == "running"
        dumped.http.post(f"/v1/operations/{reported[2]}/cancel")

    def test_a_deadline_is_kept(self, dumped: Daemon) -> None:
        done = dumped.cli("pagecache", "load", "--deadline", "1s", "--rate", "1MiB")
        assert done.returncode == 0, done.stderr
        assert "the deadline of 1.0 s is over, at " in done.stderr
        (operation,) = re.findall(r"operation (\w+) continues", done.stderr)
        dumped.http.post(f"/v1/operations/{operation}/cancel")

    def test_a_load_that_ends_before_is_told_as_ever(self, dumped: Daemon) -> None:
        done = dumped.cli("pagecache", "load", "--until", "100%", "--deadline", "5m", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["state"] == "succeeded"

    def test_no_dump_is_no_error_where_that_is_said(self, daemon: Daemon) -> None:
        done = daemon.cli("pagecache", "load", "--missing-ok")
        assert (done.returncode, done.stderr) == (0, "there is no dump to load\n")
        assert daemon.cli("pagecache", "load").returncode == 1

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (("--until", "lots"), "'lots' is not a share"),
            (("--until", "0%"), "'0%' is not a share"),
            (("--until", "101%"), "'101%' is not a share"),
            (("--deadline", "soon"), "'soon' is not a span of time"),
            (("--deadline", "1s", "--no-wait"), "not with --no-wait"),
        ],
    )
    def test_what_makes_no_sense(
        self, daemon: Daemon, options: tuple[str, ...], complaint: str
    ) -> None:
        done = daemon.cli("pagecache", "load", *options)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert done.stderr.count("\n") == 1


def test_no_dump_is_made_of_what_a_load_has_not_brought_yet(daemon: Daemon) -> None:
    write_file(daemon.root / "file", 64 << 20)
    with pinned(daemon.root / "file"):
        daemon.run("/v1/pagecache/dumps", {})
    daemon.run("/v1/pagecache/evictions", {"paths": [str(daemon.root)]})
    load = daemon.start("/v1/pagecache/loads", {"bytes_per_second": 1 << 20})
    until(
        lambda: daemon.http.get(f"/v1/operations/{load['id']}").json()["state"] == "running",
        what="the load",
    )

    done = daemon.cli("pagecache", "dump", "--unless-loading")

    assert done.returncode == 0
    assert f"no dump is made while operation {load['id']} loads one" in done.stderr
    assert len(daemon.http.get("/v1/pagecache/dumps").json()["dumps"]) == 1
    daemon.http.post(f"/v1/operations/{load['id']}/cancel")
    daemon.finish(load)
    assert daemon.cli("pagecache", "dump", "--unless-loading").returncode == 0
    assert len(daemon.http.get("/v1/pagecache/dumps").json()["dumps"]) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as the unit has it")
class TestPrepare:
    @pytest.fixture
    def config(self, disk_dir: Path) -> Path:
        (disk_dir / "data").mkdir()
        config = disk_dir / "holdfast.toml"
        config.write_text(f'roots = ["{disk_dir}/data"]\n')
        return config

    @staticmethod
    def prepare(config: Path, user: str = "nobody") -> subprocess.CompletedProcess[str]:
        return run_cli("prepare", "--user", user, "--config", config)

    def test_the_state_directory_is_made_for_the_daemons_user(self, config: Path) -> None:
        assert self.prepare(config).returncode == 0
        state = config.parent / "data/.holdfast"
        assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (NOBODY, 0o700)
        assert "is there" in self.prepare(config).stdout

    def test_nothing_of_anybody_elses_is_given_away(self, config: Path) -> None:
        state = config.parent / "data/.holdfast"
        state.mkdir()
        os.chown(state, 12345, 12345)
        done = self.prepare(config)
        assert done.returncode == 1
        assert "belongs to user 12345" in done.stderr
        assert state.stat().st_uid == 12345
        state.rmdir()
        state.symlink_to("/etc")
        done = self.prepare(config)
        assert done.returncode == 1
        assert "is a symbolic link" in done.stderr
        assert Path("/etc").stat().st_uid == 0

    def test_without_the_volume_there_is_nothing_to_do(self, config: Path) -> None:
        shutil.rmtree(config.parent / "data")
        done = self.prepare(config)
        assert done.returncode == 0
        assert "mount the volume" in done.stdout
        assert not (config.parent / "data").exists()

    def test_a_user_that_is_not_there(self, config: Path) -> None:
        done = self.prepare(config, "no-such-user")
        assert done.returncode == 2
        assert "there is no user 'no-such-user'" in done.stderr


def test_the_watchdog_is_fed_by_the_loop_that_answers(disk_dir: Path) -> None:
    (disk_dir / "data").mkdir()
    address = f"@holdfast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{address[1:]}")
        receiver.settimeout(15)
        serve = [sys.executable, "-m", "holdfast", "serve", "--root", str(disk_dir / "data")]
        serve += ["--listen", "", "--socket", str(disk_dir / "s")]
        surroundings = clean_environment(NOTIFY_SOCKET=address, WATCHDOG_USEC="400000")
        with subprocess.Popen(serve, env=surroundings, stderr=subprocess.DEVNULL) as process:
            reported: list[bytes] = []
            while reported.count(b"WATCHDOG=1") < 5:
                reported.append(receiver.recv(100))
            assert b"READY=1" in reported
            # A daemon that hangs feeds nothing.
            process.send_signal(signal.SIGSTOP)
            receiver.settimeout(1.0)
            time.sleep(0.3)  # what was under way when it was stopped
            receiver.setblocking(False)
            with suppress(BlockingIOError):
                while receiver.recv(100):
                    pass
            receiver.settimeout(1.0)
            with pytest.raises(TimeoutError):
                receiver.recv(100)
            process.send_signal(signal.SIGCONT)
            process.terminate()
            assert process.wait(10) == 0
