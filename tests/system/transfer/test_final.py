"""The cut-over: both ends at rest, the same manifest on both, owners and page cache carried."""

from __future__ import annotations

import itertools
import mmap
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.capabilities.manifests import flip
from tests.support.capabilities.transfer import MIB, Pair, fill, save_ticket, tree
from tests.support.machine.disk import write_file
from tests.support.machine.filesystems import new_file_system

_NUMBER = itertools.count()
_NOBODY = 54_321
"""A user and group without a name."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="this takes root")


@pytest.fixture
def pair(nodes: Pair) -> Pair:
    """Give the nodes with a directory of this test's own."""
    own = replace(nodes, name=f"db{next(_NUMBER)}")
    own.offered.mkdir()
    return own


def test_both_ends_have_the_same_manifest(pair: Pair) -> None:
    fill(pair.offered)
    made = pair.offer(exclude=["part3"])
    result = pair.pulled(made["ticket"], final=True)
    assert result["source_manifest"] == {"digest": result["manifest_digest"], "equal": True}
    offer = pair.source.http.get(f"/v1/transfers/offers/{made['offer']['id']}").json()
    assert offer["manifest_digest"] == result["manifest_digest"]
    source, destination = pair.source, pair.destination
    shown = source.http.get(f"/v1/manifests/{offer['manifest']}").json()
    assert (shown["path"], shown["files"]) == (pair.name, result["files"] + 1)  # a second name
    record = source.http.get(f"/v1/manifests/{offer['manifest']}/content").content
    put = destination.http.put(
        f"/v1/manifests/{offer['manifest']}/content",
        content=record,
        headers={"Content-Type": "application/zstd"},
    )
    assert put.status_code == 201, put.text
    compared = destination.run(
        "/v1/manifests/comparisons", {"left": offer["manifest"], "right": result["manifest"]}
    )
    assert compared["ok"], compared
    assert not (pair.fetched / "part3").exists()


def test_a_final_pull_is_refused_while_the_source_may_be_written(pair: Pair) -> None:
    fill(pair.offered)
    ticket = pair.offer()["ticket"]
    pair.pulled(ticket)
    with (pair.offered / "large").open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
        file.close()
        # The descriptor is gone, and the file may still be written to through memory.
        problem = pair.refused(ticket, final=True)
        assert problem["type"] == "/problems/conflict", problem
        assert (problem["kind"], f"({os.getpid()})" in problem["detail"]) == ("writers", True)
        assert "on the source" in problem["detail"]
        mapping.close()
    assert pair.pulled(ticket, final=True)["complete"]


@needs_root
def test_a_process_in_a_container_is_found_by_the_inode(pair: Pair, tmp_path: Path) -> None:
    fill(pair.offered)
    ticket = pair.offer()["ticket"]
    pair.pulled(ticket)
    inside = tmp_path / "data"
    inside.mkdir()
    script = f"mount --bind {pair.fetched} {inside} && exec 9<>{inside}/large && echo && read x"
    container = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert container.stdout is not None
        container.stdout.readline()
        problem = pair.refused(ticket, final=True)
        assert f"sh ({container.pid}) has {pair.fetched}/" in problem["detail"], problem
    finally:
        container.communicate("\n", timeout=10)
    assert pair.pulled(ticket, final=True)["complete"]


def test_an_operator_overrules_open_files_on_the_source(pair: Pair) -> None:
    fill(pair.offered)
    with (pair.offered / "large").open("r+b"):
        result = pair.pulled(pair.offer()["ticket"], final=True, even_if_open=True)
    assert result["complete"]


def test_what_was_in_memory_on_the_source_is_in_memory_here(pair: Pair) -> None:
    file = write_file(pair.offered / "hot", 2 * MIB)
    write_file(pair.offered / "cold", 2 * MIB)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        assert sum(mapping[:: mmap.PAGESIZE]) >= 0  # all of it is in memory
        result = pair.pulled(pair.offer()["ticket"], final=True, page_cache=True)
    carried = result["page_cache"]
    assert carried["problem"] is None, carried
    assert carried["record_bytes"] > 0
    assert carried["requested"] >= 2 * MIB
    assert carried["resident"] == carried["requested"]


@needs_root
def test_owners_without_a_name_keep_their_number(pair: Pair) -> None:
    file = write_file(pair.offered / "of-nobody", 100)
    os.chown(file, _NOBODY, _NOBODY)
    os.chown(write_file(pair.offered / "of-daemon", 100), 1, 1)
    result = pair.pulled(pair.offer()["ticket"], final=True, map_owners=True)
    assert tree(pair.fetched) == tree(pair.offered)
    assert result["passes"][-1]["unmapped_owners"]["count"] > 0


@needs_root
def test_other_file_systems_are_refused_included_or_left_out(pair: Pair) -> None:
    write_file(pair.offered / "own", 100)
    (pair.offered / "other").mkdir()
    with new_file_system("ext4", pair.offered / "other") as mounted:
        (pair.offered / "other" / "fs.img").unlink()  # the device keeps it
        write_file(mounted / "inside", 5000)
        problem = pair.refused(pair.offer()["ticket"])
        assert "other/fs" in problem["detail"], problem
        out = pair.offer(other_filesystems="leave_out")["ticket"]
        operation = pair.pull(out, path=f"{pair.fetched}-out")
        assert operation["outcome"] == "partial", operation
        assert operation["result"]["passes"][-1]["left_out"] == {"other_filesystem": 1}
        into = pair.offer(other_filesystems="include")["ticket"]
        pair.pulled(into, path=f"{pair.fetched}-in", final=True)
        copied = Path(f"{pair.fetched}-in") / "other" / "fs" / "inside"
        assert copied.read_bytes() == (mounted / "inside").read_bytes()


def test_a_damaged_chunk_is_healed_and_the_side_is_named(pair: Pair) -> None:
    fill(pair.offered)
    result = pair.pulled(pair.offer()["ticket"], final=True)
    damaged = pair.fetched / "large"
    before = damaged.stat()
    flip(damaged, 1 << 20)
    # As a device would do it: with the times as they were.
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    verify = f"/v1/manifests/{result['manifest']}/verifications"
    assert not pair.destination.run(verify, {})["ok"]
    ticket = pair.offer()["ticket"]
    body = {"ticket": ticket, "path": str(pair.fetched), "overwrite_written": True}
    operation = pair.destination.finish(pair.destination.start("/v1/transfers/repairs", body))
    assert (operation["state"], operation["outcome"]) == ("succeeded", "ok"), operation
    (finding,) = operation["result"]["findings"]
    assert (finding["path"] in ("again", "large"), finding["repaired"]) == (True, True)
    assert pair.destination.run(verify, {})["ok"]


def test_a_repair_needs_a_manifest_of_the_source(pair: Pair, tmp_path: Path) -> None:
    fill(pair.offered)
    ticket = pair.offer()["ticket"]
    pair.pulled(ticket)
    file = save_ticket(tmp_path / "ticket", ticket)
    done = pair.destination.cli("transfer", "repair", "--ticket", file, pair.fetched)
    assert done.returncode == 1
    assert "manifest" in done.stderr
    pair.source.run("/v1/manifests", {"path": str(pair.offered)})
    flip(pair.fetched / "part1" / "f1", 5)
    done = pair.destination.cli("transfer", "repair", "--ticket", file, pair.fetched)
    assert done.returncode == 0, done.stderr
    assert "part1/f1" in done.stdout
    assert "1 chunk repaired" in done.stdout
    assert tree(pair.fetched) == tree(pair.offered)
