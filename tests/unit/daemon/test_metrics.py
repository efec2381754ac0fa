"""The metrics as Prometheus reads them, judged by its own parser and by promtool."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families

from holdfast import __version__
from holdfast.manifests.metrics import VerificationsCollector
from holdfast.metrics import Metrics
from holdfast.operations.model import State
from holdfast.pagecache.metrics import ResidencyCollector
from holdfast.pagecache.sampling import ResidencySampler
from tests.support.daemon.operations import Params, Work, directed, kind_of, operations
from tests.support.machine.ground import program
from tests.support.waiting import until

NAMES = frozenset(
    {
        "holdfast_build_info",
        "holdfast_operations_started_total",
        "holdfast_operations_finished_total",
        "holdfast_operations_total",
        "holdfast_operation_running",
        "holdfast_operation_progress_bytes",
        "holdfast_operation_expected_bytes",
        "holdfast_operation_progress_files",
        "holdfast_operation_expected_files",
        "holdfast_operation_last_progress_timestamp_seconds",
        "holdfast_operation_last_success_timestamp_seconds",
        "holdfast_operation_last_duration_seconds",
        "holdfast_read_bytes_total",
        "holdfast_pagecache_resident_bytes",
        "holdfast_pagecache_sample_timestamp_seconds",
        "holdfast_manifest_verifications_total",
        "holdfast_http_requests_total",
        "holdfast_http_request_duration_seconds_bucket",
        "holdfast_http_request_duration_seconds_count",
        "holdfast_http_request_duration_seconds_sum",
    }
)


class Samples:
    """One exposition, parsed."""

    def __init__(self, metrics: Metrics) -> None:
        self.text = metrics.render()[0].decode()
        families = text_string_to_metric_families(self.text)
        self.all = [sample for family in families for sample in family.samples]

    def names(self) -> set[str]:
        return {sample.name for sample in self.all if sample.name.startswith("holdfast_")}

    def value(self, name: str, **labels: str) -> float | None:
        found = [
            sample.value for sample in self.all if sample.name == name and sample.labels == labels
        ]
        assert len(found) <= 1
        return found[0] if found else None


def nothing() -> Mapping[str, int]:
    return {}


def test_names_and_values_are_those_of_the_contract(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work)) as service:
        verified = {("/mnt/data", True): 2, ("/mnt/data", False): 0}
        metrics = Metrics(
            service,
            collectors=[
                ResidencyCollector(service, lambda: {"/mnt/data": 4096}),
                VerificationsCollector(lambda: verified),
            ],
        )
        first = service.start("test.work", Params(), actor="tester")[0]
        counters = directed(work.wait_begun())
        counters.bytes_done, counters.bytes_expected, counters.read_bytes = 10, 40, 8
        counters.files_done, counters.files_expected = 1, 2
        running = Samples(metrics)
        kind = {"kind": "test.work"}
        assert running.value("holdfast_build_info", version=__version__) == 1
        assert running.value("holdfast_operation_running", **kind) == 1
        assert running.value("holdfast_operation_progress_bytes", **kind) == 10
        assert running.value("holdfast_operation_expected_bytes", **kind) == 40
        assert running.value("holdfast_operation_progress_files", **kind) == 1
        assert running.value("holdfast_operation_expected_files", **kind) == 2
        assert running.value("holdfast_read_bytes_total", **kind) == 8
        assert running.value("holdfast_operations_started_total", **kind) == 1
        assert running.value("holdfast_operation_last_success_timestamp_seconds", **kind) is None
        found = [
            running.value("holdfast_manifest_verifications_total", root="/mnt/data", ok=ok)
            for ok in ("true", "false")
        ]
        assert found == [2, 0]
        work.release_all()
        until(lambda: service.get(first.id).state.final, what="the end")
        metrics.observe_request("GET", "/healthz", 200, 0.002)
        ended = Samples(metrics)
        outcome = {"outcome": "succeeded"} | kind
        assert ended.value("holdfast_operations_finished_total", **outcome) == 1
        assert ended.value("holdfast_operation_running", **kind) == 0
        assert ended.value("holdfast_read_bytes_total", **kind) == 8
        finished_at = service.get(first.id).finished_at
        assert finished_at is not None
        assert (
            ended.value("holdfast_operation_last_success_timestamp_seconds", **kind)
            == finished_at.timestamp()
        )
        until(
            lambda: Samples(metrics).value("holdfast_pagecache_resident_bytes", root="/mnt/data"),
            what="a residency sample",
        )
        assert Samples(metrics).names() == NAMES


def test_every_outcome_is_counted_from_zero(tmp_path: Path) -> None:
    with operations(tmp_path, kind_of(Work())) as service:
        samples = Samples(Metrics(service, collectors=[ResidencyCollector(service, nothing)]))
    for state in State:
        expected = 0 if state.final else None
        value = samples.value(
            "holdfast_operations_finished_total", kind="test.work", outcome=state.value
        )
        assert value == expected


def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    promtool = program("promtool")
    work = Work()
    work.release_all()
    with operations(tmp_path, kind_of(work)) as service:
        odd = '/a\\b"c\nd'
        metrics = Metrics(
            service,
            collectors=[
                ResidencyCollector(service, lambda: {odd: 1}),
                VerificationsCollector(lambda: {(odd, True): 1}),
            ],
        )
        first = service.start("test.work", Params(), actor="tester")[0]
        until(lambda: service.get(first.id).state.final, what="the end")
        metrics.observe_request("GET", "/", 200, 0.1)
        until(lambda: b'root="/a' in metrics.render()[0], what="a residency sample")
        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=metrics.render()[0],
            capture_output=True,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_openmetrics_is_given_to_those_who_ask(tmp_path: Path) -> None:
    with operations(tmp_path, kind_of(Work())) as service:
        metrics = Metrics(service, collectors=[ResidencyCollector(service, nothing)])
        metrics.observe_request("GET", "/", 200, 0.1)
        body, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        assert list(parse_open(body.decode()))  # type: ignore[no-untyped-call]
        assert metrics.render("text/html")[1].startswith("text/plain; version=0.0.4")


def test_requests_are_counted_under_bounded_labels(tmp_path: Path) -> None:
    with operations(tmp_path, kind_of(Work())) as service:
        metrics = Metrics(service, collectors=[ResidencyCollector(service, nothing)])
        for method in ("BREW", "BOIL"):
            metrics.observe_request(method, "/", 405, 0.003)
        samples = Samples(metrics)
    labels = {"method": "other", "route": "/", "code": "405"}
    assert samples.value("holdfast_http_requests_total", **labels) == 2
    name = "holdfast_http_request_duration_seconds"
    assert samples.value(f"{name}_bucket", route="/", le="0.0025") == 0
    assert samples.value(f"{name}_bucket", route="/", le="0.005") == 2
    assert samples.value(f"{name}_sum", route="/") == pytest.approx(0.006)


def test_a_scrape_never_waits_for_residency(tmp_path: Path) -> None:
    asked, answer = threading.Semaphore(0), threading.Event()

    def slow() -> Mapping[str, int]:
        asked.release()
        assert answer.wait(20)
        return {"/mnt/data": 1}

    with operations(tmp_path, kind_of(Work())) as service:
        metrics = Metrics(service, collectors=[ResidencyCollector(service, slow)])
        assert not asked.acquire(blocking=False)
        for _ in range(3):
            assert Samples(metrics).value("holdfast_pagecache_resident_bytes") is None
        answer.set()
        until(
            lambda: Samples(metrics).value("holdfast_pagecache_resident_bytes", root="/mnt/data"),
            what="the sample",
        )
        # Three scrapes and those since asked for one sample between them.
        assert asked.acquire(blocking=False)
        assert not asked.acquire(blocking=False)


def test_residency_is_sampled_again_once_pages_moved() -> None:
    taken: list[int] = []

    def measure() -> Mapping[str, int]:
        taken.append(len(taken))
        return {"/mnt/data": len(taken)}

    sampler = ResidencySampler(measure)
    until(lambda: sampler.latest(0)[0].get("/mnt/data") == 1, what="the first sample")
    assert sampler.latest(0)[0] == {"/mnt/data": 1}
    until(lambda: sampler.latest(1)[0].get("/mnt/data") == 2, what="the second sample")
    assert len(taken) == 2


def test_residency_that_cannot_be_found_out_is_absent(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Mapping[str, int]:
        raise OSError(5, "Input/output error")

    sampler = ResidencySampler(broken)
    assert sampler.latest(0) == ({}, None)
    until(lambda: "could not be sampled" in caplog.text, what="the report")
    assert sampler.latest(0) == ({}, None)
