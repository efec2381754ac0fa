"""What has to hold for a while before a new system is confirmed, with datastores that run."""

from __future__ import annotations

import gzip
import re
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from holdfast.config.confirm_when import ConfirmWhen
from holdfast.reimage.gates import probes
from holdfast.reimage.gates.cassandra import cassandra
from holdfast.reimage.gates.probes import NotReadyError
from tests.support.daemon.attempts import Node
from tests.support.daemon.harness import Daemon, free_port
from tests.support.daemon.recorded_helper import recorded_helper
from tests.support.fleet.gates import answering, running, wait
from tests.support.machine.ground import program
from tests.support.waiting import until

POSTGRES = Path("/usr/lib/postgresql")


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


NODETOOL = {
    # Cassandra 3.x, draios/sysdigcloud-kubernetes, upgrade notes.
    "3.x": """Datacenter: datacenter1
=======================
Status=Up/Down
|/ State=Normal/Leaving/Joining/Moving
--  Address     Load       Tokens  Owns (effective)  Host ID                               Rack
UN  100.96.1.2  1.1 MB     256     100.0%            4fdfcb3c-b57a-421b-b615-61179136842d  rack1
UN  100.96.5.2  364.59 KB  256     100.0%            83579e1a-31b7-402e-9349-d936b545a15b  rack1
UN  100.96.8.2  307.72 KB  256     100.0%            f5766eec-e013-4ddd-9a01-149f5bd9975a  rack1
""",
    # Cassandra 4.x in Kubernetes, the documentation of K8ssandra: columns in another order.
    "4.x": """Datacenter: dc1
===============
Status=Up/Down
|/ State=Normal/Leaving/Joining/Moving
--  Address      Load       Owns    Host ID                               Token                                    Rack
UN  10.244.1.12  215.3 KiB  ?       75e52e51-edc9-49f8-84f6-f044999ac130  -1080085985719557225                     default

Note: Non-system keyspaces don't have the same replication settings, effective ownership information is meaningless
""",  # noqa: E501
}


@pytest.mark.parametrize(
    ("version", "change", "address", "good", "said"),
    [
        ("3.x", ("", ""), "100.96.5.2", True, "is up and normal, and 2 of 2 peers are up"),
        ("3.x", ("UN  100.96.1.2", "DN  100.96.1.2"), "100.96.5.2", True, "1 of 2 peers are up"),
        ("3.x", ("UN  100.96.5.2", "UJ  100.96.5.2"), "100.96.5.2", False, "is up and joining"),
        ("3.x", ("UN  100.96.5.2", "DN  100.96.5.2"), "100.96.5.2", False, "is down and normal"),
        ("3.x", ("UN  100.96.5.2", "?N  100.96.5.2"), "100.96.5.2", False, "is unknown and"),
        ("3.x", ("", ""), "100.96.5.20", False, "is not among the 3 nodes"),
        ("4.x", ("", ""), "10.244.1.12", True, "0 of 0 peers are up"),
        ("4.x", ("UN", "UX"), "10.244.1.12", False, "no output of nodetool status"),
        (
            "4.x",
            ("UN  10.244.1.12", "DN  10.244.9.9 \nUN  10.244.1.12"),
            "10.244.1.12",
            False,
            "none",
        ),
    ],
)
def test_a_cassandra_is_up_as_the_peer_that_is_asked_sees_it(
    tmp_path: Path, version: str, change: tuple[str, str], address: str, *, good: bool, said: str
) -> None:
    table = NODETOOL[version].replace(*change, 1)
    if not good:
        with pytest.raises(NotReadyError, match=said):
            cassandra(table, address)
        return
    (tmp_path / "status").write_text(table)
    command = ["/bin/cat", str(tmp_path / "status")]
    found = wait(check="cassandra", command=command, address=address, within_seconds=60)
    assert (found.passed, found.name) == (True, "cassandra")
    assert said in found.detail


def test_a_large_cluster_of_cassandra_is_read_to_its_end(tmp_path: Path) -> None:
    lines = [f"UN  10.0.{n >> 8}.{n & 255}  1.1 MB  256  1.0%  {n:036}  rack1" for n in range(1000)]
    (tmp_path / "status").write_text("\n".join(lines))
    command = ["/bin/cat", str(tmp_path / "status")]
    found = wait(check="cassandra", command=command, address="10.0.0.0", within_seconds=60)
    assert "999 of 999 peers are up" in found.detail


@pytest.mark.parametrize(
    "wrong",
    [
        {"check": "cassandra", "command": ["nodetool", "status"]},
        {"check": "cassandra", "address": "10.0.0.7"},
        {"check": "kafka", "address": "10.0.0.7"},
        {"check": "kafka", "command": ["kafka-topics.sh"], "address": "10.0.0.7:9092"},
    ],
)
def test_what_a_gate_needs_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"confirm_when"):
        ConfirmWhen(**wrong)


def test_what_is_no_answer_is_not_ready() -> None:
    alone = b"This ZooKeeper instance is not currently serving requests\n"
    for probe in (probes.redis, probes.memcached, probes.postgresql, probes.zookeeper):
        for said in (b"", b"\0" * 10, alone, b"x" * 100_000):
            with answering(partial(_always, said)) as address, pytest.raises(NotReadyError):
                probe(address)


def _always(said: bytes, _request: bytes) -> bytes:
    return said


def test_a_zookeeper_serves(tmp_path: Path) -> None:
    java, port = program("java"), free_port()
    jars = "/etc/zookeeper/conf:/usr/share/java/*"
    main = "org.apache.zookeeper.server.ZooKeeperServerMain"
    with running(java, "-Xmx128m", "-cp", jars, main, str(port), str(tmp_path)):
        found = until(lambda: ready(probes.zookeeper, f"127.0.0.1:{port}"), what="zookeeper")
        assert found == "serves as standalone"


def test_a_zookeeper_without_a_quorum_does_not_serve(tmp_path: Path) -> None:
    java, clients = program("java"), [free_port() for _ in range(2)]
    ports = [(free_port(), free_port()) for _ in range(3)]
    commands = []
    for number, port in enumerate(clients, 1):
        data = tmp_path / str(number)
        data.mkdir()
        (data / "myid").write_text(str(number))
        lines = [f"dataDir={data}", f"clientPort={port}", "clientPortAddress=127.0.0.1"]
        lines += ["tickTime=500", "initLimit=20", "syncLimit=10", "admin.enableServer=false"]
        lines += [f"server.{each}=127.0.0.1:{a}:{b}" for each, (a, b) in enumerate(ports, 1)]
        (tmp_path / f"{number}.cfg").write_text("\n".join(lines))
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        jars = "/etc/zookeeper/conf:/usr/share/java/*"
        commands.append([java, "-Xmx128m", "-cp", jars, main, str(tmp_path / f"{number}.cfg")])

    def modes() -> set[str] | None:
        found = [ready(probes.zookeeper, f"127.0.0.1:{port}") for port in clients]
        return {each for each in found if each} if all(found) else None

    with running(*commands[0]):

        def alone() -> str | None:
            try:
                return f"good: {probes.zookeeper(f'127.0.0.1:{clients[0]}')}"
            except NotReadyError as error:
                return str(error) if "srvr" in str(error) else None

        assert "not currently serving" in until(alone, seconds=60, what="one of three")
        with running(*commands[1]):
            found = until(modes, seconds=90, what="two of three")
            assert found == {"serves as leader", "serves as follower"}
        until(
            lambda: ready(probes.zookeeper, f"127.0.0.1:{clients[0]}") is None,
            seconds=60,
            what="the loss of the quorum",
        )


def test_a_redis_that_answers_nonsense_is_not_ready() -> None:
    for said in (b"role:master", b"$x\r\nrole:slave\r\n", b"$12\r\nrole:slave\r\n", b"-ERR\r\n"):

        class Handler(socketserver.BaseRequestHandler):
            said: bytes

            def handle(self) -> None:
                self.request.recv(6)
                self.request.sendall(b"+PONG\r\n")
                self.request.recv(4096)
                self.request.sendall(self.said)

        with socketserver.ThreadingTCPServer(
            ("127.0.0.1", 0), type("Said", (Handler,), {"said": said})
        ) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                with pytest.raises(NotReadyError):
                    probes.redis(f"127.0.0.1:{server.server_address[1]}")
            finally:
                server.shutdown()
                thread.join()


def test_a_cluster_is_judged_by_its_health() -> None:
    def health(status: str) -> Callable[[bytes], bytes]:
        body = f'{{"cluster_name": "c", "status": "{status}", "number_of_nodes": 3}}'.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        return lambda request: head + body if b"GET /_cluster/health " in request else b""

    with answering(health("yellow")) as address:
        said = probes.elasticsearch(f"http://{address}/", None)
        assert said == "the cluster of 3 nodes is yellow"

    def compressed_if_it_may(request: bytes) -> bytes:
        """Answer as Elasticsearch does, whose `http.compression` is on."""
        body = b'{"status": "green", "number_of_nodes": 3}'
        (wanted,) = re.findall(rb"(?i)^accept-encoding: (.*)\r$", request, re.MULTILINE) or [b""]
        head = b"HTTP/1.1 200 OK\r\n"
        if b"gzip" in wanted:
            body, head = gzip.compress(body), head + b"Content-Encoding: gzip\r\n"
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    with answering(compressed_if_it_may) as address:
        said = probes.elasticsearch(f"http://{address}", None)
        assert said == "the cluster of 3 nodes is green"
    for other in (health("red"), lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
        with answering(other) as address, pytest.raises(NotReadyError):
            probes.elasticsearch(f"http://{address}", None)


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
    began = time.monotonic()
    check = wait(check="command", command=["/bin/sleep", "100"], within_seconds=0.5)
    assert not check.passed
    assert time.monotonic() - began < 20


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
