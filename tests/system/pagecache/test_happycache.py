"""The original program, where it is at hand: what it wrote is loaded here, and the other way round.

It is looked for as `$HAPPYCACHE` and as `happycache` in the path.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.oracles.records import decode, encode, from_happycache, header, page_line
from tests.oracles.residency import PAGE, evict, pinned, resident_pages
from tests.support.capabilities.pagecache import DUMPS, dump, load, upload
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.waiting import until

PROGRAM = os.environ.get("HAPPYCACHE") or shutil.which("happycache")
RECORD = ".happycache.gz"
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="happycache is not here; name it with HAPPYCACHE"
)

WANTED = {
    b"db/alternate": set(range(0, 600, 2)),
    b"db/all": set(range(600)),
    b"db/deep/er/random": {page for page in range(600) if random.Random(page).random() < 0.25},
    b"a name with spaces": {0, 599},
    "käse".encode(): {17},
}


@pytest.fixture
def tree(daemon: Daemon) -> dict[bytes, Path]:
    return {name: write_file(daemon.root / os.fsdecode(name), 600 * PAGE) for name in WANTED}


def happycache(command: str, root: Path) -> None:
    """Run the program in a root; its file is `.happycache.gz` there."""
    assert PROGRAM is not None
    done = subprocess.run(
        [PROGRAM, command], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_what_it_wrote_is_taken(daemon: Daemon, tree: dict[bytes, Path]) -> None:
    with ExitStack() as stack:
        for name, pages in WANTED.items():
            stack.enter_context(pinned(tree[name], pages))
        happycache("dump", daemon.root)
        _, ours = dump(daemon)
    theirs = (daemon.root / RECORD).read_bytes()
    # Its own file may be in memory as well by the time it is probed.
    assert {**from_happycache(theirs), **WANTED} == from_happycache(theirs)
    assert {**ours.pages, **WANTED} == ours.pages
    dump_id = upload(daemon, theirs)
    imported = decode(daemon.http.get(f"{DUMPS}/{dump_id}/content").content)
    assert imported.pages == from_happycache(theirs)
    for path in tree.values():
        evict(path)
    result = load(daemon, dump=dump_id)
    found = {name: resident_pages(path) for name, path in tree.items()}
    assert (result["recall"], result["missing"]) == (1.0, 0)
    assert sum(len(found[name] - pages) for name, pages in WANTED.items()) == 0
    kept = sum(len(found[name] & pages) for name, pages in WANTED.items())
    # The host may reclaim a page between the load and our check.
    assert kept >= 0.95 * sum(map(len, WANTED.values()))


def test_it_takes_what_we_wrote(daemon: Daemon, tree: dict[bytes, Path]) -> None:
    lines = [page_line(name.decode(), 600 * PAGE, pages) for name, pages in WANTED.items()]
    dump_id = upload(daemon, encode(header(daemon.root), lines))
    url = f"{DUMPS}/{dump_id}/content"
    response = daemon.http.get(url, params={"format": "happycache"})
    (daemon.root / RECORD).write_bytes(response.content)
    for path in tree.values():
        evict(path)
    happycache("load", daemon.root)
    wanted = sum(map(len, WANTED.values()))

    def arrived() -> bool:
        found = {name: resident_pages(path) for name, path in tree.items()}
        assert all(found[name] <= pages for name, pages in WANTED.items())
        return sum(map(len, found.values())) >= 0.95 * wanted

    # It ends while the device still reads.
    until(arrived, seconds=5, what="the pages that happycache asked for")
