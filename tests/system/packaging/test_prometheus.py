"""A real Prometheus scrapes the daemon, and keeps what it scraped."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.oracles.residency import pinned
from tests.support.daemon.harness import Daemon, free_port
from tests.support.machine.disk import write_file
from tests.support.machine.ground import program
from tests.support.waiting import until

PACKAGING = Path(__file__).parents[3] / "packaging"
RULES = PACKAGING / "prometheus"

Query = Callable[[str], dict[frozenset[tuple[str, str]], float]]


@pytest.fixture
def query(daemon: Daemon, tmp_path: Path) -> Iterator[Query]:
    """Give a function that asks a Prometheus, which scrapes the daemon every second."""
    executable = program("prometheus")
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{RULES / 'holdfast.rules.yml'}']\n"
        "scrape_configs:\n"
        "  - job_name: holdfast\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{daemon.port}']}}]\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [
                executable,
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
                            for name, value in series["metric"].items()
                            if name not in {"__name__", "job", "instance"}
                        ): float(series["value"][1])
                        for series in response.json()["data"]["result"]
                    }
            return {}

        try:
            yield ask
        finally:
            prometheus.terminate()


def test_the_rules_do_what_they_say() -> None:
    for check in (
        ("check", "rules", "holdfast.rules.yml"),
        ("test", "rules", "holdfast.rules.test.yml"),
    ):
        done = subprocess.run(
            ["promtool", *check], cwd=RULES, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_its_page_in_the_runbook() -> None:
    text = (RULES / "holdfast.rules.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) >= 7
    runbook = (PACKAGING.parent / "docs/runbook.md").read_text()
    assert re.findall(r"^## (\w+)$", runbook, re.MULTILINE) == alerts
    links = re.findall(
        r"- alert: (\w+)\n(?: {8}.*\n)* {10}"
        r"runbook_url: file:///usr/share/doc/holdfast/runbook\.md#(\w+)\n",
        text,
    )
    assert links == [(alert, alert.lower()) for alert in alerts]


def test_every_query_of_the_dashboard_and_every_rule_finds_something(
    daemon: Daemon, query: Query
) -> None:
    """Each is asked of a Prometheus that has scraped a daemon which has done some of everything."""
    write_file(daemon.root / "file", 64 << 20)
    daemon.run("/v1/pagecache/dumps", {})
    manifest = daemon.run("/v1/manifests", {})["manifest"]
    daemon.run(f"/v1/manifests/{manifest}/verifications", {})
    write_file(daemon.root / "file", 64 << 20, seed=1)
    daemon.run(f"/v1/manifests/{manifest}/verifications", {})
    slow = daemon.start("/v1/manifests", {"full": True, "bytes_per_second": 2 << 20})
    queries = _dashboard_queries()
    assert len(queries) >= 15
    rules = re.findall(r"- record: (\S+)\n", (RULES / "holdfast.rules.yml").read_text())
    for expression in [*queries, *rules]:
        until(partial(query, expression), seconds=60, what=f"an answer to {expression}")
    daemon.http.post(f"/v1/operations/{slow['id']}/cancel")


def test_each_panel_says_what_it_shows_and_presumes_no_job() -> None:
    panels = json.loads((PACKAGING / "grafana/holdfast.json").read_text())["panels"]
    assert all(len(panel["description"]) > 20 for panel in panels)
    assert all('job="' not in target["expr"] for panel in panels for target in panel["targets"])
    mappings = {
        panel["title"]: panel["fieldConfig"]["defaults"].get("mappings") for panel in panels
    }
    assert mappings["Ready"][0]["options"]["0"]["text"] == "not ready"


def _dashboard_queries() -> list[str]:
    """Read the dashboard's queries, its variables filled in as Grafana would."""
    dashboard = json.loads((PACKAGING / "grafana/holdfast.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found.append("group by (instance) (holdfast_build_info)")
    return [
        query.replace("$__rate_interval", "5s").replace('"$instance"', '".*"') for query in found
    ]


def test_prometheus_scrapes_what_happened(daemon: Daemon, query: Query) -> None:
    file = write_file(daemon.root / "file", 4 << 20)
    # From before the first sample: the next is taken a minute later.
    with pinned(file):
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
