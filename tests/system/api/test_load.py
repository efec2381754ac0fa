"""Many clients at once, and clients that would take the daemon from others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.daemon.harness import Daemon

pytestmark = pytest.mark.alone

CLIENTS = 200


def test_two_hundred_clients_at_once(shared_daemon: Daemon) -> None:
    paths = ("/healthz", "/v1/operations", "/v1/node", "/v1/pagecache", "/v1/nope")

    def ask(number: int) -> list[int]:
        transport = httpx.HTTPTransport(uds=str(shared_daemon.socket))
        with httpx.Client(transport=transport, base_url="http://h", timeout=60) as http:
            return [http.get(paths[(number + step) % len(paths)]).status_code for step in range(5)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(CLIENTS)))
    assert all(sorted(statuses) == [200, 200, 200, 200, 404] for statuses in answers)
