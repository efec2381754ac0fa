"""What was carried over is compared with what is there: real files, as the helper reads them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import Progress
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.arming import Boot
from holdfast.privileged.boot.models import IdentityEvidence
from holdfast.privileged.executor import LocalExecutor
from holdfast.reimage.after_boot import identity_check
from holdfast.reimage.after_boot.checks import PostBootChecks
from holdfast.reimage.models import Check
from holdfast.reimage.store import Job
from tests.support.capabilities.reimage import UNCONFIRMED, Unproven

NONCE = "ab" * 16
KEY, HOSTNAME = "/etc/ssh/ssh_host_ed25519_key", "/etc/hostname"
_LOG = """\
2026-01-01 00:00:01,000 - util.py[DEBUG]: Cloud-init v. 22.4.2 running 'init-local' at x. Up 5 s.
2026-01-01 00:00:02,000 - util.py[DEBUG]: Writing to /etc/ssh/ssh_host_ed25519_key - wb: [600] 1
2026-01-01 00:00:03,000 - util.py[DEBUG]: Cloud-init v. 22.4.2 running 'init-local' at x. Up 5 s.
2026-01-01 00:00:04,000 - cc_set_hostname.py[DEBUG]: Setting the hostname to ip-10-0-0-7
2026-01-01 00:00:05,000 - util.py[DEBUG]: Attempting to remove /etc/ssh/ssh_host_ed25519_key.pub
2026-01-01 00:00:06,000 - util.py[DEBUG]: Attempting to remove /etc/ssh/ssh_host_ed25519_key
2026-01-01 00:00:07,000 - util.py[DEBUG]: Reading from /etc/hostname (quiet=False)
"""


@dataclass
class NewSystem:
    """A root as the imager leaves it, and the checks of the system that runs from it."""

    root: Path
    job: Job = field(
        default_factory=lambda: Job.model_validate(
            UNCONFIRMED | {"nonce": NONCE, "state": "booted", "imager": {"finished": "x"}}
        )
    )
    meanwhile: Callable[[], None] | None = None
    """What happens once, while the boot settles."""

    def put(self, path: str, content: str) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o600)
        return file

    def leave_marker(self, **changes: Any) -> Path:
        files = [
            {
                "path": path,
                "sha256": hashlib.sha256((self.root / path.lstrip("/")).read_bytes()).hexdigest(),
                "mode": 0o600,
                "uid": os.geteuid(),
                "gid": os.getegid(),
            }
            for path in (KEY, HOSTNAME)
        ]
        marker = {"nonce": NONCE, "identity": {"files": files}} | changes
        return self.put("/etc/holdfast/reimaged.json", json.dumps(marker))

    def check(self) -> Check:
        system = self

        class Room(LocalExecutor):
            def identity_evidence(self, *, compare: bool = True) -> IdentityEvidence:
                found = super().identity_evidence(compare=compare)
                if not compare and system.meanwhile is not None:
                    system.meanwhile()
                    system.meanwhile = None
                    busy = found.boot.model_copy(update={"cloud_init": "running"})
                    found = found.model_copy(update={"boot": busy})
                return found

        examiner = PostBootChecks(roots=[], proof=Unproven(), command=(), command_seconds=1)
        boot = Room(lambda: Boot(MachineFiles(root=self.root)))
        checks = examiner.examine(self.job, Progress(), boot, attempt="first")
        return next(check for check in checks if check.name == "identity")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewSystem:
    if any(parent.stat().st_mode & 0o1022 & ~0o1000 for parent in tmp_path.parents[:2]):
        pytest.skip("others can write to the directories of tests")
    monkeypatch.setattr(identity_check, "_POLL_SECONDS", 0.05)
    made = NewSystem(tmp_path)
    made.put(KEY, "a key")
    made.put(HOSTNAME, f"# the name\n{os.uname().nodename}\n")
    made.leave_marker()
    return made


def test_what_is_as_it_was_written_passes(system: NewSystem) -> None:
    found = system.check()
    assert found.passed, found.detail
    assert "2 files are as they were written" in found.detail


def _other_content(system: NewSystem) -> None:
    system.put(KEY, "b key")


def _missing(system: NewSystem) -> None:
    (system.root / KEY.lstrip("/")).unlink()


def _readable(system: NewSystem) -> None:
    (system.root / KEY.lstrip("/")).chmod(0o644)


def _a_link(system: NewSystem) -> None:
    key = system.root / KEY.lstrip("/")
    key.rename(system.root / "moved")
    key.symlink_to("/moved")


def _a_directory(system: NewSystem) -> None:
    _missing(system)
    (system.root / KEY.lstrip("/")).mkdir()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_content, "it has another content"),
        (_missing, "it is missing"),
        (_readable, "it has the mode 0644 instead of 0600"),
        (_a_link, "it is a symbolic link now"),
        (_a_directory, "it is not a regular file any more"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
@pytest.mark.parametrize("when", ["at once", "while the boot settles"])
def test_what_changed_is_named(
    system: NewSystem, change: Callable[[NewSystem], None], said: str, when: str
) -> None:
    if when == "at once":
        change(system)
    else:
        system.meanwhile = lambda: change(system)
    found = system.check()
    assert not found.passed
    assert f"{KEY}: {said}" in found.detail


def test_the_program_that_changed_it_is_named_from_its_log(system: NewSystem) -> None:
    system.put("/var/log/cloud-init.log", _LOG)
    _missing(system)
    system.put(HOSTNAME, "ip-10-0-0-7\n")
    found = system.check()
    assert not found.passed
    removed = f"by cloud-init (util.py: Attempting to remove {KEY})"
    assert f"{KEY}: it is missing, {removed}." in found.detail
    assert f"{HOSTNAME}: it has another content, by cloud-init (cc_set_hostname.py" in found.detail
    # A log of the image's own building proves nothing about this boot.
    os.utime(system.root / "var/log/cloud-init.log", (0, 0))
    assert "cloud-init" not in system.check().detail


def test_the_hostname_is_compared_as_the_kernel_has_it(system: NewSystem) -> None:
    system.put(HOSTNAME, "another-name\n")
    system.leave_marker()
    found = system.check()
    assert not found.passed
    name = os.uname().nodename
    assert f"the kernel's hostname is {name} instead of another-name" in found.detail


def _no_marker(system: NewSystem) -> None:
    (system.root / "etc/holdfast/reimaged.json").unlink()


def _no_digests(system: NewSystem) -> None:
    system.leave_marker(identity={"carried": [KEY], "problems": []})


def _of_another_attempt(system: NewSystem) -> None:
    system.leave_marker(nonce="cd" * 16)


def _damaged(system: NewSystem) -> None:
    system.put("/etc/holdfast/reimaged.json", "{")


def _written_by_others(system: NewSystem) -> None:
    system.leave_marker().chmod(0o666)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_no_marker, "/etc/holdfast/reimaged.json cannot be read: No such file"),
        (_no_digests, "no digests of what was carried over"),
        (_of_another_attempt, "the marker is of another attempt"),
        (_damaged, "cannot be understood"),
        (_written_by_others, "can be written by others"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_check_that_cannot_read_its_evidence_fails(
    system: NewSystem, change: Callable[[NewSystem], None], said: str
) -> None:
    change(system)
    found = system.check()
    assert not found.passed
    assert found.detail.startswith("What was carried over cannot be compared")
    assert said in found.detail


def test_a_file_that_was_armed_and_is_not_in_the_marker_is_named(system: NewSystem) -> None:
    missing = "/etc/machine-id"
    armed = {
        "nonce": NONCE, "loader": "x", "entry": "", "files": [], "kernel": "", "modules": [],
        "target": {"path": "", "serial": None, "model": None, "wwid": None, "size_bytes": 0,
                   "head_bytes": 0, "head_sha256": ""},
        "identity": [{"name": "machine_id", "paths": [missing]}],
        "network": None, "notes": [], "seen_by_grub": None,
    }  # fmt: skip
    system.job = Job.model_validate(system.job.model_dump() | {"armed": armed})
    found = system.check()
    assert not found.passed
    assert f"{missing} was to be carried over, and was not." in found.detail


def test_cloud_init_that_does_not_end_is_not_waited_for_for_ever(
    system: NewSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_check, "SETTLE_SECONDS", 0.2)
    system.put("/run/cloud-init/enabled", "")
    found = system.check()
    assert not found.passed
    assert "the boot did not settle within" in found.detail
    assert "cloud-init: running" in found.detail
    system.put("/run/cloud-init/result.json", "{}")
    found = system.check()
    assert found.passed, found.detail
    assert "cloud-init: done" in found.detail


def test_where_nothing_was_to_be_carried_nothing_is_compared(system: NewSystem) -> None:
    _no_marker(system)
    request = system.job.request.model_copy(update={"identity": []})
    system.job = system.job.model_copy(update={"request": request})
    assert system.check().passed
