"""Manifests over HTTP: built, verified, judged by others, and refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.oracles.records import compress, decompress
from tests.support.capabilities.building import BUILDS, MIB, build, digest, lines_of, verify
from tests.support.capabilities.manifests import CHUNK, flip, manifest_record
from tests.support.capabilities.manifests_http import COMPARISONS, content, put, tree
from tests.support.daemon.contract import NOTHING, check_problem
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file

__all__ = ["tree"]

Starter = Callable[..., Daemon]


class TestBuild:
    def test_it_is_what_others_say(self, daemon: Daemon, tree: Path) -> None:
        found = build(daemon, path=str(tree))
        for path, line in found.lines.items():
            whole = tree / os.fsdecode(path)
            state = whole.lstat()
            assert line["mode"] == stat.S_IMODE(state.st_mode)
            assert (line["dev"], line["ino"], line["nlink"]) == (
                state.st_dev,
                state.st_ino,
                state.st_nlink,
            )
            assert (line["mtime_ns"], line["ctime_ns"]) == (state.st_mtime_ns, state.st_ctime_ns)
            assert (line["uid"], line["gid"]) == (state.st_uid, state.st_gid)
            if line["type"] == "file":
                assert line["size"] == state.st_size
                assert line["xxh64"] == digest(whole)
        types = {path: line["type"] for path, line in found.lines.items()}
        assert types == {
            b"deep": "directory",
            b"deep/f0.db": "file",
            b"deep/f1.db": "file",
            b"deep/f2.db": "file",
            b"empty": "file",
            b"fifo": "fifo",
            b"large": "file",
            b"link": "symlink",
            b"z-same": "file",
        }
        assert list(found.lines) == sorted(found.lines)
        assert found.lines[b"link"]["target"] == {"path": "deep/f0.db"}
        assert found.lines[b"z-same"]["hardlink_of"] == {"path": "deep/f0.db"}
        result = found.result
        assert (result["files"], result["hardlinks"], result["specials"]) == (6, 1, 1)
        assert result["bytes"] == 300_003 + CHUNK * 2 + 12_345 == result["hashed_bytes"]

    def test_the_chunk_table_is_that_of_the_file(self, daemon: Daemon, tree: Path) -> None:
        line = build(daemon, path=str(tree)).lines[b"large"]
        table = line["chunks"]
        data = (tree / "large").read_bytes()
        pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        assert table["size"] == CHUNK
        assert table["digests"] == [xxhash.xxh64_hexdigest(piece) for piece in pieces]
        assert [len(state) for state in table["states"]] == [64, 64]

    @pytest.mark.parametrize("algorithm", ["xxh3_128", "blake3"])
    def test_other_algorithms(self, daemon: Daemon, tree: Path, algorithm: str) -> None:
        result = daemon.run(BUILDS, {"path": str(tree), "algorithm": algorithm})
        lines = lines_of(daemon, result["manifest"])
        if algorithm == "xxh3_128":
            for path, line in lines.items():
                if line["type"] == "file":
                    data = (tree / os.fsdecode(path)).read_bytes()
                    assert line["xxh3_128"] == xxhash.xxh3_128_hexdigest(data)
        else:
            sums = content(daemon, result["manifest"], format="xxhsum")
            judge = subprocess.run(
                ["b3sum", "--check", "--quiet"], input=sums, cwd=tree, check=False
            )
            assert judge.returncode == 0
        shown = daemon.http.get(f"{BUILDS}/latest").json()
        assert shown["cryptographic"] == (algorithm == "blake3")
        assert "states" not in lines[b"large"]["chunks"]
        assert verify(daemon, result["manifest"])["ok"]
        flip(tree / "large", CHUNK + 5)
        (finding,) = verify(daemon, result["manifest"])["findings"]
        assert finding["ranges"] == [[CHUNK, 2 * CHUNK]]

    def test_patterns(self, daemon: Daemon, tree: Path) -> None:
        found = build(daemon, path=str(tree), exclude=["deep/f1*", "large"])
        assert b"deep/f1.db" not in found.lines
        assert b"large" not in found.lines
        assert b"deep/f2.db" in found.lines
        assert found.result["skipped"] == {"excluded": 2}
        assert verify(daemon, found.id)["ok"]
        found = build(daemon, path=str(tree), include=["*.db"], exclude=["f0*"])
        assert list(found.lines) == [b"deep/f1.db", b"deep/f2.db"]
        assert verify(daemon, found.id)["ok"]

    def test_the_state_directory_is_left_out(self, start_daemon: Starter) -> None:
        daemon = start_daemon(state_dir=None)
        assert daemon.state_dir.is_relative_to(daemon.root)
        write_file(daemon.root / "a", 10)
        assert list(build(daemon).lines) == [b"a"]

    def test_of_several_roots_one_must_be_named(
        self, start_daemon: Starter, disk_dir: Path
    ) -> None:
        daemon = start_daemon(roots=[disk_dir / "one", disk_dir / "two"])
        problem = check_problem(daemon.http.post(BUILDS), 422, "invalid-request")
        assert "name it with `root`" in problem["detail"]
        write_file(daemon.roots[1] / "b", 10)
        assert list(build(daemon, root=str(daemon.roots[1])).lines) == [b"b"]


class TestIncremental:
    def test_only_what_changed_is_read(self, daemon: Daemon, tree: Path) -> None:
        first = build(daemon, path=str(tree))
        again = build(daemon, path=str(tree))
        assert again.result["read_bytes"] == again.result["hashed_bytes"] == 0
        assert again.result["reused_files"] == 5
        assert again.lines == first.lines
        flip(tree / "deep" / "f1.db", 9)
        third = build(daemon, path=str(tree))
        assert third.result["hashed_bytes"] == 100_001
        assert third.lines[b"deep/f1.db"]["xxh64"] == digest(tree / "deep" / "f1.db")

    def test_in_full(self, daemon: Daemon, tree: Path) -> None:
        build(daemon, path=str(tree))
        found = build(daemon, path=str(tree), full=True)
        assert found.result["reused_files"] == 0
        assert found.result["hashed_bytes"] == found.result["bytes"]

    def test_of_another_directory_or_algorithm_nothing_is_taken(
        self, daemon: Daemon, tree: Path
    ) -> None:
        build(daemon)
        assert build(daemon, path=str(tree)).result["reused_files"] == 0
        assert daemon.run(BUILDS, {"algorithm": "blake3"})["reused_files"] == 0
        assert build(daemon).result["reused_files"] == 5

    def test_one_that_was_brought_is_not_believed(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        record = content(daemon, manifest)
        assert daemon.http.delete(f"{BUILDS}/{manifest}").status_code == 204
        assert put(daemon, record).status_code == 201
        assert build(daemon, path=str(tree)).result["reused_files"] == 0

    def test_a_damaged_one_is_of_no_use(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        (record,) = (daemon.state_dir / "manifests").glob(f"{manifest}*")
        plain = decompress(record.read_bytes())
        record.write_bytes(compress(plain[:-30]))
        result = build(daemon, path=str(tree)).result
        assert result["reused_files"] == 0
        assert result["hashed_bytes"] == result["bytes"]
        assert "torn" in result["previous_unusable"] or "damaged" in result["previous_unusable"]


class TestVerify:
    def test_every_difference_is_named(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        assert verify(daemon, manifest)["ok"]
        flip(tree / "large", CHUNK + 1)
        flip(tree / "deep" / "f1.db", 5)
        (tree / "deep" / "f2.db").unlink()
        (tree / "new").touch()
        (tree / "link").unlink()
        (tree / "link").symlink_to("elsewhere")
        (tree / "fifo").unlink()
        (tree / "fifo").mkdir()
        with (tree / "empty").open("wb") as file:
            file.write(b"no more")
        result = verify(daemon, manifest)
        assert not result["ok"]
        reported = {each["path"]: each for each in result["findings"]}
        expected = {
            "large": ("mismatched", "content", [[CHUNK, 2 * CHUNK]]),
            "deep/f1.db": ("mismatched", "content", [[0, 100_001]]),
            "deep/f2.db": ("missing", None, []),
            "new": ("extra", None, []),
            "link": ("mismatched", "target", []),
            "fifo": ("mismatched", "type", []),
            "empty": ("mismatched", "size", [[0, 7]]),
        }
        assert {
            path: (each["finding"], each["reason"], each["ranges"])
            for path, each in reported.items()
        } == expected
        assert (result["mismatched"], result["missing"], result["extra"]) == (5, 1, 1)
        assert result["mismatched_bytes"] == CHUNK + 100_001 + 7

    def test_a_file_of_another_length_is_compared_as_far_as_it_goes(
        self, daemon: Daemon, tree: Path
    ) -> None:
        manifest = build(daemon, path=str(tree)).id
        size = (tree / "large").stat().st_size
        flip(tree / "large", 3)
        with (tree / "large").open("ab") as file:
            file.write(b"more")
        (finding,) = verify(daemon, manifest)["findings"]
        assert finding["reason"] == "size"
        assert finding["ranges"] == [[0, CHUNK], [2 * CHUNK, size + 4]]

    def test_elsewhere(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        copy = daemon.root / "copy"
        subprocess.run(["cp", "--archive", tree, copy], check=True)
        assert verify(daemon, manifest, path=str(copy))["ok"]
        flip(copy / "z-same", 0)
        result = verify(daemon, manifest, path=str(copy))
        assert {each["path"] for each in result["findings"]} == {"deep/f0.db", "z-same"}
        assert verify(daemon, manifest)["ok"]

    def test_a_copy_without_the_hard_links_is_faithful(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        copy = daemon.root / "copy"
        subprocess.run(["cp", "--recursive", tree, copy], check=True)
        assert verify(daemon, manifest, path=str(copy))["ok"]
        flip(copy / "z-same", 0)
        (finding,) = verify(daemon, manifest, path=str(copy))["findings"]
        assert finding["path"] == "z-same"

    def test_a_sample_reads_a_part_and_the_same_again(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        first = verify(daemon, manifest, sample_percent=30, seed=1)
        two = verify(daemon, manifest, sample_percent=30, seed=1)
        assert first["ok"]
        assert 0 < first["chunks_checked"] < first["chunks_total"] == 7
        assert (first["bytes"], first["seed"]) == (two["bytes"], 1)
        least = verify(daemon, manifest, sample_percent=0.0001)
        assert least["chunks_checked"] == 1
        whole = verify(daemon, manifest, sample_percent=100)
        assert whole["chunks_checked"] == whole["chunks_total"]

    def test_the_digests_of_an_earlier_build_prove_nothing(
        self, daemon: Daemon, tree: Path
    ) -> None:
        manifest = build(daemon, path=str(tree)).id
        before = (tree / "large").stat()
        flip(tree / "large", 11)
        os.utime(tree / "large", ns=(before.st_atime_ns, before.st_mtime_ns))
        result = verify(daemon, manifest)
        assert result["read_bytes"] >= result["bytes"] > 0
        assert result["mismatched"] == 1

    def test_what_the_manifest_cannot_prove(self, daemon: Daemon, tree: Path) -> None:
        manifest = build(daemon, path=str(tree)).id
        head, *lines = decompress(content(daemon, manifest)).split(b"\n")[:-2]
        entries = [json.loads(line) for line in lines]
        for entry in entries:
            if entry["path"] == "large":
                for member in ("xxh64", "chunks"):
                    del entry[member]
                entry["status"] = "error"
        uploaded = manifest_record(json.loads(head), entries)
        stored = put(daemon, uploaded)
        assert stored.status_code == 201, stored.text
        (finding,) = verify(daemon, stored.json()["id"])["findings"]
        assert (finding["path"], finding["finding"]) == ("large", "unproven")

    def test_more_findings_than_a_result_holds(self, daemon: Daemon) -> None:
        for number in range(1200):
            (daemon.root / f"f{number:04}").touch()
        manifest = build(daemon).id
        for number in range(1200):
            (daemon.root / f"f{number:04}").unlink()
        operation = daemon.finish(daemon.start(f"{BUILDS}/{manifest}/verifications", {}))
        result = operation["result"]
        assert (result["missing"], len(result["findings"])) == (1200, 1000)
        assert not result["findings_all"]
        report = daemon.http.get(f"{BUILDS}/reports/{operation['id']}")
        assert report.headers["content-type"] == "application/jsonl"
        header, *findings, trailer = map(json.loads, report.text.splitlines())
        assert header["manifest"] == manifest
        assert len({each["path"] for each in findings}) == trailer["files"] == 1200
        packed = daemon.http.get(
            f"{BUILDS}/reports/{operation['id']}", headers={"Accept": "application/zstd"}
        )
        assert decompress(packed.content) == report.content


class TestRefused:
    @pytest.mark.parametrize(
        ("body", "kind", "words"),
        [
            ({"path": "/etc"}, "outside-roots", "in no configured root"),
            ({"root": "/etc"}, "outside-roots", "not a configured root"),
            ({"algorithm": "md5"}, "invalid-request", "algorithm"),
            ({"include": ["[z-a]"]}, "invalid-request", "[z-a]"),
            ({"exclude": ["//"]}, "invalid-request", "empty"),
            ({"bytes_per_second": 0}, "invalid-request", "bytes_per_second"),
            ({"pressure": {"threshold_percent": 0}}, "invalid-request", "threshold_percent"),
            ({"pressure": {"cgroup": "../../etc"}}, "invalid-request", "control group"),
            ({"pressure": {"cgroup": "not/there"}}, "invalid-request", "no control group"),
            ({"pressure": {"cgroup": "x" * 300}}, "invalid-request", "no control group"),
            ({"exclude": ["x"] * 1001}, "invalid-request", "at most 1000 entries"),
            ({"path": "/" + "x" * 5000}, "invalid-request", "at most 4096 characters"),
            ({"fulll": True}, "unknown-field", "did you mean `full`"),
        ],
    )
    def test_a_build(
        self, shared_daemon: Daemon, body: dict[str, Any], kind: str, words: str
    ) -> None:
        problem = check_problem(shared_daemon.http.post(BUILDS, json=body), 422, kind)
        assert words in json.dumps(problem, ensure_ascii=False)

    def test_a_file_is_no_directory(self, daemon: Daemon) -> None:
        write_file(daemon.root / "f", 10)
        response = daemon.http.post(BUILDS, json={"path": str(daemon.root / "f")})
        assert "is a file" in check_problem(response, 422, "invalid-request")["detail"]

    def test_what_is_not_there(self, shared_daemon: Daemon) -> None:
        http = shared_daemon.http
        for path in (NOTHING, "latest"):
            check_problem(http.get(f"{BUILDS}/{path}"), 404, "not-found")
            check_problem(http.post(f"{BUILDS}/{path}/verifications"), 404, "not-found")
        check_problem(http.delete(f"{BUILDS}/{NOTHING}"), 404, "not-found")
        body = {"left": NOTHING, "right": NOTHING}
        check_problem(http.post(COMPARISONS, json=body), 404, "not-found")
        for name in (NOTHING, "..%2f..%2fetc", "x"):
            check_problem(http.get(f"{BUILDS}/reports/{name}"), 404, "not-found")


class TestOperations:
    def test_one_reader_of_a_root_at_a_time(self, daemon: Daemon) -> None:
        write_file(daemon.root / "f", 8 * MIB)
        manifest = build(daemon).id
        slow = daemon.start(BUILDS, {"full": True, "bytes_per_second": 1 << 16})
        for response in (
            daemon.http.post(BUILDS),
            daemon.http.post(f"{BUILDS}/{manifest}/verifications"),
        ):
            problem = check_problem(response, 409, "conflict")
            assert problem["operation"] == slow["id"]
        daemon.http.post(f"/v1/operations/{slow['id']}/cancel")
        assert daemon.finish(slow)["state"] == "cancelled"
        assert not list((daemon.state_dir / "manifests").glob(".*"))

    def test_progress_names_the_file(self, daemon: Daemon) -> None:
        write_file(daemon.root / "the-large-one", 8 * MIB)
        slow = daemon.start(BUILDS, {"bytes_per_second": 1 << 20})
        url = f"/v1/operations/{slow['id']}/events"
        with daemon.http.stream("GET", url, headers={"Accept": "text/plain"}) as lines:
            line = next(line for line in lines.iter_lines() if "MiB/s" in line or "KiB/s" in line)
        assert line.endswith("the-large-one")
        assert "hashing" in line
        metrics = daemon.http.get("/metrics").text
        assert 'holdfast_operation_running{kind="manifest.build"} 1.0' in metrics
        assert 'holdfast_operation_expected_bytes{kind="manifest.build"} 8.388608e+06' in metrics
        daemon.http.post(f"/v1/operations/{slow['id']}/cancel")
        daemon.finish(slow)

    def test_a_key_means_one_manifest(self, daemon: Daemon) -> None:
        write_file(daemon.root / "f", 10)
        headers = {"Idempotency-Key": "once"}
        first = daemon.finish(daemon.start(BUILDS, {}, **headers))
        again = daemon.http.post(BUILDS, json={}, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
        assert len(daemon.http.get(BUILDS).json()["manifests"]) == 1

    def test_the_oldest_make_room(self, start_daemon: Starter) -> None:
        daemon = start_daemon(manifests={"kept": 2})
        made = [build(daemon).id for _ in range(3)]
        listed = daemon.http.get(BUILDS).json()["manifests"]
        assert [each["id"] for each in listed] == [made[2], made[1]]
        assert [each["latest"] for each in listed] == [True, False]

    def test_a_read_token_may_look_and_not_build(self, daemon: Daemon) -> None:
        write_file(daemon.root / "f", 10)
        manifest = build(daemon).id
        with daemon.client("read") as http:
            assert http.get(f"{BUILDS}/{manifest}").status_code == 200
            assert http.get(f"{BUILDS}/{manifest}/content").status_code == 200
            check_problem(http.post(BUILDS), 403, "forbidden")
            check_problem(http.delete(f"{BUILDS}/{manifest}"), 403, "forbidden")
