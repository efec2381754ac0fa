"""Which program changed a file of this system since its boot, where a log has it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

from holdfast.node.paths.files import read_text
from holdfast.node.paths.machine_files import MachineFiles

_CLOUD_INIT_LOG = "/var/log/cloud-init.log"
_LOG_BYTES = 4 << 20
_BOOT = "running 'init-local'"
"""cloud-init writes it once for each boot, before anything else."""
_LINE = re.compile(r"^\S+ \S+ - (?P<module>[\w.]+)\[\w+\]: (?P<message>.*)$")
_CHANGES = re.compile(
    r"writing to|attempting to remove|setting the hostname|updating hostname|running command"
    r"|changing the owner|generat|renam|restor",
    re.IGNORECASE,
)
_HOSTNAME_FILE = "/etc/hostname"
_HOSTNAME = re.compile(r"(setting|updating|changing) (the )?hostname", re.IGNORECASE)
_JOURNAL_LINES = 5000
_JOURNAL_SECONDS = 30.0
_JOURNAL_BYTES = 16 << 20
_OWN = ("holdfast", "holdfast-helper")
_LONGEST = 160


class Logs:
    """What programs logged in this boot; read once, when it is first needed."""

    def __init__(self, machine: MachineFiles) -> None:
        self._machine = machine
        self._entries: list[tuple[str, str]] | None = None

    def changed_by(self, path: str) -> str | None:
        """Return the program with what it logged about a path; None if none did."""
        if self._entries is None:
            changes = (*_cloud_init(self._machine), *_journal(self._machine))
            self._entries = [change for change in changes if _CHANGES.search(change[1])]
        named = re.compile(rf"{re.escape(path)}(?![\w.-]*\w)")
        for program, message in self._entries:
            if named.search(message) or (path == _HOSTNAME_FILE and _HOSTNAME.search(message)):
                return f"{program} ({message[:_LONGEST]})"
        return None


def _cloud_init(machine: MachineFiles) -> Iterator[tuple[str, str]]:
    """Yield what cloud-init logged in this boot, the last line first."""
    log = machine.path(_CLOUD_INIT_LOG)
    try:
        with log.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mtime < _booted(machine):
                return  # the image's own
            file.seek(max(0, status.st_size - _LOG_BYTES))
            text = file.read(_LOG_BYTES).decode(errors="replace")
    except OSError:
        return
    begin = text.rfind(_BOOT)
    for line in reversed(text[max(begin, 0) :].splitlines()):
        found = _LINE.match(line)
        if found is not None:
            yield "cloud-init", f"{found['module']}: {found['message']}"


def _journal(machine: MachineFiles) -> Iterator[tuple[str, str]]:
    """Yield what is in the systemd journal of this boot, the last entry first."""
    program = shutil.which("journalctl", path="/usr/bin:/bin")
    if program is None or not machine.path("/run/systemd/system").exists():
        return
    command = [program, "--boot", "--no-pager", "--quiet", "--output=json", "--reverse"]
    command += [f"--lines={_JOURNAL_LINES}", "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,_COMM"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_JOURNAL_SECONDS,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):
        return
    for line in done.stdout[:_JOURNAL_BYTES].splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        message = entry.get("MESSAGE")
        name = entry.get("SYSLOG_IDENTIFIER") or entry.get("_COMM")
        if isinstance(message, str) and isinstance(name, str) and name not in _OWN:
            yield name, message


def _booted(machine: MachineFiles) -> float:
    """Return when the kernel was booted, in seconds since the epoch; 0 where it is not reported."""
    for line in (read_text(machine.proc / "stat") or "").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
