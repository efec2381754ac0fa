"""A real Alertmanager holds back what a re-imaging causes, and nothing else."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import httpx

from tests.support.daemon.harness import free_port
from tests.support.machine.ground import program
from tests.support.waiting import until

PACKAGING = Path(__file__).parents[3] / "packaging"
_ROUTE = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


def test_discovery_is_as_prometheus_wants_it() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", "holdfast.scrape.yml"],
        cwd=PACKAGING / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_of_a_node_that_is_being_reimaged_are_held_back(tmp_path: Path) -> None:
    executable = program("prometheus-alertmanager")
    config = tmp_path / "alertmanager.yml"
    config.write_text(_ROUTE + (PACKAGING / "alertmanager/holdfast.inhibit.yml").read_text())
    checked = subprocess.run(["amtool", "check-config", config], check=False, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    address = f"127.0.0.1:{free_port()}"
    command = [executable, f"--config.file={config}", f"--storage.path={tmp_path / 'data'}"]
    command += [f"--web.listen-address={address}", "--cluster.listen-address="]
    alerts = [
        {"alertname": "HoldfastReimaging", "node": "a", "instance": "a:9918"},
        {"alertname": "CassandraDown", "node": "a", "instance": "a:9042"},
        {"alertname": "HoldfastDown", "node": "a", "instance": "a:9918"},
        {"alertname": "HoldfastReimageFailed", "node": "a", "instance": "a:9918"},
        {"alertname": "CassandraDown", "node": "b", "instance": "b:9042"},
        {"alertname": "CassandraDown", "instance": "c:9042"},
    ]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as manager,
        httpx.Client(base_url=f"http://{address}", trust_env=False) as client,
    ):

        def posted() -> bool:
            assert manager.poll() is None, (tmp_path / "log").read_text()
            with suppress(httpx.TransportError):
                body = [{"labels": labels} for labels in alerts]
                return client.post("/api/v2/alerts", json=body).status_code == 200
            return False

        def held() -> set[tuple[str, str]] | None:
            listed = client.get("/api/v2/alerts").json()
            if len(listed) < len(alerts):
                return None
            names = {
                (alert["labels"]["alertname"], alert["labels"]["instance"])
                for alert in listed
                if alert["status"]["inhibitedBy"]
            }
            return names or None

        try:
            until(posted, what="an Alertmanager that takes alerts")
            expected = {("CassandraDown", "a:9042"), ("HoldfastDown", "a:9918")}
            assert until(held, what="alerts that are held back") == expected
        finally:
            manager.terminate()
