"""A PostgreSQL that is written to moves to another node, and is there what it was here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities.transfer import make_pair
from tests.support.daemon.harness import Daemon
from tests.support.servers.postgres import USER, Postgres, needs_postgres
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, needs_postgres]


def test_a_database_moves_while_it_is_written_to(
    start_daemon: Callable[..., Daemon], disk_dir: Path, tmp_path: Path
) -> None:
    pair = make_pair(start_daemon)
    for path in (disk_dir, pair.source.root.parent, pair.destination.root.parent):
        path.chmod(0o755)
    sockets = Path(pair.source.directory) / "pg"
    sockets.mkdir()
    if os.geteuid() == 0:
        os.chown(pair.offered, USER, USER)
        os.chown(sockets, USER, USER)
        pair.source.directory.chmod(0o755)
    pair.offered.chmod(0o700)
    here, there = Postgres(pair.offered, sockets), Postgres(pair.fetched, sockets)
    here.run("initdb", "-D", here.data, "-U", "bench", "-A", "trust", "--no-sync")
    here.start()
    try:
        here.run("pgbench", "-i", "-s", "2", "-q")
        ticket = pair.offer()["ticket"]
        with here.busy():
            until(lambda: here.written() > 20, what="transactions")
            first: dict[str, Any] = pair.pulled(ticket, passes=3, until_remaining=0)
            assert len(first["passes"]) == 3
            assert first["passes"][1]["sent_bytes"] < first["passes"][0]["sent_bytes"]
            problem = pair.refused(ticket, final=True)
            assert (problem["kind"], "postgres (" in problem["detail"]) == ("writers", True)
        content = here.dump()
    finally:
        here.stop()
    last = pair.pulled(ticket, final=True, page_cache=True)
    assert last["source_manifest"]["equal"], last
    assert last["page_cache"]["problem"] is None
    there.start()
    try:
        assert there.dump() == content
        there.run("pg_amcheck", "--install-missing", "--heapallindexed", "postgres")
    finally:
        there.stop()
