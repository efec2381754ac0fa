"""A trace goes with the work that a request leads to, wherever that is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.process.trace import parse
from tests.support.daemon.attempts import Node
from tests.support.daemon.harness import Daemon
from tests.support.daemon.recorded_helper import recorded_helper
from tests.support.servers.fleet_lock import fleet_lock_server

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (PARENT, PARENT),
        (f" {PARENT} ", PARENT),
        (f"cc{PARENT[2:]}-what-comes-later", f"cc{PARENT[2:]}"),
        (f"{PARENT}-more", None),
        (f"cc{PARENT[2:]}more", None),
        (f"ff{PARENT[2:]}", None),
        (PARENT.upper(), None),
        (PARENT.replace(TRACE, "0" * 32), None),
        (PARENT.replace("b7ad6b7169203331", "0" * 16), None),
        ("", None),
        ("00", None),
        (PARENT * 100, None),
    ],
)
def test_only_what_is_valid_is_passed_on(header: str, found: str | None) -> None:
    assert parse([header]) == found
    assert parse([header, header]) is None


def test_a_trace_is_in_operations_events_logs_and_audit(daemon: Daemon) -> None:
    headers = {"traceparent": PARENT}
    started = daemon.start("/v1/manifests", {}, **headers)
    assert started["traceparent"] == PARENT
    ended = daemon.finish(started)
    events = daemon.http.get(
        f"/v1/operations/{started['id']}/events", headers={"Accept": "application/x-ndjson"}
    ).text
    assert all(json.loads(line)["traceparent"] == PARENT for line in events.splitlines())
    without = daemon.finish(daemon.start("/v1/manifests", {}, traceparent="nonsense"))
    assert without["traceparent"] is None
    lines = [json.loads(line) for line in (daemon.state_dir / "audit.log").read_text().splitlines()]
    assert [line.get("traceparent") for line in lines] == [PARENT, None]
    accepted = [line for line in daemon.log.splitlines() if " accepted from " in line]
    assert accepted[0].endswith(f"[trace {TRACE}]")
    assert "trace" not in accepted[1]
    daemon.stop()
    daemon.restart()
    found = daemon.http.get(f"/v1/operations/{ended['id']}").json()
    assert found["traceparent"] == PARENT
    (other, first) = daemon.http.get("/v1/operations").json()["operations"]
    assert (first["traceparent"], other["traceparent"]) == (PARENT, None)


def test_a_trace_reaches_the_lock_manager_and_the_command(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    seen = disk_dir / "seen"
    with recorded_helper(disk_dir / "helper"), fleet_lock_server() as lock:
        reimage = {
            "before_reboot": ["/bin/sh", "-c", f"echo $TRACEPARENT >{seen}"],
            "fleet_lock": {"url": lock.url, "id": "n"},
        }
        node = Node(disk_dir, start_daemon, helper=str(disk_dir / "helper"), reimage=reimage)
        node.stage(state="armed", boot_id=BOOT)
        answer = node.daemon.http.post(
            "/v1/reimage/reboot", json={}, headers={"traceparent": PARENT}
        )
        assert answer.status_code == 200, answer.text
        assert lock.traces == [PARENT]
        assert seen.read_text().strip() == PARENT
