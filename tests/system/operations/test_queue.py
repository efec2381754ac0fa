"""A full queue is reported, and a warm start waits for none of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import drop, write_file

MIB = 1 << 20
LIMIT = 16


def test_comparisons_are_bounded_and_hold_back_no_load(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(operations={"max_running": 1})
    file = write_file(daemon.root / "a.db", 4 * MIB)
    made = [daemon.run("/v1/manifests", {})["manifest"] for _ in range(7)]
    daemon.run("/v1/pagecache/dumps", {})
    drop(file)
    slow = daemon.start("/v1/manifests", {"full": True, "bytes_per_second": 16 << 10})

    pairs = [{"left": left, "right": right} for left, right in combinations(made, 2)]
    accepted = [daemon.start("/v1/manifests/comparisons", body) for body in pairs[:LIMIT]]
    refused = daemon.http.post("/v1/manifests/comparisons", json=pairs[LIMIT])
    assert refused.status_code == 429
    assert refused.json()["type"] == "/problems/queue-full"
    assert f"{LIMIT} operations of " in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    # The same pair, in whichever order, would only find the same.
    for body in (pairs[0], {"left": pairs[0]["right"], "right": pairs[0]["left"]}):
        again = daemon.http.post("/v1/manifests/comparisons", json=body)
        assert again.status_code == 409
        assert again.json()["operation"] == accepted[0]["id"]

    load = daemon.finish(daemon.start("/v1/pagecache/loads", {}))
    assert (load["state"], load["outcome"]) == ("succeeded", "ok")
    states = {
        operation["state"]
        for operation in daemon.http.get("/v1/operations?limit=17").json()["operations"]
    }
    assert states == {"queued", "succeeded"}

    daemon.kill()
    daemon.restart()
    assert daemon.http.post("/v1/manifests/comparisons", json=pairs[LIMIT]).status_code == 429
    daemon.http.post(f"/v1/operations/{slow['id']}/cancel")
    for operation in accepted:
        assert daemon.finish(operation)["state"] == "succeeded"
    assert daemon.http.post("/v1/manifests/comparisons", json=pairs[LIMIT]).status_code == 202
