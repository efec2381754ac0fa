# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do when a node that was re-imaged shows another host key."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCAN_SECONDS = 30.0
_FAULT = re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed", re.I)
_KEY = re.compile(r"(?P<kind>[a-z0-9@.-]+) (?P<key>[A-Za-z0-9+/]+={0,2})(?: .*)?")


def is_host_key_fault(text: str) -> bool:
    """Return whether SSH refused to talk to a node because of its key."""
    return _FAULT.search(text) is not None


class KnownHosts:
    """The file with the keys that are known, and the policy of the task."""

    def __init__(self, connection: Any, options: Mapping[str, Any]) -> None:
        self._connection = connection
        self._policy = options["changed_host_key"]
        self._expected = options["host_keys"]
        self._file = Path(options["known_hosts"]).expanduser()
        self._replaced = False

    def replace(self, *, may_have_changed: bool) -> str | None:
        """Make the new key known, once; return why not in a sentence, or None if it was.

        `may_have_changed` is whether the node was ordered to become another system.
        """
        name = self._name()
        if name is None:
            return "Its host key has changed, and its connection is not ssh's."
        if not may_have_changed:
            return f"{name} shows another host key than the known one, before it was re-imaged."
        if self._policy == "fail":
            return (
                f"{name} came back with another host key. Check that it is the new system's, "
                f"remove the old one (`ssh-keygen -R '{name}'`) and run the task again with the "
                "same key; or carry the identity `ssh` over, or set changed_host_key."
            )
        if self._replaced:
            return f"{name} shows a host key that is not among those that were made known."
        try:
            lines = self._lines(name)
            self._write(name, lines)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return f"The host key of {name} could not be replaced: {error}"
        self._replaced = True
        return None

    def _name(self) -> str | None:
        """Return the node as known_hosts has it."""
        if getattr(self._connection, "transport", "") != "ssh":
            return None
        host, port = self._address()
        return host if port == 22 else f"[{host}]:{port}"

    def _address(self) -> tuple[str, int]:
        context = self._connection._play_context
        host, port = context.remote_addr, context.port
        try:
            host = self._connection.get_option("host") or host
            port = self._connection.get_option("port") or port
        except (KeyError, AttributeError):
            # A connection without these options has them in its context alone.
            pass
        return str(host), int(port or 22)

    def _lines(self, name: str) -> list[str]:
        """Return the lines to write. Raises `ValueError` without one."""
        if self._policy == "expected":
            keys = [_KEY.fullmatch(each.strip()) for each in self._expected]
            if not keys or None in keys:
                raise ValueError("host_keys needs public keys, each as `TYPE BASE64`.")
            return [f"{name} {each['kind']} {each['key']}" for each in keys if each is not None]
        host, port = self._address()
        command = ["ssh-keyscan", "-T", "10", "-p", str(port), "--", host]
        scanned = subprocess.run(
            command, capture_output=True, text=True, timeout=SCAN_SECONDS, check=False
        )
        lines = [line for line in scanned.stdout.splitlines() if line and not line.startswith("#")]
        if not lines:
            raise ValueError(f"`{' '.join(command)}` found no key.")
        return lines

    def _write(self, name: str, lines: list[str]) -> None:
        if self._file.exists():
            subprocess.run(
                ["ssh-keygen", "-R", name, "-f", str(self._file)],
                capture_output=True,
                timeout=SCAN_SECONDS,
                check=True,
            )
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
