"""docs/metrics.md lists exactly what a daemon exposes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.waiting import until

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \|(?P<labels>[^|]*)\|", re.MULTILINE)
# What every Prometheus client of Python exposes is named as a group.
STANDARD = ("process_", "python_")


def test_the_document_names_every_metric_with_its_type_and_labels(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(memory={"roots": ["/dev/shm"]})
    daemon.run("/v1/memory/saves", {"include": ["no-such-file"], "even_if_open": True})
    write_file(daemon.root / "file", 1 << 20)
    dumped = daemon.run("/v1/pagecache/dumps", {})
    daemon.run("/v1/pagecache/loads", {"dump": dumped["dump"]})

    def sampled() -> bool:
        return "holdfast_pagecache_resident_bytes{" in daemon.http.get("/metrics").text

    until(sampled, seconds=20, what="the first sample of residency")
    documented = {
        row["name"]: (row["type"], frozenset(re.findall(r"`(\w+)`", row["labels"])))
        for row in ROW.finditer(DOCUMENT.read_text())
    }
    exposed = {}
    for family in text_string_to_metric_families(daemon.http.get("/metrics").text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if not name.startswith(STANDARD):
            labels = {label for sample in family.samples for label in sample.labels}
            exposed[name] = (family.type, frozenset(labels - {"le"}))
    assert exposed == documented
