"""A real Prometheus scrapes the daemon, and keeps what it scraped."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.disk import write_file
from tests.system.harness import Daemon, free_port
from tests.waiting import until

Query = Callable[[str], dict[frozenset[tuple[str, str]], float]]


@pytest.fixture
def query(daemon: Daemon, tmp_path: Path) -> Iterator[Query]:
    """Give a function that asks a Prometheus, which scrapes the daemon every second."""
    program = shutil.which("prometheus")
    assert program, "install the package `prometheus`"
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: holdfast\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{daemon.port}']}}]\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=log,
            stderr=log,
        ) as prometheus,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):

        def ask(expression: str) -> dict[frozenset[tuple[str, str]], float]:
            assert prometheus.poll() is None, (tmp_path / "log").read_text()
            with suppress(httpx.TransportError):
                response = client.get("/api/v1/query", params={"query": expression})
                if response.status_code == 200:
                    return {
                        frozenset(
                            (name, value)
                            for name, value in one["metric"].items()
                            if name not in {"__name__", "job", "instance"}
                        ): float(one["value"][1])
                        for one in response.json()["data"]["result"]
                    }
            return {}

        try:
            yield ask
        finally:
            prometheus.terminate()


def test_prometheus_scrapes_what_happened(daemon: Daemon, query: Query) -> None:
    write_file(daemon.root / "file", 4 << 20)
    dumped = daemon.run("/v1/pagecache/dumps", {})
    daemon.run("/v1/pagecache/loads", {"dump": dumped["dump"]})
    until(lambda: query("up") == {frozenset(): 1.0}, seconds=30, what="a scrape that succeeded")
    done = frozenset({("kind", "pagecache.load"), ("outcome", "succeeded")})
    until(
        lambda: query("holdfast_operations_finished_total").get(done) == 1.0,
        seconds=20,
        what="the load in Prometheus",
    )
    resident = frozenset({("root", str(daemon.root))})
    until(
        lambda: query("holdfast_pagecache_resident_bytes").get(resident) == 4 << 20,
        seconds=20,
        what="residency in Prometheus",
    )
    # Prometheus keeps the format's own complaints apart from failed scrapes.
    assert query("prometheus_target_scrapes_sample_duplicate_timestamp_total > 0") == {}
    assert query("scrape_samples_scraped")[frozenset()] > 100
