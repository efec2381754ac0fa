"""Manifests over HTTP: compared, exported, and uploaded from another node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.operations.ids import new_id
from tests.oracles.records import decompress
from tests.support.capabilities.building import BUILDS, MIB, build, verify
from tests.support.capabilities.manifests import CHUNK, file, flip, head, manifest_record
from tests.support.capabilities.manifests_http import COMPARISONS, compare, content, put, tree
from tests.support.daemon.contract import check_problem
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.waiting import until

__all__ = ["tree"]

Starter = Callable[..., Daemon]


class TestCompare:
    def test_every_kind_of_difference(self, daemon: Daemon, tree: Path) -> None:
        left = build(daemon, path=str(tree)).id
        assert compare(daemon, left, left)["ok"]
        flip(tree / "large", CHUNK + 1)
        (tree / "deep" / "f1.db").rename(tree / "deep" / "other.db")
        (tree / "deep" / "f2.db").chmod(0o600)
        (tree / "empty").unlink()
        (tree / "new").write_text("new")
        right = build(daemon, path=str(tree)).id
        result = compare(daemon, left, right, identical=True)
        assert not result["ok"]
        reported = {
            each["path"]: (each["finding"], each["ranges"], each["moved_to"], each["fields"])
            for each in result["findings"]
        }
        assert reported == {
            "large": ("differing", [[CHUNK, 2 * CHUNK]], None, []),
            "deep/f1.db": ("moved", [], {"path": "deep/other.db", "path_b64": None}, []),
            "deep/f2.db": ("metadata", [], None, ["mode"]),
            "empty": ("only_left", [], None, []),
            "new": ("only_right", [], None, []),
        }
        assert result["identical"] == 5
        assert result["differing_bytes"] == CHUNK

    def test_algorithms_that_differ(self, daemon: Daemon, tree: Path) -> None:
        left = build(daemon, path=str(tree)).id
        right = daemon.run(BUILDS, {"path": str(tree), "algorithm": "blake3"})["manifest"]
        response = daemon.http.post(COMPARISONS, json={"left": left, "right": right})
        problem = check_problem(response, 422, "invalid-request")
        assert "with one algorithm" in problem["detail"]


class TestExport:
    def test_xxhsum_accepts_it(self, daemon: Daemon, tree: Path) -> None:
        names = ["back\\slash", "new\nline", "re\rturn", "stdin", "-", "sp ace", "ünïcode"]
        for name in names:
            write_file(tree / name, 100)
        manifest = build(daemon, path=str(tree)).id
        answer = daemon.http.get(f"{BUILDS}/{manifest}/content", headers={"Accept": "text/plain"})
        assert answer.headers["content-type"].startswith("text/plain")
        sums = answer.content
        lines = sums.split(b"\n")[:-1]
        assert lines == sorted(lines, key=lambda line: line.split(b"  ", 1)[1])
        assert len(lines) == 6 + 4
        judge = subprocess.run(["xxhsum", "-c", "-"], input=sums, cwd=tree, check=False)
        assert judge.returncode == 0
        escaped = content(daemon, manifest, format="xxhsum_escaped")
        assert escaped.count(b"\n") == 3
        assert all(line.startswith(b"\\") for line in escaped.split(b"\n")[:-1])
        flip(tree / "stdin", 3)
        judge = subprocess.run(["xxhsum", "-c", "-"], input=sums, cwd=tree, check=False)
        assert judge.returncode == 1

    def test_representations(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        url = f"{BUILDS}/{manifest}/content"
        native = daemon.http.get(url)
        assert native.headers["content-type"] == "application/zstd"
        tag = native.headers["etag"]
        assert daemon.http.get(url, headers={"If-None-Match": tag}).status_code == 304
        for accept in ("application/jsonl", "application/x-ndjson"):
            answer = daemon.http.get(url, headers={"Accept": accept})
            assert answer.headers["content-type"] == accept
            assert answer.content == decompress(native.content)
            assert answer.headers["etag"] != tag
        check_problem(daemon.http.get(url, headers={"Accept": "image/png"}), 406, "not-acceptable")
        latest = daemon.http.get(f"{BUILDS}/latest/content")
        assert latest.content == native.content

    def test_nothing_is_left_of_an_export(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        content(daemon, manifest, format="jsonl")
        files = daemon.state_dir / "manifests"
        until(lambda: len(list(files.iterdir())) == 1, what="the end of the export")


GOOD = [file("a"), file("b")]


class TestBrought:
    def test_from_one_node_to_another(self, start_daemon: Starter) -> None:
        one, other = start_daemon(), start_daemon()
        for daemon in (one, other):
            write_file(daemon.root / "x" / "f", 3 * MIB, seed=1)
        record = content(one, build(one).id)
        manifest = new_id()
        answer = put(other, record, manifest)
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == f"{BUILDS}/{manifest}"
        stored = answer.json()
        assert (stored["uploaded"], stored["root"]) == (True, str(one.root))
        url = f"{BUILDS}/{manifest}/verifications"
        problem = check_problem(other.http.post(url), 422, "outside-roots")
        assert "set `path`" in problem["detail"]
        assert verify(other, manifest, path=str(other.root))["ok"]
        check_problem(put(other, record, manifest), 409, "conflict")

    @pytest.mark.parametrize(
        ("record", "words"),
        [
            (b"nonsense", "not a record file"),
            (manifest_record(head(), GOOD)[:-9], "torn"),
            (manifest_record(head(), GOOD, xxh64="0" * 16), "digest does not fit"),
            (manifest_record(head(), GOOD, files=3), "trailer does not fit"),
            (manifest_record(head(), GOOD, bytes=3), "trailer does not fit"),
            (manifest_record(head(version=2), GOOD), "update holdfast"),
            (manifest_record(head(format="holdfast-pagecache-dump"), GOOD), "not a `holdfast-m"),
            (manifest_record(head(algorithm="md5"), GOOD), "header is malformed"),
            (manifest_record(head(root="relative"), GOOD), "absolute"),
            (manifest_record(head(root="/" + "r" * 5000), GOOD), "header is malformed"),
            (manifest_record(head(host="h" * 5000), GOOD), "header is malformed"),
            (manifest_record(head(include=["x"] * 1001), GOOD), "header is malformed"),
            (manifest_record(head(created_at="yesterday"), GOOD), "header is malformed"),
            (manifest_record(head(path="../../etc"), GOOD), "not plain"),
            (manifest_record(head(), [file("../etc/passwd")]), "not plain"),
            (manifest_record(head(), [file("/etc/passwd")]), "not plain"),
            (manifest_record(head(), [file("b"), file("a")]), "order"),
            (manifest_record(head(), [file("a"), file("a")]), "order"),
            (manifest_record(head(algorithm="blake3"), GOOD), "of that algorithm"),
            (manifest_record(head(), [file("a", xxh64="xyz")]), "malformed line"),
            (manifest_record(head(), [file("a", xxh64=None)]), "without a digest"),
            (manifest_record(head(), [file("a", size=2**63)]), "larger than files can be"),
            (
                manifest_record(head(), [file("a", chunks={"size": 1, "digests": []})]),
                "chunk table",
            ),
            (manifest_record(head(), [file("a", hardlink_of={"path": "b"})]), "hard link"),
            (manifest_record(head(), [file("a", target={"path": "b"})]), "link's target"),
        ],
    )
    def test_what_cannot_be_trusted_is_refused(
        self, shared_daemon: Daemon, record: bytes, words: str
    ) -> None:
        problem = check_problem(put(shared_daemon, record), 422, "bad-record")
        assert words in problem["detail"], problem
        assert shared_daemon.http.get(BUILDS).json() == {"manifests": [], "damaged": []}

    def test_a_table_that_lies_is_found_out_by_reading(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        first, *lines = decompress(content(daemon, manifest)).split(b"\n")[:-2]
        entries = [json.loads(line) for line in lines]
        (large,) = (entry for entry in entries if entry["path"] == "large")
        large["chunks"]["states"][0] = "0" * 64
        stored = put(daemon, manifest_record(json.loads(first), entries)).json()
        (finding,) = verify(daemon, stored["id"])["findings"]
        assert finding["ranges"] == [[0, 2 * CHUNK]]
