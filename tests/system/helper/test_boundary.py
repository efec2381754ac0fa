"""What a hostile daemon, data volume or owner of the data can have root's helper write: nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.capabilities.tuning import SYSCTLS, profile_text, row_of, tuned
from tests.support.daemon.harness import Daemon
from tests.support.daemon.helper import NOBODY, SOMEONE_ELSE, Helper, helping, write
from tests.support.daemon.helper_requests import own_files
from tests.support.machine.namespaces import Namespaces, own_namespaces
from tests.support.promptness import promptly
from tests.support.waiting import until

PLACES = {
    "sysctl.d": "etc/sysctl.d/90-holdfast.conf",
    "udev": "etc/udev/rules.d/90-holdfast.rules",
    "tmpfiles.d": "etc/tmpfiles.d/90-holdfast.conf",
    "limits": "etc/systemd/system/{unit}.d/90-holdfast.conf",
}
# As systemd's own reader splits a file.
_LINES = re.compile(r"[\n\r\0]")
_UDEV = re.compile(
    r'ACTION=="add\|change", SUBSYSTEM=="block", '
    r'(?:KERNEL=="md\*", TEST=="md"|ENV\{DEVTYPE\}=="disk", '
    r'(?:ATTRS\{wwid\}|ENV\{ID_SERIAL_SHORT\})=="([^"*?\[\]|\\$%{}]*)"), (.*)'
)


@pytest.fixture
def ns(disk_dir: Path) -> Iterator[Namespaces]:
    with own_namespaces(disk_dir / "scratch") as found:
        found.run("mkdir", "-p", "/etc/udev/rules.d", "/etc/tmpfiles.d", "/etc/systemd/system")
        yield found


@pytest.fixture
def helper(ns: Namespaces, disk_dir: Path) -> Iterator[Helper]:
    with helping(disk_dir / "helper", wrapper=ns.wrapper) as found:
        yield found


def directives(kind: str, text: str) -> list[Any]:
    """Read a file as the program does that it is for: everything in it that does something."""
    assert text.isascii()
    assert "\\" not in text
    lines = [line.strip() for line in _LINES.split(text)]
    lines = [line for line in lines if line and line[0] not in "#;"]
    if kind == "sysctl.d":
        return [tuple(part.strip() for part in line.split("=", 1)) for line in lines]
    if kind == "limits":
        assert lines[:1] in ([], ["[Service]"])
        return sorted((line[5:].split("=")[0].lower(), line.split("=", 1)[1]) for line in lines[1:])
    if kind == "tmpfiles.d":
        found = []
        for line in lines:
            verb, path, mode, user, group, age, value = line.split(None, 6)
            assert (verb, mode, user, group, age) == ("w", "-", "-", "-", "-")
            assert "%" not in line
            found.append((path, value))
        return found
    found = []
    for line in lines:
        match = _UDEV.fullmatch(line)
        assert match is not None, line
        values = re.findall(r'ATTR\{queue/(\w+)\}="([a-z0-9_.-]+)"', match[2])
        assert ", ".join(f'ATTR{{queue/{name}}}="{value}"' for name, value in values) == match[2]
        found.append((match[1] or "", values))
    return found


def asked_for(request: dict[str, Any]) -> list[Any]:
    """Write a request the way `directives` reads a file."""
    match request["kind"]:
        case "sysctl.d":
            return [tuple(setting) for setting in request["settings"]]
        case "limits":
            return sorted(request["limits"].items())
        case "tmpfiles.d":
            pages = "/sys/kernel/mm/transparent_hugepage/"
            return [(f"{pages}{name}", value) for name, value in request["huge_pages"]] + [
                (f"/sys/module/{module}/parameters/{name}", value)
                for module, name, value in request["modules"]
            ]
        case _:
            return [
                (
                    rule.get("value", "") if rule["match"] != "md" else "",
                    [tuple(pair) for pair in rule["settings"]],
                )
                for rule in request["rules"]
            ]


def etc_of(helper: Helper) -> Path:
    return Path(f"/proc/{helper.process.pid}/root")


def ours(root: Path) -> dict[str, str]:
    """Read everything below the directories that the helper may write to."""
    found = {}
    for where in ("sysctl.d", "udev", "tmpfiles.d", "systemd/system"):
        for path in (root / "etc" / where).rglob("*"):
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(root))] = path.read_bytes().decode("latin-1")
    return found


@pytest.mark.timeout(240)
def test_no_file_ever_says_what_was_not_asked_for(helper: Helper) -> None:
    """Requests for files with values of all sorts: each file is as asked for, or as it was."""
    root = etc_of(helper)
    written: set[str] = set()

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(own_files())
    def ask(request: dict[str, Any]) -> None:
        before = ours(root)
        answer = helper.ask({"do": "write", "write": request})
        after = ours(root)
        changed = {
            path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
        }
        if answer != {}:
            assert changed == set(), (request, answer)
            return
        place = PLACES[request["kind"]].format(unit=request.get("unit", ""))
        assert changed <= {place}, (request, changed)
        assert directives(request["kind"], after.get(place, "")) == asked_for(request), request
        if place in after:
            written.add(request["kind"])

    ask()
    assert written == set(PLACES), "some kind of file was never written"
    names = {
        name
        for path, text in ours(root).items()
        if path == PLACES["sysctl.d"]
        for name, _ in directives("sysctl.d", text)
    }
    assert names <= {"vm.swappiness", "net.core.somaxconn"}


RULE = 'ACTION=="add|change", RUN+="/bin/sh -c id"\n'


QUIET = [["nomerges", "2"]]
REFUSED: list[dict[str, Any]] = [
    *(
        {"kind": "udev", "rules": [{"match": "serial", "value": value, "settings": QUIET}]}
        for value in ('x", RUN+="/bin/id', "x%c{id}", "$env{X}", "a*", "[a-z]", "a\nb", "a\\")
    ),
    {"kind": "file", "place": "udev", "content": RULE},
    {"kind": "file", "place": "sysctl.d", "content": "kernel.core_pattern = |/tmp/x\n"},
    {"kind": "sysctl.d", "settings": [["kernel.core_pattern", "core"]]},
    {"kind": "sysctl.d", "settings": [["kernel.sysrq", "1"]]},
    {"kind": "sysctl.d", "settings": [["vm.swappiness", "1\rkernel.core_pattern = |/x"]]},
    {"kind": "sysctl.d", "settings": [["vm.swappiness", "1\u2028kernel.x = 1"]]},
    {"kind": "sysctl.d", "settings": [["vm.swappiness", "/bin/sh"]]},
    {"kind": "sysctl.d", "profile": "x\nkernel.core_pattern = 1", "settings": []},
    {"kind": "udev", "rules": [{"match": "md", "settings": [["nomerges", '2", RUN+="id']]}]},
    {"kind": "udev", "rules": [{"match": "md", "settings": [["../uevent", "2"]]}]},
    {"kind": "tmpfiles.d", "modules": [["firmware_class", "path", "x"]]},
    {"kind": "tmpfiles.d", "modules": [["nvme_core", "io_timeout", "%m"]]},
    {"kind": "tmpfiles.d", "huge_pages": [["enabled", "never\nf+ /etc/sudoers.d/x"]]},
    {"kind": "limits", "unit": "holdfast-helper.service", "limits": {"nofile": "1"}},
    {"kind": "limits", "unit": "ssh.service", "limits": {"nofile": "1"}},
    {"kind": "limits", "unit": "cassandra-.service", "limits": {"nofile": "1"}},
    {"kind": "limits", "unit": "cassandra.service", "limits": {"nofile": "1\nUser=0"}},
    {"kind": "limits", "unit": "cassandra.service", "limits": {"nofile": "%h"}},
    {"kind": "swap", "areas": [{"path": "/mnt/data/swap", "priority": 1}]},
    {"kind": "module", "module": "firmware_class", "parameter": "path", "value": "x"},
    {"kind": "module", "module": "nfsd", "parameter": "cltrack_prog", "value": "x"},
    *(
        {"kind": "sysctl", "name": name, "value": "0"}
        for name in (
            "fs.ocfs2.nm.hb_ctl_path", "fs.suid_dumpable", "fs.protected_symlinks",
            "kernel.kptr_restrict", "kernel.perf_event_paranoid", "kernel.sysrq",
            "kernel.randomize_va_space", "kernel.panic_on_oops", "vm.mmap_min_addr",
            "vm.drop_caches", "vm.unprivileged_userfaultfd", "user.max_user_namespaces",
            "net.ipv4.ip_forward", "net.ipv4.conf.all.accept_source_route",
            "net.ipv4.tcp_fastopen_key", "net.core.bpf_jit_enable", "dev.tty.ldisc_autoload",
            "net.netfilter.nf_conntrack_helper",
        )
    ),
    {"kind": "sysctl", "name": "net.core.default_qdisc", "value": "/x"},
    {"kind": "sysctl", "name": "net.core.default_qdisc", "value": "|x"},
]  # fmt: skip


def test_what_is_not_for_tuning_is_refused_and_nothing_is_written(helper: Helper) -> None:
    before = ours(etc_of(helper))
    for request in REFUSED:
        answer = helper.ask({"do": "write", "write": request})
        assert "refused" in answer, (request, answer)
    assert ours(etc_of(helper)) == before


def test_what_tuning_needs_is_allowed_without_a_profile_that_names_it(helper: Helper) -> None:
    for name, value in {**SYSCTLS, "net.ipv4.ip_local_reserved_ports": "8080,9000-9010"}.items():
        assert helper.ask(write(kind="sysctl", name=name, value=value)) == {}


def test_only_profiles_of_root_allow_more(helper: Helper, ns: Namespaces, disk_dir: Path) -> None:
    profiles = disk_dir / "profiles.d"
    profiles.mkdir()
    profile = profiles / "mine.toml"
    rest = '[limits."db.service"]\nnofile = 5\n'
    profile.write_text(profile_text({"net.ipv4.ip_forward": "1"}, rest))
    asked = write(kind="sysctl", name="net.ipv4.ip_forward", value="1")
    limits = write(kind="limits", unit="db.service", limits={"nofile": "5"})
    assert helper.ask(asked) == {}
    assert ns.sysctl("net.ipv4.ip_forward") == "1"
    assert helper.ask(limits) == {}

    def refused() -> None:
        for source in (asked, limits):
            assert "which only root may be able to write" in helper.ask(source)["refused"]

    os.chown(profile, NOBODY, NOBODY)
    refused()
    os.chown(profile, 0, 0)
    profile.chmod(0o664)
    refused()
    profile.chmod(0o644)
    profiles.chmod(0o777)
    refused()
    profiles.chmod(0o755)
    assert helper.ask(asked) == {}
    # What runs programs stays refused for every caller.
    profile.write_text('[sysctl]\n"kernel.core_pattern" = "core"\n')
    answer = helper.ask(write(kind="sysctl", name="kernel.core_pattern", value="core"))
    assert "run programs as root" in answer["refused"]


FOREIGN = [
    ("sysctl.d", "kernel.core_pattern = core\n"),
    ("sysctl.d", "vm.swappiness=1\n"),
    ("udev", RULE),
    ("tmpfiles.d", "f+ /etc/motd - - - - x\n"),
    ("limits", "[Service]\nExecStartPre=/bin/true\n"),
]


def test_a_file_that_is_not_holdfasts_own_is_left_as_it_is(helper: Helper) -> None:
    unit = "cassandra.service"
    asked: dict[str, dict[str, Any]] = {
        "sysctl.d": {"settings": [["vm.swappiness", "1"]]},
        "udev": {"rules": [{"match": "md", "settings": QUIET}]},
        "tmpfiles.d": {"huge_pages": [["enabled", "never"]]},
        "limits": {"unit": unit, "limits": {"nofile": "5"}},
    }
    for kind, content in FOREIGN:
        path = etc_of(helper) / PLACES[kind].format(unit=unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        nothing = (
            {"unit": unit, "limits": {}} if kind == "limits" else {key: [] for key in asked[kind]}
        )
        for fields in (asked[kind], nothing):
            assert "not holdfast's own" in helper.ask(write(kind=kind, **fields))["refused"]
        assert path.read_text() == content


def hostile(directory: Path) -> None:
    """Put records there as an earlier version had them, with what root is to write."""
    tuning = directory / "tuning"
    shutil.rmtree(tuning, ignore_errors=True)
    tuning.mkdir(parents=True)
    before = [
        {"subsystem": "persistence", "target": "/etc/udev/rules.d/90-holdfast.rules",
         "name": "udev", "identity": "", "value": RULE},
        {"subsystem": "limits", "target": "ssh.service", "name": "nofile", "identity": "",
         "value": "1024\nExecStartPre=+/bin/sh -c id"},
        {"subsystem": "sysctl", "target": "", "name": "net.ipv4.ip_forward", "identity": "",
         "value": "1"},
    ]  # fmt: skip
    pending = {"version": 1, "operation": "x", "boot_id": "", "phase": "writing", "before": before}
    (tuning / "pending.json").write_text(json.dumps(pending))
    active = {"profile": "cassandra", "policy": "enforce", "applied_at": "2026-01-01T00:00:00Z",
              "persist": True, "digest": "", "settings": [
                  {**old, "profile": "x", "defined_at": "x:1"} for old in before]}  # fmt: skip
    state = {"version": 1, "boot_id": "of another", "active": active, "committed": [], "history": [
        {"profile": "cassandra", "applied_at": "2026-01-01T00:00:00Z", "previous": None,
         "changes": [{**{k: v for k, v in old.items() if k != "value"}, "before": old["value"],
                      "after": old["value"]} for old in before]}]}  # fmt: skip
    (tuning / "state.json").write_text(json.dumps(state))
    (tuning / "profile.json").write_text('{"profile": "cassandra", "persist": true}')
    for path in (directory, tuning, *tuning.iterdir()):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("whose", ["a volume from elsewhere", "the datastore's user"])
def test_a_start_writes_nothing_that_the_data_volume_says(
    start_daemon: Callable[..., Daemon], disk_dir: Path, whose: str
) -> None:
    """Records on the volume decide nothing, with a helper: no file, no sysctl, nothing applied."""
    disk_dir.chmod(0o755)
    root = disk_dir / "data"
    root.mkdir()
    state = root / ".holdfast"
    if whose == "a volume from elsewhere":
        hostile(state)
    else:
        state.mkdir(mode=0o700)
        os.chown(state, NOBODY, NOBODY)
    path = disk_dir / "helper"
    with tuned(
        start_daemon, disk_dir, user=NOBODY, helper=str(path), roots=[root], state_dir=None
    ) as node:
        os.chown(root, SOMEONE_ELSE, SOMEONE_ELSE)
        if whose != "a volume from elsewhere":
            # Who owns the root can give its directories other names.
            node.daemon.stop()
            state.rename(root / "aside")
            hostile(state)
        with helping(path, wrapper=node.ns.wrapper) as helper:
            before = ours(etc_of(helper))
            node.daemon.stop()
            node.daemon.restart()
            until(lambda: node.state()["checked_at"] is None, what="an answer")
            assert node.state()["profile"] is None
            assert node.state()["history"] == []
            assert node.ask("rollback").status_code == 409
            assert ours(etc_of(helper)) == before
            assert node.ns.sysctl("net.ipv4.ip_forward") == "0"
            operations = node.daemon.http.get("/v1/operations").json()["operations"]
            assert [
                operation for operation in operations if operation["kind"] == "tuning.apply"
            ] == []


def test_after_a_re_imaging_the_profiles_name_arrives_with_the_data(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    with tuned(start_daemon, disk_dir) as node:
        node.profile("mine", SYSCTLS)
        before = node.sysctls()
        node.apply("mine")
        node.daemon.stop()
        # The new system: nothing of the old root disk, and the imager's marker.
        shutil.rmtree(disk_dir / "journal")
        for name, value in before.items():
            node.ns.set_sysctl(name, value)
        node.daemon.restart()
        assert node.state()["profile"] is None
        assert node.sysctls() == before, "it was applied though no imager wrote this system"

        node.daemon.stop()
        node.ns.write("/etc/holdfast/reimaged.json", "{}\n")
        node.daemon.restart()
        until(lambda: node.state()["profile"] == "mine", what="the profile in force again")
        assert node.sysctls() == SYSCTLS
        node.rollback()
        assert node.sysctls() == before


def test_a_plan_says_what_the_helper_would_refuse_and_how_root_allows_it(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    disk_dir.chmod(0o755)
    path = disk_dir / "helper"
    with (
        tuned(start_daemon, disk_dir, user=NOBODY, helper=str(path)) as node,
        helping(path, wrapper=node.ns.wrapper),
    ):
        node.profile("mine", {"net.ipv4.ip_forward": "1"})
        assert node.plan("mine")["applicable"]
        os.chown(node.profiles / "mine.toml", NOBODY, NOBODY)
        plan = node.plan("mine")
        assert not plan["applicable"]
        row = row_of(plan, "net.ipv4.ip_forward")
        assert row["action"] == "impossible"
        assert "name it in a profile in" in row["note"]
        assert node.ask("apply", profile="mine").status_code == 422
        assert node.ns.sysctl("net.ipv4.ip_forward") == "0"


def test_a_client_that_drips_keeps_nobody_waiting(helper: Helper) -> None:
    drippers = []
    try:
        for _ in range(8):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(helper.socket))
            connection.send(b'{"do":')
            drippers.append(connection)
        with promptly(5):
            assert helper.ask({"do": "tune_recover"}) == {"tune": {}}
        ended = threading.Event()

        def drip() -> None:
            """A byte now and then, for longer than a request may take."""
            try:
                while not ended.wait(1):
                    drippers[0].send(b" ")
            except OSError:
                ended.set()

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        assert ended.wait(20), "it is still listened to"
    finally:
        ended.set()
        for connection in drippers:
            connection.close()


def test_files_of_file_systems_that_may_not_answer_are_not_asked_for(helper: Helper) -> None:
    assert helper.ask({"do": "open_files", "mount_point": "/proc"})["errno"] == 95
