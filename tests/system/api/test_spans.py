"""Spans of requests and operations reach a collector of OpenTelemetry, and cost nothing else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.config.sections import TelemetrySettings
from holdfast.telemetry.otlp import BATCH_SPANS, QUEUED_SPANS, OtlpSpans
from holdfast.telemetry.spans import Answered
from tests.support.daemon.attempts import Node
from tests.support.daemon.harness import Daemon, free_port
from tests.support.daemon.recorded_helper import recorded_helper
from tests.support.machine.disk import write_file
from tests.support.servers.certificates import Authority
from tests.support.servers.collector import Collector, collector
from tests.support.servers.fleet_lock import fleet_lock_server
from tests.support.waiting import until

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{CALLER}-01"
INTERNAL, SERVER = 1, 2
OK, ERROR = 0, 2
WITHOUT = (
    "import sys; sys.modules['opentelemetry.sdk'] = None; import runpy; sys.argv[0] = 'holdfast'"
)


@pytest.fixture
def receiver() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture
def traced(receiver: Collector, start_daemon: Callable[..., Daemon]) -> Daemon:
    return start_daemon(
        telemetry={"endpoint": receiver.endpoint},
        node={"cluster": "sessions", "labels": {"team": "storage"}, "metadata": ""},
        operations={"max_running": 1},
    )


def lost(daemon: Daemon) -> float:
    return spans(daemon, "lost")


def spans(daemon: Daemon, result: str) -> float:
    (line,) = [
        line
        for line in daemon.http.get("/metrics").text.splitlines()
        if line.startswith(f'holdfast_telemetry_spans_total{{result="{result}"}}')
    ]
    return float(line.split()[-1])


def test_a_request_and_its_operation_are_spans_of_the_callers_trace(
    traced: Daemon, receiver: Collector
) -> None:
    write_file(traced.root / "file", 1 << 20)
    started = traced.start("/v1/manifests", {}, traceparent=PARENT)
    assert started["traceparent"] == PARENT
    ended = traced.finish(started)
    span = receiver.wait_for(ended["id"])
    assert (span.name, span.kind, span.status) == ("manifest.build", INTERNAL, OK)
    assert (span.trace_id, span.parent) == (TRACE, CALLER)
    assert span.attributes == {
        "holdfast.operation.id": ended["id"],
        "holdfast.operation.kind": "manifest.build",
        "holdfast.operation.state": "succeeded",
        "holdfast.operation.outcome": "ok",
        "holdfast.operation.bytes": 1 << 20,
        "holdfast.operation.files": 1,
        "holdfast.caller": ended["actor"],
    }
    assert span.events == ["started"]
    assert 0 < span.end - span.start < 60e9
    request = receiver.request("POST /v1/manifests")
    assert (request.kind, request.trace_id, request.parent) == (SERVER, TRACE, CALLER)
    assert request.attributes["http.response.status_code"] == 202
    assert request.attributes["http.route"] == "/v1/manifests"
    assert request.attributes["holdfast.operation.id"] == ended["id"]
    assert request.attributes["network.transport"] == "unix"
    resource = span.resource
    assert resource["service.name"] == "holdfast"
    assert resource["service.instance.id"] == traced.http.get("/v1/node").json()["node_id"]
    assert (resource["holdfast.cluster"], resource["holdfast.label.team"]) == (
        "sessions",
        "storage",
    )
    assert receiver.paths == {"/v1/traces"}
    assert spans(traced, "exported") >= 2
    assert lost(traced) == 0


def test_a_request_without_a_trace_begins_one_that_its_operation_is_in(
    traced: Daemon, receiver: Collector
) -> None:
    ended = traced.finish(traced.start("/v1/manifests", {}))
    span, request = receiver.wait_for(ended["id"]), receiver.request("POST /v1/manifests")
    assert request.parent == ""
    assert (span.trace_id, span.parent) == (request.trace_id, request.span_id)
    assert ended["traceparent"].startswith(f"00-{request.traceparent}-")
    assert f"[trace {request.trace_id}]" in traced.log


def test_what_fails_has_its_type_and_strangers_have_no_spans(
    traced: Daemon, receiver: Collector
) -> None:
    stranger = traced.client(tcp=True)
    for path in ("/v1/node", "/v1/version", "/healthz"):
        stranger.get(path, headers={"traceparent": PARENT})
    write_file(traced.root / "file", 8 << 20)
    slow = traced.start("/v1/manifests", {"bytes_per_second": 1 << 20}, traceparent=PARENT)
    cancelled = traced.http.post(f"/v1/operations/{slow['id']}/cancel")
    assert cancelled.status_code == 202
    traced.finish(slow)
    span = receiver.wait_for(slow["id"])
    assert (span.attributes["holdfast.operation.state"], span.status) == ("cancelled", OK)
    assert "error.type" not in span.attributes
    # A manifest that goes while its comparison waits for its turn.
    manifest, other = (traced.run("/v1/manifests", {})["manifest"] for _ in range(2))
    slow = traced.start("/v1/manifests", {"full": True, "bytes_per_second": 1 << 20})
    waiting = traced.start("/v1/manifests/comparisons", {"left": manifest, "right": other})
    (record,) = traced.state_dir.rglob(f"{manifest}*")
    record.unlink()
    traced.http.post(f"/v1/operations/{slow['id']}/cancel")
    failed = traced.finish(waiting)
    assert failed["state"] == "failed", failed
    span = receiver.wait_for(failed["id"])
    assert span.status == ERROR
    assert span.attributes["error.type"] == failed["error"]["type"].rpartition("/")[2]
    assert span.message == failed["error"]["detail"]
    names = {span.name for span in receiver.spans}
    assert not names & {"GET /v1/version", "GET /healthz", "GET /v1/node", "GET unmatched"}
    assert not [span for span in receiver.spans if span.name.startswith("GET /metrics")]


def test_an_operation_is_one_span_over_the_lives_of_the_daemon(
    traced: Daemon, receiver: Collector
) -> None:
    write_file(traced.root / "large", 24 << 20)
    slow = traced.start("/v1/manifests", {"bytes_per_second": 8 << 20}, traceparent=PARENT)
    until(
        lambda: traced.http.get(f"/v1/operations/{slow['id']}").json()["state"] == "running",
        what="an operation that runs",
    )
    traced.kill()
    killed = time.time_ns()
    traced.restart()
    ended = traced.finish(slow)
    assert ended["state"] == "succeeded"
    span = receiver.wait_for(slow["id"])
    assert (span.trace_id, span.parent) == (TRACE, CALLER)
    assert span.start < killed < span.end
    traced.stop()
    assert len(receiver.of(slow["id"])) == 1


def test_what_is_asked_of_others_names_the_span(
    receiver: Collector, start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    seen = disk_dir / "seen"
    with recorded_helper(disk_dir / "helper"), fleet_lock_server() as lock:
        reimage = {
            "before_reboot": ["/bin/sh", "-c", f"echo $TRACEPARENT >{seen}"],
            "fleet_lock": {"url": lock.url, "id": "n"},
        }
        node = Node(
            disk_dir,
            start_daemon,
            helper=str(disk_dir / "helper"),
            reimage=reimage,
            telemetry={"endpoint": receiver.endpoint},
        )
        node.stage(state="armed", boot_id=BOOT)
        answer = node.daemon.http.post(
            "/v1/reimage/reboot", json={}, headers={"traceparent": PARENT}
        )
        assert answer.status_code == 200, answer.text
        request = receiver.request("POST /v1/reimage/reboot")
        assert (request.trace_id, request.parent) == (TRACE, CALLER)
        assert lock.traces == [f"00-{request.traceparent}-01"]
        assert seen.read_text().strip() == lock.traces[0]
        audit = (node.state_dir / "audit.log").read_text()
        assert f'"traceparent": "{PARENT}"' in audit


def test_a_caller_who_records_nothing_is_heard_and_so_is_the_setting(
    receiver: Collector, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(telemetry={"endpoint": receiver.endpoint, "sample": 0})
    unrecorded = PARENT[:-2] + "00"
    first = daemon.finish(daemon.start("/v1/manifests", {}, traceparent=unrecorded))
    second = daemon.finish(daemon.start("/v1/manifests", {}))
    third = daemon.finish(daemon.start("/v1/manifests", {}, traceparent=PARENT))
    assert first["traceparent"] == unrecorded
    assert int(second["traceparent"][-2:], 16) & 1 == 0
    daemon.stop()
    assert not receiver.of(first["id"])
    assert not receiver.of(second["id"])
    assert len(receiver.of(third["id"])) == 1


def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    start_daemon: Callable[..., Daemon],
) -> None:
    port = free_port()
    daemon = start_daemon(telemetry={"endpoint": f"http://127.0.0.1:{port}/v1/traces"})
    for _ in range(500):
        assert daemon.http.get("/v1/version").status_code == 200
    until(lambda: lost(daemon) > 0, seconds=60, what="spans that are lost")
    assert daemon.log.count("Spans are lost") == 1
    assert f"http://127.0.0.1:{port}/v1/traces does not accept them" in daemon.log
    with collector(port) as found:

        def accepted() -> bool:
            daemon.http.get("/v1/node")
            return bool(found.spans)

        until(accepted, seconds=60, what="a collector that is back")
        until(lambda: "spans are accepted again" in daemon.log, what="a word of it")
        found.hangs.set()
        for _ in range(500):
            assert daemon.http.get("/v1/version").status_code == 200
        assert daemon.stop() == 0
    # Once for each time that it was away.
    assert daemon.log.count("Spans are lost") <= 2
    assert "opentelemetry" not in daemon.log


def test_a_collector_that_hangs_keeps_nobody_from_ending(receiver: Collector) -> None:
    receiver.hangs.set()
    made = OtlpSpans(TelemetrySettings(endpoint=receiver.endpoint), {})
    answered = Answered("GET", "/v1/node", "/v1/node", 200, "uid:0", "1", "unix")
    for _ in range(QUEUED_SPANS + 2 * BATCH_SPANS):
        span = made.request()
        assert span is not None
        span.end(answered)
    began = time.monotonic()
    made.stop(0.5)
    # It takes five seconds until the request to the collector is given up.
    assert time.monotonic() - began < 4
    exported, gone = made.figures()
    assert exported == 0
    assert gone >= BATCH_SPANS // 2


def test_a_collector_is_known_by_its_authority_and_knows_us_by_a_header(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    headers = tmp_path / "headers"
    headers.write_text("# of the collector\nAuthorization: Bearer secret\n")
    with collector(shown=authority.issue("collector")) as found:
        telemetry = {"endpoint": found.endpoint, "headers_file": str(headers)}
        daemon = start_daemon(telemetry={**telemetry, "ca_file": str(authority.file)})
        ended = daemon.finish(daemon.start("/v1/manifests", {}))
        found.wait_for(ended["id"])
        assert {each["authorization"] for each in found.headers} == {"Bearer secret"}
        assert {each["content-encoding"] for each in found.headers} == {"gzip"}
        assert "secret" not in daemon.log
        distrusting = start_daemon(telemetry={**telemetry, "ca_file": str(other.file)})
        ended = distrusting.finish(distrusting.start("/v1/manifests", {}))
        until(lambda: lost(distrusting) > 0, seconds=60, what="spans that are lost")
        assert not found.of(ended["id"])
        assert "certificate" in distrusting.log.lower()


def test_nothing_of_it_is_loaded_unless_it_is_on(start_daemon: Callable[..., Daemon]) -> None:
    loud = {"PYTHONPROFILEIMPORTTIME": "1"}
    daemon = start_daemon(environment=loud)
    assert "holdfast.telemetry.spans" in daemon.log
    assert "opentelemetry.sdk" not in daemon.log
    assert "holdfast.telemetry.otlp" not in daemon.log
    assert (spans(daemon, "exported"), lost(daemon)) == (0, 0)


def test_without_its_modules_or_files_the_daemon_works_and_says_so(
    start_daemon: Callable[..., Daemon], receiver: Collector, tmp_path: Path
) -> None:
    program = (sys.executable, "-c", f"{WITHOUT}; runpy.run_module('holdfast', alter_sys=True)")
    daemon = start_daemon(program=program, telemetry={"endpoint": receiver.endpoint})
    assert daemon.finish(daemon.start("/v1/manifests", {}))["state"] == "succeeded"
    assert "pip install holdfast[otel]" in daemon.log
    wrong = tmp_path / "headers"
    wrong.write_text("secret\n")
    for file, said in ((wrong, "line 1 is no header"), (tmp_path / "none", "cannot be read")):
        daemon = start_daemon(telemetry={"endpoint": receiver.endpoint, "headers_file": str(file)})
        assert daemon.http.get("/v1/node").status_code == 200
        assert said in daemon.log
        assert "No spans are exported" in daemon.log or "no spans are exported" in daemon.log
        assert "secret" not in daemon.log
