"""The client of FleetLock, against a server."""

from __future__ import annotations

import pytest

from holdfast.reimage.interlock.fleet_lock import FleetLock, Verdict
from tests.support.servers.fleet_lock import fleet_lock_server


@pytest.mark.parametrize("status", [200, 204])
def test_every_success_is_a_yes(status: int) -> None:
    with fleet_lock_server() as server:
        server.success = status
        lock = FleetLock(server.url, "node-7", "default")
        assert lock.acquire().verdict is Verdict.YES
        assert server.holds("node-7")
        assert lock.release().verdict is Verdict.YES
        assert not server.holds("node-7")
