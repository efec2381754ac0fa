"""The privileged helper: writes for a daemon that has no right to, and for nobody else."""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.capabilities.tuning import SYSCTLS, Tuned, tuned
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment, dying_with_parent
from tests.support.daemon.helper import NOBODY, SOMEONE_ELSE, Helper, helping, write
from tests.support.daemon.helper_requests import lines
from tests.support.machine.namespaces import Namespaces, own_namespaces


@pytest.fixture
def ns(disk_dir: Path) -> Iterator[Namespaces]:
    with own_namespaces(disk_dir / "scratch") as found:
        yield found


@pytest.fixture
def helper(ns: Namespaces, disk_dir: Path) -> Iterator[Helper]:
    with helping(disk_dir / "helper", wrapper=ns.wrapper) as found:
        yield found


def arm(**changes: Any) -> dict[str, Any]:
    """Ask for an arming that is well-formed but for the changes."""
    return {
        "do": "arm",
        "nonce": "0" * 32,
        "operation": "x",
        "descriptor_path": "/nowhere",
        "descriptor_sha256": "0" * 64,
        "source": {"kind": "network", "url": "http://x/y"},
    } | changes


class TestForADaemonWithoutRights:
    @pytest.fixture
    def node(self, start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
        disk_dir.chmod(0o755)
        path = disk_dir / "helper"
        with (
            tuned(start_daemon, disk_dir, user=NOBODY, helper=str(path)) as node,
            helping(path, wrapper=node.ns.wrapper),
        ):
            yield node

    def test_a_profile_is_applied_and_taken_back(self, node: Tuned) -> None:
        limits = '[limits."db.service"]\nnofile = 4096\n'
        node.profile("mine", SYSCTLS, rest=limits)
        before = node.sysctls()
        status = Path(f"/proc/{node.daemon.pid}/status").read_text()
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), "it has rights of its own"

        node.apply("mine", persist=True)

        assert {name: node.ns.sysctl(name) for name in SYSCTLS} == SYSCTLS
        drop_in = "/etc/systemd/system/db.service.d/90-holdfast.conf"
        assert "LimitNOFILE=4096" in node.ns.read(drop_in)
        assert node.ns.exists("/etc/sysctl.d/90-holdfast.conf")

        node.rollback()

        assert node.sysctls() == before
        assert not node.ns.exists("/etc/sysctl.d/90-holdfast.conf")
        assert not node.ns.exists(drop_in)

    def test_what_the_kernel_says_no_to_is_told_and_taken_back(self, node: Tuned) -> None:
        wanted = SYSCTLS | {"net.ipv4.tcp_congestion_control": "nosuch"}
        node.profile("bad", wanted)
        before = node.sysctls()
        answer = node.ask("apply", profile="bad")
        assert answer.status_code == 500, answer.text
        problem = answer.json()
        assert problem["setting"]["name"] == "net.ipv4.tcp_congestion_control"
        assert "No such file or directory" in problem["reason"]
        assert problem["not_reverted"] == []
        assert node.sysctls() == before


def test_without_a_helper_nothing_is_written_and_the_answer_says_so(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    disk_dir.chmod(0o755)
    path = disk_dir / "nobody-there"
    with tuned(start_daemon, disk_dir, user=NOBODY, helper=str(path)) as node:
        node.profile("mine", SYSCTLS)
        before = node.sysctls()
        answer = node.ask("apply", profile="mine")
        assert answer.status_code >= 400
        assert "the privileged helper cannot be asked: No such file" in answer.text
        assert node.sysctls() == before
        # It is there later, and all continues.
        with helping(path, wrapper=node.ns.wrapper):
            assert node.apply("mine")["written"] == len(SYSCTLS)
            node.rollback()
        assert node.sysctls() == before


def test_killed_in_the_middle_the_change_is_finished_by_the_next(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    """The helper dies at one write: what had been written is reverted once there is a helper."""
    disk_dir.chmod(0o755)
    path = disk_dir / "helper"
    with tuned(start_daemon, disk_dir, user=NOBODY, helper=str(path)) as node:
        node.profile("mine", SYSCTLS)
        before = node.sysctls()
        strace = (
            "strace", "-f", "-o", "/dev/null", "-P", "/proc/sys/net/ipv4/tcp_retries2",
            "-e", "trace=write", "-e", "inject=write:signal=SIGKILL",
        )  # fmt: skip
        with helping(path, wrapper=(*node.ns.wrapper, *strace)):
            problem = node.ask("apply", profile="mine").json()
        assert "the privileged helper" in json.dumps(problem)
        with helping(path, wrapper=node.ns.wrapper):
            node.daemon.stop()
            node.daemon.restart()
            assert node.sysctls() == before
            assert node.state()["profile"] is None
            assert node.state()["problem"] is None


def test_files_that_keep_their_read_ahead_are_counted_for_the_daemon(
    helper: Helper, disk_dir: Path
) -> None:
    path = disk_dir / "open"
    with path.open("wb"):
        counted = helper.ask({"do": "open_files", "mount_point": str(disk_dir)})["open_files"]
    mine = [count for name, count in counted.items() if name.endswith(f"({os.getpid()})")]
    assert mine
    assert mine[0] >= 1
    assert helper.ask({"do": "open_files", "mount_point": "/nowhere"})["errno"] == 2


def test_it_finds_who_may_write_to_a_directory(helper: Helper, disk_dir: Path) -> None:
    (disk_dir / "tree").mkdir()
    inside, beside = disk_dir / "tree" / "inside", disk_dir / "beside"
    for path in (inside, beside, disk_dir / "tree" / "read", disk_dir / "tree" / "mapped"):
        path.write_bytes(b"x" * 4096)
    mapped = disk_dir / "tree" / "mapped"
    with inside.open("r+b"), beside.open("r+b"), (disk_dir / "tree" / "read").open("rb"):
        with mapped.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        answer = helper.ask({"do": "writers", "directory": str(disk_dir / "tree")})
        memory.close()
    mine = [file for file in answer["writers"]["files"] if file["pid"] == os.getpid()]
    assert {file["path"] for file in mine} == {str(inside), str(mapped), ""}
    assert all(str(os.getpid()) in file["process"] for file in mine)
    # A name that the caller did not ask for is not reported, only its inode.
    assert beside.stat().st_ino in {file["inode"] for file in mine if not file["path"]}
    assert helper.ask({"do": "writers", "directory": str(disk_dir / "none")})["errno"] == 2
    assert "malformed" in helper.ask({"do": "writers", "directory": "relative"})["refused"]


class TestWhoMayAsk:
    def test_only_the_daemons_user_and_root(self, helper: Helper, disk_dir: Path) -> None:
        status = helper.socket.stat()
        assert (status.st_uid, status.st_mode & 0o777) == (NOBODY, 0o600)
        disk_dir.chmod(0o755)
        code = (
            "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            's.sendall(b"{}\\n"); print(s.recv(999).decode())'
        )

        def as_user(user: int) -> subprocess.CompletedProcess[str]:
            setpriv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
            command = [*setpriv, sys.executable, "-I", "-c", code, str(helper.socket)]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        assert "malformed" in as_user(NOBODY).stdout
        assert "PermissionError" in as_user(SOMEONE_ELSE).stderr
        # Even where the mode of the socket was loosened by mistake.
        helper.socket.chmod(0o666)
        assert f"User {SOMEONE_ELSE} may not ask" in as_user(SOMEONE_ELSE).stdout


class TestWhatItRefuses:
    @pytest.mark.parametrize(
        ("request_", "reason"),
        [
            (write(kind="sysctl", name="kernel.core_pattern", value="|/bin/sh"), "run programs"),
            (write(kind="sysctl", name="../../../etc/passwd", value="x"), "not the name"),
            (write(kind="sysctl", name="net/../../etc", value="x"), "not the name"),
            (write(kind="sysctl", name="vm.swappiness", value="1\n2"), "control characters"),
            (write(kind="block", device="../vda", attribute="nomerges", value="2"), "block device"),
            (write(kind="block", device="vda", attribute="../uevent", value="2"), "malformed"),
            (write(kind="module", module="a/b", parameter="c", value="1"), "kernel module"),
            (write(kind="file", place="udev", content="x"), "malformed"),
            (write(kind="limits", unit="../x.service", limits={}), "malformed"),
            (write(kind="limits", limits={"nofile": "1"}), "malformed"),
            (write(kind="udev", rules=[], path="/etc/passwd"), "malformed"),
            (write(kind="hugepages", attribute="enabled", value="../x"), "malformed"),
            ({"do": "run", "command": "id"}, "malformed"),
            ({"do": "open_files", "mount_point": "relative"}, "malformed"),
            ([], "malformed"),
            (arm(nonce="x"), "malformed: arm.nonce"),
            (arm(nonce="A" * 32), "malformed: arm.nonce"),
            (arm(operation="../x"), "malformed: arm.operation"),
            (arm(descriptor_path="relative"), "malformed: arm.descriptor_path"),
            (arm(source={"kind": "network", "url": "file:///etc/shadow"}), "malformed"),
            (arm(source={"kind": "network", "url": "http://x/\n}"}), "malformed"),
            (arm(identity=["/etc/shadow"]), "malformed: arm.identity"),
            (arm(imager="/tmp/mine"), "malformed: arm.imager"),
            (arm(roots=["/srv"]), "malformed: arm.roots"),
            (arm(allow_kexec=True), "malformed: arm.allow_kexec"),
            (arm(signatures="0" * 127), "malformed: arm.signatures"),
            (arm(descriptor_path="/etc/passwd"), "The descriptor is not below"),
            ({"do": "reboot", "nonce": "0" * 32}, "arm it first"),
            ({"do": "reboot"}, "malformed"),
            ({"do": "disarm", "path": "/etc"}, "malformed"),
        ],
    )
    def test_a_request_outside_the_list(
        self, helper: Helper, request_: object, reason: str
    ) -> None:
        assert reason in helper.ask(request_)["refused"]

    def test_a_line_without_end(self, helper: Helper) -> None:
        assert helper.send(b"x" * (4 << 20)) == b""
        assert helper.send(b'{"do"') == b""
        assert helper.send(b"") == b""
        assert "malformed" in helper.ask({})["refused"]


# All that a type allows to be written, to be made anew, renamed or removed.
_ALLOWED = re.compile(
    r"/proc/sys(/[\w.:@-]+)+"
    r"|/sys/class/block/[\w.:!-]+/queue/\w+"
    r"|/sys/devices/(?:[\w.:-]+/)+queue/\w+"
    r"|/sys/kernel/mm/transparent_hugepage/(enabled|defrag)"
    r"|/sys/module/\w+/parameters/\w+"
    r"|/etc/(sysctl\.d|tmpfiles\.d)(/90-holdfast\.conf|/\.90-holdfast\.conf\.partial)?"
    r"|/etc/udev|/etc/udev/rules\.d(/90-holdfast\.rules|/\.90-holdfast\.rules\.partial)?"
    r"|/etc/systemd/system/[\w.@:-]+\.service\.d(/\.?90-holdfast\.conf(\.partial)?)?"
    r"|/dev/null"
    r"|/\S*/journal(/lock|/\.?(state|pending)\.json(\.partial)?)?"
)
# Python finds libudev with ldconfig, when a device is first identified.
_PROGRAMS = {"tc", "ip", "systemctl", "udevadm", "ldconfig"}
_CHANGES = (
    "open,openat,openat2,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "link,linkat,symlink,symlinkat,mknod,mknodat,truncate,chmod,fchmodat,chown,lchown,fchownat"
)


def changed_paths(trace: str) -> set[str]:
    """Return the paths that a trace of strace shows as written to, made or removed."""
    found = set()
    for line in trace.splitlines():
        call = re.search(r"\b(\w+)\((.*)$", line)
        if call is None:
            continue
        name, rest = call.groups()
        if name.startswith("open") and not re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC)", rest):
            continue
        # A path is relative to the directory before it, which `-y` shows.
        for where, path in re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', rest):
            found.add(path if path.startswith("/") else f"{where}/{path}")
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_whatever_it_is_asked_it_answers_and_writes_nowhere_else(disk_dir: Path) -> None:
    """Requests at random, to a helper whose world may change freely: it stays up and in bounds."""
    trace = disk_dir / "trace"
    # `-D`: the helper is the process that was started, and strace a child of it.
    strace = (
        "strace",
        "-D",
        "-f",
        "-y",
        "-s",
        "5000",
        "-e",
        f"trace=execve,{_CHANGES}",
        "-o",
        trace,
    )
    with own_namespaces(disk_dir / "scratch") as ns:
        # Settings of the whole machine are out of reach; those of the network namespace are not.
        ns.run("mount", "-t", "proc", "-o", "ro", "proc", "/proc")
        ns.run("sh", "-c", "mount -o remount,ro,bind /sys || mount -t sysfs -o ro sysfs /sys")
        # Nor is the machine's own /boot within reach, whatever it has.
        ns.run("sh", "-c", "mkdir -p /boot && mount -t tmpfs none /boot")
        before = ns.run("sh", "-c", "cd /etc && find . -newer /proc/1 -type f | sort")
        outcomes: Counter[str] = Counter()
        with helping(disk_dir / "helper", wrapper=(*ns.wrapper, *map(str, strace))) as helper:
            start = len(trace.read_text())

            @settings(
                max_examples=800,
                deadline=None,
                derandomize=True,
                suppress_health_check=[HealthCheck.too_slow],
            )
            @given(lines())
            def fuzz(line: bytes) -> None:
                reported = json.loads(helper.send(line + b"\n"))
                assert set(reported) <= {
                    "refused", "errno", "reason", "file", "open_files", "writers", "disarm",
                    "forgotten", "outcome", "tune",
                }  # fmt: skip
                outcomes[next(iter(reported), "done")] += 1
                assert helper.process.poll() is None

            fuzz()
            shown = trace.read_text()[start:]
        assert ns.run("ls", "-A", "/boot") == ""
        after = ns.run("sh", "-c", "cd /etc && find . -newer /proc/1 -type f | sort")
        written = set(after.splitlines()) - set(before.splitlines())
        assert all(re.search(r"/90-holdfast\.(conf|rules)$", path) for path in written), written
    ran = {Path(path).name for path in re.findall(r'execve\("([^"]+)"', shown)}
    assert ran <= _PROGRAMS
    own = [line for line in shown.splitlines() if "execve(" not in line]
    changed = changed_paths("\n".join(own))
    assert {path for path in changed if not _ALLOWED.fullmatch(path)} == set()
    # Many got past the first check, and were refused by the kernel or done.
    assert min(outcomes["refused"], outcomes["errno"], outcomes["done"]) >= 20, outcomes
    assert any(path.startswith("/proc/sys/") for path in changed)
    assert any(path.startswith("/etc/systemd/system/") for path in changed)


class TestItsLife:
    def test_it_ends_when_nobody_asks(self, disk_dir: Path) -> None:
        with helping(disk_dir / "helper", "--idle", "0.2") as helper:
            assert helper.process.wait(20) == 0

    def test_it_ends_when_told(self, disk_dir: Path) -> None:
        with helping(disk_dir / "helper") as helper:
            # One that answers has its handlers; its socket is there a moment earlier.
            assert helper.ask({"do": "open_files", "mount_point": "/nowhere"})["errno"] == 2
            helper.process.send_signal(signal.SIGTERM)
            assert helper.process.wait(20) == 0

    def test_it_serves_the_socket_that_systemd_hands_over(self, disk_dir: Path) -> None:
        path = disk_dir / "handed"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            script = 'exec 3<&"$0"; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
            command = ["bash", "-c", script, str(listener.fileno()), *HOLDFAST, "helper"]
            process = subprocess.Popen(
                dying_with_parent(command),
                pass_fds=[listener.fileno()],
                env=clean_environment(),
                stderr=subprocess.DEVNULL,
            )
            try:
                # It need not be up yet: the request waits in the socket's queue.
                answer = Helper(process, path).ask({"do": "open_files", "mount_point": "/nowhere"})
                assert answer["errno"] == 2
            finally:
                process.terminate()
                assert process.wait(20) == 0

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ((), "nothing is handed over by systemd: name --socket and --user"),
            (("--socket", "/tmp/x", "--user", "no-such-user"), "there is no user 'no-such-user'"),
            (("--socket", "/etc/passwd", "--user", "nobody"), "exists and is not a socket"),
        ],
    )
    def test_it_says_why_it_cannot_start(self, arguments: tuple[str, ...], complaint: str) -> None:
        command = [*HOLDFAST, "helper", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=clean_environment()
        )
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("holdfast: ")
        assert complaint in done.stderr
