"""What has to hold for a while before a new system is confirmed, with datastores that run."""

from __future__ import annotations

import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import Progress
from holdfast.config.confirm_when import ConfirmWhen
from holdfast.privileged.executor import LocalExecutor
from holdfast.reimage.gates import probes
from holdfast.reimage.gates.probes import NotReadyError
from holdfast.reimage.gates.stable import Gates
from holdfast.reimage.models import Check
from tests.support.attempts import Node
from tests.support.ground import program
from tests.support.harness import Daemon, dying_with_parent, free_port
from tests.support.recorded_helper import recorded_helper
from tests.support.waiting import until

POSTGRES = Path("/usr/lib/postgresql")
ZOOKEEPER = Path("/usr/share/java/zookeeper.jar")


@contextmanager
def running(*command: str | Path) -> Iterator[None]:
    process = subprocess.Popen(
        dying_with_parent(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """Reply to the first bytes of each connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(answer(self.request.recv(4096)))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def ready(probe: Callable[[str], str], address: str) -> str | None:
    try:
        return probe(address)
    except NotReadyError:
        return None


def test_a_redis_serves_and_a_replica_without_its_primary_does_not(tmp_path: Path) -> None:
    server, port, other = program("redis-server"), free_port(), free_port()
    options = ("--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path))
    address = f"127.0.0.1:{port}"
    assert ready(probes.redis, address) is None
    with running(server, "--port", str(port), *options):
        assert until(lambda: ready(probes.redis, address), what="redis") == "serves as master"
        replica = ("--port", str(other), *options, "--replicaof", "127.0.0.1", str(free_port()))
        with running(server, *replica):

            def refused() -> str | None:
                try:
                    probes.redis(f"127.0.0.1:{other}")
                except NotReadyError as error:
                    return str(error) if "primary" in str(error) else None
                raise AssertionError("a replica without its primary serves")

            assert until(refused, what="a replica") == "its link to the primary is down"
    said = b"-LOADING Redis is loading the dataset in memory\r\n"
    with answering(lambda _: said) as loading, pytest.raises(NotReadyError, match="LOADING"):
        probes.redis(loading)


def test_a_memcached_serves() -> None:
    port = free_port()
    command = (program("memcached"), "-u", "nobody", "-l", "127.0.0.1", "-p", str(port))
    with running(*command):
        said = until(lambda: ready(probes.memcached, f"127.0.0.1:{port}"), what="memcached")
        assert said.startswith("serves: VERSION 1.")


@pytest.mark.skipif(
    not POSTGRES.is_dir() or shutil.which("setpriv") is None, reason="postgresql is not installed"
)
def test_a_postgresql_accepts_connections(disk_dir: Path) -> None:
    binaries = max(POSTGRES.iterdir()) / "bin"
    data, port = disk_dir / "pg", free_port()
    data.mkdir()
    user: Sequence[str] = ()
    if data.stat().st_uid == 0:
        disk_dir.chmod(0o755)
        shutil.chown(data, 65534, 65534)
        user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    command = [*user, str(binaries / "initdb"), "-D", str(data), "-N", "-U", "postgres"]
    command += ["-A", "scram-sha-256", "--no-locale", "--pwfile=/proc/version"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert made.returncode == 0, made.stderr
    options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    options += ["-c", f"unix_socket_directories={data}"]
    with running(*user, str(binaries / "postgres"), "-D", str(data), *options):
        # It asks for a password, which nobody sends.
        found = until(lambda: ready(probes.postgresql, f"127.0.0.1:{port}"), what="postgresql")
        assert found == "accepts connections"
    fields = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"
    starting = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    with answering(lambda _: starting) as address, pytest.raises(NotReadyError, match="starting"):
        probes.postgresql(address)
    with answering(lambda _: b"HTTP/1.1 400\r\n\r\n") as address, pytest.raises(NotReadyError):
        probes.postgresql(address)


def test_what_is_no_answer_is_not_ready() -> None:
    alone = b"This ZooKeeper instance is not currently serving requests\n"
    for probe in (probes.redis, probes.memcached, probes.postgresql, probes.zookeeper):
        for said in (b"", b"\0" * 10, alone, b"x" * 100_000):
            with answering(partial(_always, said)) as address, pytest.raises(NotReadyError):
                probe(address)


def _always(said: bytes, _request: bytes) -> bytes:
    return said


@pytest.mark.skipif(
    not ZOOKEEPER.exists() or shutil.which("java") is None, reason="zookeeper is not installed"
)
def test_a_zookeeper_serves(tmp_path: Path) -> None:
    port = free_port()
    jars = "/etc/zookeeper/conf:/usr/share/java/*"
    main = "org.apache.zookeeper.server.ZooKeeperServerMain"
    with running("java", "-Xmx128m", "-cp", jars, main, str(port), str(tmp_path)):
        found = until(lambda: ready(probes.zookeeper, f"127.0.0.1:{port}"), what="zookeeper")
        assert found == "serves as standalone"


def test_a_cluster_is_judged_by_its_health() -> None:
    def health(status: str) -> Callable[[bytes], bytes]:
        body = f'{{"cluster_name": "c", "status": "{status}", "number_of_nodes": 3}}'.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        return lambda request: head + body if b"GET /_cluster/health " in request else b""

    with answering(health("yellow")) as address:
        said = probes.elasticsearch(f"http://{address}/", None)
        assert said == "the cluster of 3 nodes is yellow"
    for other in (health("red"), lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
        with answering(other) as address, pytest.raises(NotReadyError):
            probes.elasticsearch(f"http://{address}", None)


def wait(**wanted: Any) -> Check:
    members = {"stable": 3, "every_seconds": 0.1, "within_seconds": 5.0} | wanted
    gates = Gates([ConfirmWhen.model_validate(members)])
    (check,) = gates.examine(Progress(), LocalExecutor(), time.sleep)
    return check


def test_only_what_is_good_several_times_in_a_row_is_ready(tmp_path: Path) -> None:
    count = tmp_path / "count"
    flaps = f"echo x >>{count}; n=$(wc -l <{count}); echo reading $n; [ $n -ne 3 ]"
    check = wait(check="command", command=["/bin/sh", "-c", flaps], within_seconds=30)
    assert check.passed, check
    # 1 and 2 are good, 3 is not, and it begins anew with 4.
    assert len(count.read_text().splitlines()) == 6
    assert "reading 6" in check.detail
    check = wait(check="command", command=["/bin/false"], within_seconds=0.5)
    assert not check.passed
    assert "not good 3 times in a row within 0.5 s; last: /bin/false ended with 1" in check.detail
    begun = time.monotonic()
    check = wait(check="command", command=["/bin/sleep", "100"], within_seconds=0.5)
    assert not check.passed
    assert time.monotonic() - begun < 20


def test_settings_are_checked(start_daemon: Callable[..., Daemon], disk_dir: Path) -> None:
    for wrong, said in (
        ({"check": "redis"}, "needs `address`"),
        ({"check": "redis", "address": "127.0.0.1"}, "127.0.0.1:6379"),
        ({"check": "unit", "unit": "a b.service"}, "cassandra.service"),
        ({"check": "http", "url": "http://x/", "command": ["/bin/true"]}, "has no `command`"),
    ):
        with pytest.raises(ValueError, match=said):
            ConfirmWhen.model_validate(wrong)
    with recorded_helper(disk_dir / "helper") as helper:
        helper.answers["unit_state"] = {"unit_state": "activating"}
        helper.answers["identity_evidence"] = {
            "evidence": {"boot": {"systemd": None, "cloud_init": None}}
        }
        node = Node(disk_dir, start_daemon, helper=str(disk_dir / "helper"))
        node.remember(image=None, layout=[])
        text = (
            "\n[[reimage.confirm_when]]\ncheck = 'unit'\nunit = 'cassandra.service'\n"
            "stable = 2\nevery_seconds = 0.1\nwithin_seconds = 1\n"
        )
        node.daemon.rewrite_config(lambda config: config + text)
        node.remember()
        status, operation = node.post("confirm")
        assert status == 202, operation
        ended = node.daemon.finish(operation)
        (check,) = [each for each in ended["error"]["checks"] if each["name"] == "unit"]
        assert not check["passed"]
        assert (
            "cassandra.service: not good 2 times in a row within 1 s; last: it is activating"
            in (check["detail"])
        )
        helper.answers["unit_state"] = {"unit_state": "active"}
        ended = node.daemon.finish(node.post("confirm")[1])
        shown = node.daemon.http.get("/v1/reimage").json()["checks"]
        (check,) = [each for each in shown if each["name"] == "unit"]
        assert check["passed"], ended
        assert "good 2 times in a row" in check["detail"]
        assert {request["do"] for request in helper.asked} >= {"unit_state"}
