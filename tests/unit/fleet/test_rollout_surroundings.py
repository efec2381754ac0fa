"""What stops or holds a roll from outside: windows, alerts, gates, the operator's commands."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest

from holdfast_rollout.adapters.surroundings import RealSurroundings, run
from holdfast_rollout.interfaces import Reading
from holdfast_rollout.inventory import InventoryError, parse_inventory, read_inventory
from holdfast_rollout.planning import waves
from holdfast_rollout.windows import Window
from tests.support.fleet.rollout import IMAGE

_BERLIN = ZoneInfo("Europe/Berlin")
_NODE = {"name": "a-1", "zone": "a", "socket": "/none"}
_VARIABLES = {"HOLDFAST_NODE": "a-1", "HOLDFAST_ZONE": "a", "HOLDFAST_ROLL": "r"}


def _surroundings(**members: Any) -> RealSurroundings:
    document = {"roll": "r", "image": IMAGE, "nodes": [_NODE], **members}
    return RealSurroundings(parse_inventory(document, "test"))


@contextmanager
def _server(answers: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Answer documents by path; a number is a status. Yields the URL and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = answers.get(urlsplit(self.path).path, 404)
            body = b"" if isinstance(answer, int) else json.dumps(answer).encode()
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_message: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def _at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=_BERLIN, fold=fold).timestamp()


def test_a_window_is_open_on_its_days_and_over_midnight() -> None:
    window = Window.parse("Fri..Sat 22:00-02:00 Europe/Berlin")
    for text, is_open in (
        ("2026-11-27T21:59:59", False),  # a Friday
        ("2026-11-27T22:00:00", True),
        ("2026-11-28T01:59:59", True),
        ("2026-11-28T02:00:00", False),
        ("2026-11-29T01:00:00", True),  # Saturday's
        ("2026-11-29T22:30:00", False),
    ):
        assert window.is_open(_at(text)) is is_open, text
    assert window.opens(_at("2026-11-29T12:00:00")) == _at("2026-12-04T22:00:00")


def test_a_time_that_comes_twice_opens_a_window_once() -> None:
    window = Window.parse("02:15-02:45 Europe/Berlin")
    night = "2026-10-25T02:30:00"  # the clock is set back from 3 to 2
    assert window.is_open(_at(night, fold=0))
    assert not window.is_open(_at(night, fold=1))


@pytest.mark.parametrize("text", ["Fri 2-4 UTC", "Foo 02:00-04:00 UTC", "02:00-04:00 Nowhere/X"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(InventoryError, match="is not a window"):
        _surroundings(rules={"windows": [text]})


def _alert(name: str, **labels: str) -> dict[str, Any]:
    return {"labels": {"alertname": name, **labels}, "state": "firing"}


def test_an_alert_that_fires_holds_the_roll() -> None:
    answers: dict[str, Any] = {"/api/v2/alerts": [], "/api/v1/alerts": {"data": {"alerts": []}}}
    with _server(answers) as (url, asked):
        by_manager = _surroundings(alerts=[{"alertmanager": url, "matchers": ['severity="page"']}])
        assert asyncio.run(by_manager.alerts()) == Reading(good=True)
        query = parse_qs(urlsplit(asked[-1]).query)
        assert query["filter"] == ['severity="page"']
        assert (query["silenced"], query["inhibited"]) == (["false"], ["false"])
        answers["/api/v2/alerts"] = [_alert("LatencyHigh")]
        held = asyncio.run(by_manager.alerts())
        assert (held.good, held.detail) == (False, "Alerts fire: LatencyHigh.")
        by_name = _surroundings(alerts=[{"prometheus": url, "matchers": ["DiskFull"]}])
        pending = _alert("DiskFull") | {"state": "pending"}
        answers["/api/v1/alerts"] = {"data": {"alerts": [_alert("Other"), pending]}}
        assert asyncio.run(by_name.alerts()).good
        answers["/api/v1/alerts"] = {"data": {"alerts": [_alert("DiskFull")]}}
        assert not asyncio.run(by_name.alerts()).good


def test_alerts_that_cannot_be_read_hold_the_roll() -> None:
    with _server({"/api/v2/alerts": 500, "/api/v1/alerts": {"data": None}}) as (url, _):
        for source in ({"alertmanager": url}, {"prometheus": url}):
            reading = asyncio.run(_surroundings(alerts=[source]).alerts())
            assert not reading.good
            assert "cannot be read" in reading.detail
    assert not asyncio.run(_surroundings(alerts=[{"alertmanager": url}]).alerts()).good


def test_a_gate_is_a_query_a_url_or_a_command() -> None:
    def series(*values: str) -> dict[str, Any]:
        return {"data": {"result": [{"value": [0, value]} for value in values]}}

    answers: dict[str, Any] = {"/healthy/a-1": {}, "/api/v1/query": series("1")}
    with _server(answers) as (url, asked):
        query = {"query": 'up{node="{node}"}', "prometheus": url}
        gates = [query, {"url": f"{url}/healthy/{{node}}"}, {"command": ["sh", "-c", "exit 3"]}]
        surroundings = _surroundings(gates=gates)

        def read(number: int) -> Reading:
            return asyncio.run(surroundings.gate(number, _VARIABLES))

        assert read(0).good
        assert parse_qs(urlsplit(asked[-1]).query)["query"] == ['up{node="a-1"}']
        wrong: list[Any] = [series(), series("1", "0"), 500, {"data": {}}]
        for answer in wrong:
            answers["/api/v1/query"] = answer
            assert not read(0).good, answer
        assert read(1).good
        answers["/healthy/a-1"] = 503
        assert "503" in read(1).detail
        assert "ended with 3" in read(2).detail


def test_a_hook_knows_its_node_and_is_ended_in_time(tmp_path: Path) -> None:
    script = 'echo "$HOLDFAST_HOOK $HOLDFAST_NODE $HOLDFAST_ZONE $HOLDFAST_ROLL"'
    hooks = {"drain": {"command": ["sh", "-c", script]}}
    reading = asyncio.run(_surroundings(hooks=hooks).hook("drain", _VARIABLES))
    assert reading == Reading(good=True, detail="drain a-1 a r")
    assert asyncio.run(_surroundings().hook("release", _VARIABLES)).good
    late = asyncio.run(run(["sh", "-c", "sleep 60 & wait"], 0.2, {}))
    assert (late.good, late.detail) == (False, "sh did not end within 0.2 s")
    assert not asyncio.run(run([str(tmp_path / "none")], 1.0, {})).good


def test_an_inventory_is_toml_or_yaml_and_its_faults_are_named(tmp_path: Path) -> None:
    toml = tmp_path / "roll.toml"
    toml.write_text(
        'roll = "r"\n[image]\ndescriptor = "https://x/"\n'
        + "".join(
            f'[[nodes]]\nname = "{zone}{number}"\nzone = "{zone}"\nurl = "https://{zone}{number}"\n'
            for zone in "ab"
            for number in range(3)
        )
        + "[rules]\nper_zone = 2\n"
    )
    planned = waves(read_inventory(toml))
    assert planned == [("a", ["a0"]), ("a", ["a1", "a2"]), ("b", ["b0", "b1"]), ("b", ["b2"])]
    for document, message in (
        ({"nodes": [_NODE, _NODE]}, "nodes are there twice: a-1"),
        ({"nodes": [{"name": "x", "zone": "a"}]}, "needs either `url` or `socket`"),
        ({"rules": {"per_zoen": 1}}, "`rules.per_zoen`"),
        ({"rules": {"on_failure": "rollback"}}, "needs `save_previous = true`"),
        ({"gates": [{"query": "up"}]}, "needs `prometheus`"),
    ):
        with pytest.raises(InventoryError) as raised:
            _surroundings(**document)
        assert message in str(raised.value)
