"""Namespaces of a test's own: a network of its own, and a copy of /etc that it may write to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.daemon.harness import dying_with_parent

_SETUP = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" overlay /etc
mkdir -p /etc/sysctl.d
ip link set lo up
echo ready
exec sleep infinity
"""


class Namespaces:
    """A network namespace and a mount namespace, in which commands can be run."""

    def __init__(self, pid: int, scratch: Path) -> None:
        self.pid = pid
        self.scratch = scratch
        self.wrapper = ("nsenter", "--target", str(pid), "--net", "--mount", "--")

    def run(self, *command: str | Path) -> str:
        """Run a command in them; it must succeed. Answers its output."""
        done = subprocess.run(
            [*self.wrapper, *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def read(self, path: str) -> str:
        """Read a file as seen in them, its blanks made single spaces."""
        return " ".join(self.run("cat", path).split())

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        command = [*self.wrapper, "test", "-e", path]
        return subprocess.run(command, check=False).returncode == 0

    def write(self, path: str, content: str) -> None:
        """Write a file as seen in them."""
        subprocess.run(
            [*self.wrapper, "sh", "-c", 'mkdir -p "$(dirname "$1")"; cat > "$1"', "sh", path],
            input=content,
            text=True,
            check=True,
        )

    def sysctl(self, name: str) -> str:
        """Read a sysctl."""
        return self.read("/proc/sys/" + name.replace(".", "/"))

    def set_sysctl(self, name: str, value: str) -> None:
        """Set a sysctl, as another program would."""
        self.run("sysctl", "-q", "-w", f"{name}={value}")

    def pair(self, name: str, peer: str, *options: str) -> None:
        """Make a pair of virtual interfaces, up."""
        self.run("ip", "link", "add", name, *options, "type", "veth", "peer", "name", peer)
        for name_ in (name, peer):
            self.run("ip", "link", "set", "dev", name_, "up")

    def qdiscs(self, interface: str) -> list[str]:
        """Show an interface's qdiscs, without their handles, sorted."""
        shown = self.run("tc", "qdisc", "show", "dev", interface).splitlines()
        words = [line.split()[1:2] + line.split()[3:] for line in shown]
        return sorted(re.sub(r"parent \w+:", "parent :", " ".join(line)) for line in words)


class NoNamespacesError(Exception):
    """No namespaces can be made here; the message says why."""


@contextmanager
def made_namespaces(scratch: Path) -> Iterator[Namespaces]:
    """Make namespaces, gone at the end. Raises `NoNamespacesError`."""
    scratch.mkdir(parents=True, exist_ok=True)
    command = ["unshare", "--net", "--mount", "--propagation", "private"]
    holder = subprocess.Popen(
        [*dying_with_parent(command), "sh", "-c", _SETUP, "sh", str(scratch)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,  # a Ctrl-C is for us, who still need them to end what runs in them
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline() != "ready\n":
            holder.wait()
            raise NoNamespacesError(
                f"no namespaces can be made here: {holder.stderr.read().strip()}"
            )
        yield Namespaces(holder.pid, scratch)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stderr.close()


@contextmanager
def own_namespaces(scratch: Path) -> Iterator[Namespaces]:
    """Make namespaces, gone at the end; skips the test where that is not allowed."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(made_namespaces(scratch))
        except NoNamespacesError as error:
            pytest.skip(str(error))
        yield made
