"""`holdfast manifest diff`, and manifests that are listed, exported and imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.capabilities.building import digest
from tests.support.capabilities.manifests import CHUNK, flip
from tests.support.capabilities.manifests import file as file_line
from tests.support.command_line.cli import as_json, one_line
from tests.support.command_line.cli_manifest import (
    DIFFERENT,
    MIB,
    RED,
    bring,
    build,
    compared,
    different,
    fill,
    peak,
    tree,
)
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment, run_cli
from tests.support.machine.disk import write_file

__all__ = ["tree"]


class TestDiff:
    def test_signs(self, tree: Daemon) -> None:
        left = build(tree)
        root = tree.root
        flip(root / "large.db", CHUNK - 1)
        (root / "small" / "0.db").rename(root / "small" / "9.db")
        (root / "small" / "1.db").chmod(0o600)
        os.utime(root / "small" / "1.db", ns=(1, 1))
        with (root / "small" / "2.db").open("ab") as file:
            file.write(b"more")
        (root / "link").unlink()
        (root / "new").mkdir()
        right = build(tree)
        expected = {
            f"! large.db  (other content, bytes 0-{CHUNK})",
            "~ small/0.db -> small/9.db",
            "~ small/1.db  (other mode, mtime_ns)",
            "! small/2.db  (size 10002 -> 10006, whole file)",
            "- link",
            "+ new/",
        }
        done = tree.cli("manifest", "diff", left, right)
        assert set(different(done)) == expected
        summary = "1 identical, 2 differing, 1 only left, 1 only right, 1 moved"
        assert f"{summary}, 1 with other metadata" in done.stderr.splitlines()[-1]

        with_all = tree.cli("manifest", "diff", "--all", left, "latest")
        assert set(different(with_all)) == {*expected, "= small/"}
        assert set(different(tree.cli("manifest", "diff", right, left))) >= {"+ link", "- new/"}

        same = tree.cli("manifest", "diff", left, left)
        assert (same.returncode, same.stdout) == (0, "")
        assert same.stderr.splitlines()[-1] == "6 identical"
        as_document = tree.cli("manifest", "diff", left, right, "--json")
        assert as_document.returncode == DIFFERENT
        assert json.loads(as_document.stdout)["result"]["moved"] == 1

    def test_every_finding_not_only_the_first(self, daemon: Daemon, tmp_path: Path) -> None:
        names = [f"f{number:05}" for number in range(2500)]
        left = bring(daemon, tmp_path / "left", [file_line(name) for name in names])
        right = bring(daemon, tmp_path / "right", [])
        found = different(daemon.cli("manifest", "diff", left, right))
        assert found == [f"- {name}" for name in names]
        operation = compared(daemon)
        assert daemon.cli("manifest", "report", operation).stdout.splitlines() == found
        lines = daemon.cli("manifest", "report", operation, "--json").stdout.splitlines()
        assert [json.loads(line)["path"] for line in lines] == names
        shown = daemon.cli("op", "show", operation).stdout
        assert f"and more: holdfast manifest report {operation}" in shown
        assert "2,500 only left" in shown

    def test_other_algorithms_cannot_be_compared(self, tree: Daemon) -> None:
        left, right = build(tree), build(tree, "--algorithm", "xxh3_128")
        reported = one_line(tree.cli("manifest", "diff", left, right))
        assert "xxh64" in reported
        assert "xxh3_128" in reported

    def test_a_report_is_not_held_in_memory(self, daemon: Daemon, tmp_path: Path) -> None:
        name = "n" * 100
        many = [file_line(f"{name}/{number:06}") for number in range(200_000)]
        left = bring(daemon, tmp_path / "left", many)
        right = bring(daemon, tmp_path / "right", [])
        large = daemon.run("/v1/manifests/comparisons", {"left": left, "right": right})
        large_report = compared(daemon)
        assert large["only_left"] == len(many)
        daemon.run("/v1/manifests/comparisons", {"left": right, "right": right})
        for arguments in ((), ("--json",)):
            few = peak(daemon, "manifest", "report", compared(daemon), *arguments, lines=0)
            all_of_them = peak(
                daemon, "manifest", "report", large_report, *arguments, lines=len(many)
            )
            # The text alone is above 20 MiB.
            assert all_of_them - few < 10 * MIB

    def test_a_reader_may_leave(self, daemon: Daemon, tmp_path: Path) -> None:
        many = [file_line(f"{number:06}") for number in range(50_000)]
        left = bring(daemon, tmp_path / "left", many)
        right = bring(daemon, tmp_path / "right", [])
        done = subprocess.run(
            [
                "bash",
                "-c",
                f'"$0" -m holdfast -q manifest diff {left} {right} | head -n 1',
                HOLDFAST[0],
            ],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(HOLDFAST_SOCKET=str(daemon.socket)),
        )
        assert (done.stdout, done.stderr) == ("- 000000\n", "")


class TestStored:
    def test_list_show_delete(self, tree: Daemon) -> None:
        listed = tree.cli("manifest", "list")
        assert (listed.returncode, listed.stdout) == (0, "no manifests yet\n")
        ids = [build(tree), build(tree, tree.root / "small", "--algorithm", "blake3")]
        rows = tree.cli("manifest", "list").stdout.splitlines()
        assert [row.split()[0] for row in rows[1:]] == [ids[1], ids[0]]
        assert "latest" in rows[1]
        assert "blake3" in rows[1]
        assert str(tree.root / "small") in rows[1]

        shown = tree.cli("manifest", "show", ids[0]).stdout
        assert f"manifest {ids[0]}" in shown
        assert "xxh64 (not cryptographic" in shown
        assert "128 MiB in 4 files, 1 directory, 1 symlink" in shown
        assert digest(tree.root / "large.db") in shown
        latest = tree.cli("manifest", "show").stdout
        assert f"manifest {ids[1]}" in latest
        assert "blake3 (cryptographic" in latest
        document = as_json(tree.cli("manifest", "show", ids[0], "--json"))
        assert document["largest"][0]["path"] == "large.db"

        assert as_json(tree.cli("manifest", "delete", ids[1], "--json")) == {"deleted": [ids[1]]}
        left = as_json(tree.cli("manifest", "list", "--json"))["manifests"]
        assert [manifest["id"] for manifest in left] == [ids[0]]
        assert ids[1] in one_line(tree.cli("manifest", "delete", ids[1]))
        assert tree.cli("manifest", "delete", ids[0]).stdout == f"deleted manifest {ids[0]}\n"

    def test_files_without_a_digest_are_named(self, daemon: Daemon, tmp_path: Path) -> None:
        lines = [
            file_line("a"),
            file_line("b", status="error", detail=f"{RED}Input/output error", xxh64=None),
            file_line("c", status="changed", xxh64=None),
        ]
        manifest = bring(daemon, tmp_path / "record", lines)
        shown = daemon.cli("manifest", "show", manifest).stdout
        assert "without a digest: 1 changed while they were read, 1 could not be read" in shown
        assert r"  b: error (\x1b[31mInput/output error)" in shown
        assert "  c: changed\n" in shown
        assert RED not in shown

    def test_names_that_mean_harm(self, daemon: Daemon) -> None:
        name = RED + os.fsdecode(b"red \xff\n\\")
        for number, path in enumerate((daemon.root / name, daemon.root / f"{name}2")):
            write_file(path, 1000, seed=number)
        left = build(daemon)
        flip(daemon.root / name, 3)
        (daemon.root / f"{name}2").rename(daemon.root / f"{name}3")
        safe = r"\x1b[31mred \xff\n\\"
        verified = daemon.cli("manifest", "verify")
        assert f"  ! {safe}  (other content, whole file)" in different(verified)
        right = build(daemon)
        diff = daemon.cli("manifest", "diff", left, right)
        assert f"~ {safe}2 -> {safe}3" in different(diff)
        shown = daemon.cli("manifest", "show")
        assert safe in shown.stdout
        report = daemon.cli("manifest", "report", compared(daemon))
        assert f"! {safe}  (other content, whole file)" in report.stdout
        for done in (verified, diff, shown, report):
            assert "\x1b" not in done.stdout + done.stderr
        as_json(daemon.cli("manifest", "show", "--json"))

    def test_completion(self, tree: Daemon) -> None:
        manifest = build(tree)
        words = "holdfast manifest verify "
        done = run_cli(
            _HOLDFAST_COMPLETE="complete_bash",
            COMP_WORDS=words,
            COMP_CWORD="3",
            HOLDFAST_SOCKET=str(tree.socket),
        )
        assert set(done.stdout.split()) == {"latest", manifest}


class TestCarried:
    def test_xxhsum_agrees(self, tree: Daemon, tmp_path: Path) -> None:
        odd = "odd\\name\n.db"
        write_file(tree.root / odd, 100)
        build(tree)
        lists = {}
        for form in ("xxhsum", "xxhsum-escaped"):
            lists[form] = tmp_path / form
            done = tree.cli("manifest", "export", "--format", form, "-o", lists[form])
            assert done.returncode == 0, done.stderr
            assert re.fullmatch(r"wrote \d+ B to .*\n", done.stdout)
        escaped = f"\\{digest(tree.root / odd)}  ./odd\\\\name\\n.db\n"
        assert lists["xxhsum-escaped"].read_text() == escaped
        check = ["xxhsum", "--check", "--quiet", str(lists["xxhsum"])]
        assert len(lists["xxhsum"].read_text().splitlines()) == 4
        assert subprocess.run(check, cwd=tree.root, check=False).returncode == 0
        flip(tree.root / "small" / "0.db", 1)
        assert subprocess.run(check, cwd=tree.root, check=False).returncode != 0

    def test_lines(self, tree: Daemon) -> None:
        build(tree)
        done = tree.cli("manifest", "export", "latest", "--format", "jsonl")
        first, *lines, _trailer = map(json.loads, done.stdout.splitlines())
        assert first["format"] == "holdfast-manifest"
        assert [line["path"] for line in lines][:2] == ["large.db", "link"]

    def test_to_another_node(
        self, tree: Daemon, start_daemon: Callable[..., Daemon], tmp_path: Path
    ) -> None:
        build(tree)
        other = start_daemon()
        fill(other.root)
        record = tmp_path / "record"
        assert tree.cli("manifest", "export", "-o", record).returncode == 0
        assert [path.name for path in tmp_path.iterdir()] == ["record"]
        reported = other.cli("manifest", "import", record)
        assert reported.returncode == 0, reported.stderr
        manifest = reported.stdout.removeprefix("stored as manifest ").strip()
        verified = other.cli("manifest", "verify", manifest, "--path", other.root)
        assert verified.returncode == 0, verified.stderr
        assert "set `path`" in one_line(other.cli("manifest", "verify", manifest))
        assert "uploaded" in other.cli("manifest", "list").stdout

        piped = subprocess.run(
            [
                "bash",
                "-c",
                'set -o pipefail; "$0" -m holdfast manifest export --socket "$1" |'
                ' "$0" -m holdfast manifest import - --socket "$2" --json',
                HOLDFAST[0],
                str(tree.socket),
                str(other.socket),
            ],
            capture_output=True,
            check=False,
            env=clean_environment(),
        )
        assert piped.returncode == 0, piped.stderr
        assert json.loads(piped.stdout)["files"] == 4

    def test_damaged(self, tree: Daemon, tmp_path: Path) -> None:
        build(tree)
        record = tmp_path / "record"
        assert tree.cli("manifest", "export", "-o", record).returncode == 0
        flip(record, record.stat().st_size // 2)
        one_line(tree.cli("manifest", "import", record))
        assert len(as_json(tree.cli("manifest", "list", "--json"))["manifests"]) == 1
