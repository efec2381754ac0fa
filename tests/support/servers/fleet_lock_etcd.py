"""A lock manager that speaks FleetLock and keeps its slots in a real etcd, as airlock does.

A group is a key with the holders of its slots, which is replaced only at the revision at which it
was read (https://github.com/coreos/airlock, `internal/lock`). etcd is asked through its gateway of
JSON over HTTP, version 3.
"""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.daemon.harness import clean_environment, dying_with_parent
from tests.support.machine.ground import program
from tests.support.servers.fleet_lock import FleetLockServer, fleet_lock_server
from tests.support.waiting import until

_ATTEMPTS = 50


class Etcd:
    """A server of one member on loopback, which can be ended and started on its data again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self._peer = _free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients ask it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it is healthy."""
        peer = f"http://127.0.0.1:{self._peer}"
        command = [
            program("etcd"),
            f"--data-dir={self.directory / 'data'}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent(command), stdout=log, stderr=log, env=clean_environment()
            )
        until(self._healthy, what="a healthy etcd", seconds=60)

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        try:
            return "true" in httpx.get(f"{self.url}/health", trust_env=False).text
        except httpx.TransportError:
            return False


@dataclass
class EtcdFleetLock(FleetLockServer):
    """One of any number of lock managers on one etcd."""

    etcd: str = ""

    def answer(self, call: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """Change the group's key at the revision at which it was read."""
        name, group = body["client_params"]["id"], body["client_params"]["group"]
        with self.changed:
            self.calls.append((call, name))
        try:
            for _ in range(_ATTEMPTS):
                revision, holders = self.read(group)
                if call == "pre-reboot":
                    if name not in holders and len(holders) >= self.slots:
                        return self._full(group)
                    wanted = holders | {name}
                else:
                    wanted = holders - {name}
                if wanted == holders or self._replace(group, revision, wanted):
                    return self.success, {}
        except httpx.HTTPError as error:
            return 500, {"kind": "failed_lock", "value": f"etcd does not answer: {error}"}
        return 500, {"kind": "failed_lock", "value": "the semaphore is contended"}

    def holds(self, name: str, group: str = "default") -> bool:
        """Ask etcd."""
        return name in self.read(group)[1]

    def read(self, group: str = "default") -> tuple[str, set[str]]:
        """Return the revision of a group's key, `0` before the first, and who has its slots."""
        found = self._call("range", {"key": _key(group)}).get("kvs")
        if not found:
            return "0", set()
        holders = json.loads(base64.b64decode(found[0]["value"]))["holders"]
        return found[0]["mod_revision"], set(holders)

    def _replace(self, group: str, revision: str, holders: set[str]) -> bool:
        value = json.dumps({"holders": sorted(holders), "total_slots": self.slots})
        put = {"key": _key(group), "value": base64.b64encode(value.encode()).decode()}
        at = {"key": _key(group), "target": "MOD", "result": "EQUAL", "mod_revision": revision}
        done = self._call("txn", {"compare": [at], "success": [{"request_put": put}]})
        return bool(done.get("succeeded"))

    def _call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.etcd}/v3/kv/{method}", json=body, timeout=5, trust_env=False)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def etcd_server(directory: Path) -> Iterator[Etcd]:
    """Run etcd in an empty directory until the end of the block."""
    directory.mkdir(exist_ok=True)
    etcd = Etcd(directory)
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.kill()


@contextmanager
def etcd_fleet_lock(etcd: Etcd, *, slots: int = 1) -> Iterator[EtcdFleetLock]:
    """Serve FleetLock from etcd on loopback until the end of the block."""
    with fleet_lock_server("airlock", EtcdFleetLock) as server:
        assert isinstance(server, EtcdFleetLock)
        server.etcd, server.slots = etcd.url, slots
        yield server


def _key(group: str) -> str:
    return base64.b64encode(f"com.coreos.airlock/groups/{group}/v1/semaphore".encode()).decode()


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
