"""What a node declares that it can do, and that it keeps its word."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast import __version__
from holdfast.api.app import FEATURES
from holdfast.api.contract.level import API_LEVEL
from tests.support.daemon.harness import Daemon
from tests.support.daemon.recorded_client import broken, record

PAGE = (Path(__file__).parents[3] / "docs" / "http-api.md").read_text()
CLIENTS = sorted((Path(__file__).parents[2] / "support/daemon").glob("client_level_*.json"))


def test_the_version_is_shown_to_anyone(shared_daemon: Daemon) -> None:
    callers = (shared_daemon.http, shared_daemon.client(tcp=True), shared_daemon.client("read"))
    for client in callers:
        answer = client.get("/v1/version")
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "version": __version__,
            "api_level": API_LEVEL,
            "features": list(FEATURES),
        }
    assert shared_daemon.client(tcp=True).post("/v1/version").status_code == 405
    assert shared_daemon.client(tcp=True).get("/v1/node").status_code == 401
    shown = shared_daemon.cli("version")
    assert shown.returncode == 0, shown.stderr
    assert __version__ in shown.stdout
    assert FEATURES[0] in shown.stdout


def test_each_feature_is_described_with_its_level() -> None:
    section = PAGE.partition("**Levels and features.**")[2].partition("**Deprecation.**")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", section, re.MULTILINE)
    assert [name for name, _ in rows] == list(FEATURES) == sorted(FEATURES)
    assert all(1 <= int(level) <= API_LEVEL for _, level in rows)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda path: path.stem)
def test_a_recorded_client_still_finds_what_it_knows(shared_daemon: Daemon, client: Path) -> None:
    document = shared_daemon.http.get("/openapi.json").json()
    assert broken(json.loads(client.read_text()), record(document)) == []


def test_a_recorded_client_notices_what_would_break_it() -> None:
    recorded = json.loads(CLIENTS[0].read_text())
    changes: tuple[Callable[[dict[str, Any]], object], ...] = (
        lambda route: route["read"].pop("200.state"),
        lambda route: route["read"].update({"200.state": "integer"}),
        lambda route: route["sent"].pop("body.operation"),
        lambda route: route["needed"].append("body.operation"),
        lambda route: route["statuses"].clear(),
        lambda route: route.update(scope="read"),
    )
    for change in changes:
        present = copy.deepcopy(recorded)
        change(present["POST /v1/reimage/reboot"])
        assert len(broken(recorded, present)) == 1
    present = copy.deepcopy(recorded)
    del present["GET /v1/node"]
    assert len(broken(recorded, present)) == 1
    present = copy.deepcopy(recorded)
    present["GET /v1/node"]["read"]["200.new"] = "string"
    present["GET /v1/new"] = {}
    assert not broken(recorded, present)
