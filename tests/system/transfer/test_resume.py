"""A pull continues after either daemon was killed, and after the disk was full."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.operations.store import FILE_NAME
from tests.support.capabilities.transfer import MIB, Pair, fill, make_pair, tree
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.machine.filesystems import new_file_system
from tests.support.waiting import until


@pytest.fixture
def pair(start_daemon: Callable[..., Daemon]) -> Pair:
    return make_pair(start_daemon)


def test_a_pull_survives_kills_of_both_daemons(pair: Pair) -> None:
    fill(pair.offered, large=40 * MIB)
    made = pair.offer(bytes_per_second=16 * MIB)
    operation = pair.start(made["ticket"], final=True)
    for node in (pair.destination, pair.source, pair.destination):
        _wait_for_bytes(pair, made["offer"]["id"], operation["id"])
        node.kill()
        node.restart()
    ended = pair.destination.finish(operation)
    assert ended["state"] == "succeeded", ended
    assert ended["result"]["manifest"] == operation["id"]
    assert tree(pair.fetched) == tree(pair.offered)
    offer = pair.source.http.get(f"/v1/transfers/offers/{made['offer']['id']}").json()
    assert offer["state"] == "in_use"
    verified = pair.destination.run(f"/v1/manifests/{operation['id']}/verifications", {})
    assert verified["ok"], verified


def test_a_completed_pull_that_was_killed_before_its_row_is_settled_succeeds(pair: Pair) -> None:
    fill(pair.offered)
    ticket = pair.offer()["ticket"]
    operation = pair.pull(ticket, final=True)
    assert operation["state"] == "succeeded"
    for known_complete in (True, False):
        pair.destination.kill()
        _set_running(pair.destination.state_dir, operation["id"], complete=known_complete)
        pair.destination.restart()
        ended = pair.destination.finish(operation)
        assert ended["state"] == "succeeded", ended
        result = ended["result"]
        assert (result["complete"], result["manifest"]) == (True, operation["id"])
        shown = pair.destination.http.get(f"/v1/transfers/{result['transfer']}").json()
        assert shown["complete"]


@pytest.mark.skipif(os.geteuid() != 0, reason="making a file system takes root")
def test_a_full_disk_fails_a_pull_that_continues_once_there_is_room(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    with new_file_system("ext4", tmp_path) as volume:
        state = tmp_path / "state"
        pair = make_pair(start_daemon, roots=[volume], state_dir=str(state))
        room = os.statvfs(volume).f_bavail * os.statvfs(volume).f_frsize
        write_file(pair.offered / "large", 24 * MIB)
        filler = write_file(volume / "filler", room - 8 * MIB)
        ticket = pair.offer()["ticket"]
        problem = pair.refused(ticket)
        assert problem["type"] == "/problems/no-space", problem
        filler.unlink()
        result = pair.pulled(ticket, final=True)
        assert result["complete"]
        assert tree(pair.fetched) == tree(pair.offered)
        pair.destination.stop()


def _wait_for_bytes(pair: Pair, offer: str, operation: str) -> None:
    """Wait until data of a pull are flowing since both daemons run."""

    def flowing() -> bool:
        sent = pair.source.http.get(f"/v1/transfers/offers/{offer}").json()["sent_bytes"]
        now = pair.destination.http.get(f"/v1/operations/{operation}").json()
        return bool(sent > 2 * MIB and now["progress"]["bytes_done"] > 2 * MIB)

    until(flowing, what="bytes of a pull")


def _set_running(state_dir: Path, operation: str, *, complete: bool) -> None:
    """Put a row back to where a kill between the last steps of a pull leaves it.

    The engine's journal shows that the transfer is complete; the daemon's own file only if so.
    """
    with closing(sqlite3.connect(state_dir / FILE_NAME)) as database, database:
        database.execute(
            "UPDATE operations SET state = 'running', outcome = NULL, result = NULL,"
            " finished_at = NULL WHERE id = ?",
            (operation,),
        )
    (file,) = state_dir.glob("transfer/transfers/*/transfer.json")
    stored = json.loads(file.read_text()) | {"complete": complete}
    file.write_text(json.dumps(stored if complete else stored | {"manifest": None}))
