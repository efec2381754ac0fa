"""A transfer leaves the page cache of its source as it was: a datastore is still served from it."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.oracles.residency import make_resident, page_count, pinned, resident_pages
from tests.support.capabilities.manifests import flip
from tests.support.capabilities.transfer import MIB, Pair
from tests.support.machine.disk import write_file

SIZES = (1, 4095, 4096, 4097, 70_000, MIB, 5 * MIB + 123, 66 * MIB)
"""Many in a frame, in blocks, and in chunks; their ends lie wherever ends of files lie."""


def offered(nodes: Pair, name: str) -> tuple[Pair, dict[Path, list[int]]]:
    """Make a directory to offer; return its files, each with some of its pages."""
    pair = replace(nodes, name=name)
    pair.offered.mkdir()
    pages = {}
    for size in SIZES:
        path = write_file(pair.offered / str(size), size, seed=size)
        last = page_count(path) - 1
        pages[path] = sorted({*random.Random(size).sample(range(last + 1), last // 4), last})
    return pair, pages


def moved(pair: Pair) -> None:
    """Take every way by which a source reads: passes, the final one, and a repair."""
    ticket = pair.offer()["ticket"]
    pair.pulled(ticket)
    result = pair.pulled(ticket, final=True)
    assert result["complete"]
    assert result["source_manifest"]["equal"]
    flip(pair.fetched / str(66 * MIB), 65 * MIB)
    body = {"ticket": ticket, "path": str(pair.fetched), "overwrite_written": True}
    done = pair.destination.finish(pair.destination.start("/v1/transfers/repairs", body))
    assert done["result"]["repaired_chunks"] == 1, done


@pytest.mark.skipif(os.geteuid() != 0, reason="locking pages in memory takes root")
def test_no_page_comes(nodes: Pair) -> None:
    """Pinned, what is there cannot go by itself."""
    pair, pages = offered(nodes, "pinned")
    with ExitStack() as pins:
        before = {path: pins.enter_context(pinned(path, pages[path])) for path in pages}
        assert {path: resident_pages(path) for path in pages} == before
        moved(pair)
        assert {path: resident_pages(path) for path in pages} == before


def test_no_page_goes(nodes: Pair) -> None:
    """Not pinned, so that a source that drops what it finds in memory would be seen.

    The kernel may reclaim pages meanwhile of its own accord, though hardly three times.
    """
    for number in range(3):
        pair, pages = offered(nodes, f"free{number}")
        for path, some in pages.items():
            make_resident(path, some)
        before = {path: resident_pages(path) for path in pages}
        moved(pair)
        after = {path: resident_pages(path) for path in pages}
        for path in pages:
            assert after[path] <= before[path]
        if after == before:
            return
    raise AssertionError("pages were dropped that had been in memory before")
