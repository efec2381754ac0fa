"""Runs Ansible with the collection of the checkout, against daemons of a test."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon.harness import clean_environment
from tests.support.machine.ground import CHECKOUT

COLLECTION = CHECKOUT / "fleet" / "ansible"
PLAYBOOK = Path(
    os.environ.get("HOLDFAST_TEST_ANSIBLE") or Path(sys.executable).with_name("ansible-playbook")
)
"""The controller, which may be of another version and environment than the tests."""
TICK = 0.2
"""Seconds between questions, where production has 30."""


@dataclass(frozen=True)
class Played:
    """What a playbook did: its exit code, what it printed, and each result in order."""

    code: int
    text: str
    lines: list[dict[str, Any]]

    def result(self, task: str, host: str | None = None) -> dict[str, Any]:
        """Return the last result of a task. Raises `AssertionError` without one."""
        results = [
            line["result"]
            for line in self.lines
            if line["task"] == task and host in (None, line["host"]) and line["kind"] != "skipped"
        ]
        assert results, (task, host, self.text)
        last: dict[str, Any] = results[-1]
        return last

    def kinds(self, host: str) -> list[str]:
        """Return how the tasks of a host ended, in order."""
        return [line["kind"] for line in self.lines if line["host"] == host]

    def hosts(self, task: str) -> list[str]:
        """Return the hosts that a task was run on, in order."""
        return [
            line["host"]
            for line in self.lines
            if line["task"] == task and line["kind"] not in ("skipped", "unreachable")
        ]


def lay_out(directory: Path) -> None:
    """Make the collection of the checkout one that is installed below a directory."""
    collection = directory / "ansible_collections" / "holdfast" / "agent"
    collection.parent.mkdir(parents=True)
    collection.symlink_to(COLLECTION)


@functools.cache
def _importable() -> None:
    directory = Path(tempfile.mkdtemp(prefix="holdfast-collection-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    lay_out(directory)
    sys.path.append(str(directory))


def plugin(name: str) -> Any:
    """Import a module of the collection, such as `filter.az_batches`."""
    pytest.importorskip("ansible")
    _importable()
    return importlib.import_module(f"ansible_collections.holdfast.agent.plugins.{name}")


def run_module(
    name: str, /, *, check_mode: bool = False, diff_mode: bool = False, **arguments: Any
) -> dict[str, Any]:
    """Run a module in this process, as Ansible would on the node; return its result."""
    module = plugin(f"modules.{name}")
    from ansible.module_utils import basic

    wishes = {"_ansible_check_mode": check_mode, "_ansible_diff": diff_mode}
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments | wishes}).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(printed.getvalue())
    return result


class FakeSsh:
    """A program in place of `ssh` that runs the command here, or fails as ssh does."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self._fault = program.with_suffix(".fault")
        program.write_text(
            # Ansible reports a pipe that breaks in place of what ssh prints.
            f"#!/bin/sh\nif [ -e {self._fault} ]; then\n"
            f"[ ! -p /dev/stdin ] || cat >/dev/null\ncat {self._fault} >&2; exit 255; fi\n"
            'for last; do :; done\nexec sh -c "$last"\n'
        )
        program.chmod(0o755)

    def fail(self, message: str = "ssh: connect to host port 22: No route to host") -> None:
        """Fail from now on."""
        self._fault.write_text(message + "\n")

    def recover(self) -> None:
        """Connect again."""
        self._fault.unlink()


class Controller:
    """A directory with the collection, an inventory and playbooks."""

    def __init__(self, directory: Path) -> None:
        if not PLAYBOOK.exists():
            pytest.skip("ansible-core is not installed in this environment")
        self.directory = directory
        lay_out(directory)
        self.inventory: dict[str, dict[str, Any]] = {}
        self.python = sys.executable
        self.seconds = 110.0
        """How long a playbook may take."""

    def node(self, name: str, socket: Path | None, **variables: Any) -> None:
        """Add a host that is this machine, with a daemon of its own."""
        self.inventory[name] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "holdfast_socket": str(socket),
        } | variables

    def by_ssh(self, name: str) -> FakeSsh:
        """Have a host be reached by the connection plugin ssh, whose program is of this test."""
        fake = FakeSsh(self.directory / f"ssh-{name}")
        self.inventory[name] |= {
            "ansible_connection": "ssh",
            "ansible_host": f"{name}.example",
            "ansible_ssh_executable": str(fake.program),
            "ansible_ssh_retries": 0,
        }
        return fake

    def play(
        self,
        playbook: Sequence[Mapping[str, Any]] | str,
        *arguments: str,
        **variables: Any,
    ) -> Played:
        """Run a playbook, one of the collection by its name, or plays."""
        inventory = self.directory / "inventory.json"
        inventory.write_text(
            json.dumps({"all": {"children": {"nodes": {"hosts": self.inventory}}}})
        )
        if isinstance(playbook, str):
            name = f"holdfast.agent.{playbook}"
        else:
            name = str(self.directory / "play.json")
            Path(name).write_text(json.dumps(playbook))
        recorded = self.directory / "results"
        recorded.write_text("")
        command = [str(PLAYBOOK), "-i", str(inventory), name, *arguments]
        done = subprocess.run(
            [*command, "-e", json.dumps(variables)],
            capture_output=True,
            text=True,
            timeout=self.seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=self.directory,
            env=self.environment(),
        )
        lines = [json.loads(line) for line in recorded.read_text().splitlines()]
        return Played(done.returncode, done.stdout + done.stderr, lines)

    def environment(self) -> dict[str, str]:
        """Return the environment of commands, without this user's own configuration."""
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        settings = self.directory / "ansible.cfg"
        settings.write_text("[defaults]\n")
        inherited = {
            name: value
            for name, value in clean_environment().items()
            if not name.startswith("ANSIBLE_")
        }
        return inherited | {
            "HOME": str(home),
            "HOLDFAST_TEST_RESULTS": str(self.directory / "results"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "ansible_callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "recorded",
            "ANSIBLE_CONFIG": str(settings),
            "ANSIBLE_HOME": str(home / ".ansible"),
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_FORKS": "8",
            "PYTHONWARNINGS": "ignore",
        }


def task(name: str, module: str, /, **arguments: Any) -> dict[str, Any]:
    """Return a task of this collection, for the daemon of its host."""
    options = {} if module in ("gate", "token") else {"socket": "{{ holdfast_socket }}"}
    return {"name": name, f"holdfast.agent.{module}": options | arguments}


def play(*tasks: Mapping[str, Any], hosts: str = "nodes", **more: Any) -> list[dict[str, Any]]:
    """Return a playbook of one play."""
    return [{"hosts": hosts, "gather_facts": False, "tasks": list(tasks)} | more]
