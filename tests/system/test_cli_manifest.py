"""`holdfast manifest` against a real daemon and without one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.building import digest
from tests.support.cli import as_json, one_line, running, start_cli
from tests.support.disk import write_file
from tests.support.harness import HOLDFAST, Daemon, clean_environment, run_cli
from tests.support.manifests import CHUNK, flip, manifest_record
from tests.support.manifests import file as file_line
from tests.support.manifests import head as header
from tests.support.terminal import INTERRUPT, Terminal
from tests.support.waiting import until

MIB = 1 << 20
DIFFERENT = 3
RED = "\x1b[31m"
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def tree(daemon: Daemon) -> Daemon:
    """Give a daemon with a file of three chunks, some small ones, and a link."""
    fill(daemon.root)
    return daemon


def fill(root: Path) -> None:
    for number in range(3):
        write_file(root / "small" / f"{number}.db", 10_000 + number, seed=number)
    write_file(root / "large.db", 2 * CHUNK + 12_345, seed=7)
    (root / "link").symlink_to("large.db")


def build(daemon: Daemon, *arguments: str | Path) -> str:
    """Build a manifest through the command line and answer its id."""
    built = as_json(daemon.cli("manifest", "build", *arguments, "--json"))
    assert built["state"] == "succeeded"
    manifest: str = built["result"]["manifest"]
    return manifest


def different(done: Done) -> list[str]:
    """Return what a command printed that found differences."""
    assert done.returncode == DIFFERENT, (done.stdout, done.stderr)
    assert "holdfast:" not in done.stderr
    return done.stdout.splitlines()


def bring(daemon: Daemon, path: Path, lines: list[dict[str, Any]], **other: Any) -> str:
    """Import a manifest with these lines and answer its id."""
    path.write_bytes(manifest_record(header(**other), lines))
    stored: str = as_json(daemon.cli("manifest", "import", path, "--json"))["id"]
    return stored


def compared(daemon: Daemon) -> str:
    """Return the id of the newest comparison."""
    listed = as_json(daemon.cli("op", "list", "--kind", "manifest.compare", "--json"))
    operation: str = listed["operations"][0]["id"]
    return operation


def peak(daemon: Daemon, *arguments: str, lines: int) -> int:
    """Run a command that prints `lines` lines; return the most memory it held, in bytes."""
    # By the process itself: what wait4 reports includes the memory of the process that forked.
    program = (
        "import sys\n"
        "from holdfast.cli import run\n"
        "code = run(sys.argv[1:])\n"
        "print(open('/proc/self/status').read(), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    with subprocess.Popen(
        [HOLDFAST[0], "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(HOLDFAST_SOCKET=str(daemon.socket)),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert sum(1 for _ in process.stdout) == lines
        status = process.stderr.read().decode()
    assert process.returncode == 0, status
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


class TestBuildAndVerify:
    def test_in_words(self, tree: Daemon) -> None:
        built = tree.cli("manifest", "build")
        assert built.returncode == 0, built.stderr
        assert "recorded 128 MiB in 4 files, 1 directory, 1 symlink" in built.stdout
        (manifest,) = re.findall(r"^manifest (\w+),", built.stdout, re.MULTILINE)
        again = tree.cli("manifest", "build", tree.root)
        assert "4 files had not changed: 128 MiB not read again" in again.stdout

        verified = tree.cli("manifest", "verify")
        assert verified.returncode == 0, verified.stderr
        assert "read 128 MiB, 4 files in " in verified.stdout
        assert verified.stdout.splitlines()[-1].startswith(f"ok: {tree.root} against manifest ")
        assert tree.cli("manifest", "verify", manifest).returncode == 0

    def test_in_json(self, tree: Daemon) -> None:
        built = as_json(tree.cli("manifest", "build", "--algorithm", "blake3", "--json"))
        assert (built["kind"], built["state"]) == ("manifest.build", "succeeded")
        assert built["result"]["algorithm"] == "blake3"
        verified = as_json(tree.cli("--json", "manifest", "verify", built["result"]["manifest"]))
        assert verified["result"]["ok"]
        flip(tree.root / "small" / "0.db", 17)
        found = tree.cli("manifest", "verify", "--json")
        different(found)
        result = json.loads(found.stdout)["result"]
        assert not result["ok"]
        assert [finding["path"] for finding in result["findings"]] == ["small/0.db"]

    def test_what_differs_is_named(self, tree: Daemon) -> None:
        build(tree)
        flip(tree.root / "large.db", CHUNK + 5)
        flip(tree.root / "small" / "0.db", 9_999)
        (tree.root / "small" / "1.db").unlink()
        (tree.root / "small" / "2.db").unlink()
        (tree.root / "small" / "2.db").mkdir()
        (tree.root / "extra").mkdir()
        (tree.root / "link").unlink()
        (tree.root / "link").symlink_to("elsewhere")
        lines = different(tree.cli("manifest", "verify"))
        assert {line.strip() for line in lines[1:-1]} == {
            f"! large.db  (other content, bytes {CHUNK}-{2 * CHUNK})",
            "! small/0.db  (other content, whole file)",
            "- small/1.db",
            "! small/2.db  (other type)",
            "+ extra/",
            "! link  (other target)",
        }
        assert lines[-1].startswith(f"NOT OK: {tree.root} against manifest ")
        assert lines[-1].endswith(": 4 mismatched, 1 missing, 1 extra")

    def test_a_copy_elsewhere(self, tree: Daemon) -> None:
        manifest = build(tree, tree.root / "small")
        shutil.copytree(tree.root / "small", tree.root / "copy")
        copy = ("--path", tree.root / "copy")
        assert tree.cli("manifest", "verify", manifest, *copy).returncode == 0
        with (tree.root / "copy" / "1.db").open("ab") as file:
            file.write(b"more")
        found = different(tree.cli("manifest", "verify", manifest, *copy))
        assert "  ! 1.db  (other size, whole file)" in found
        relative = subprocess.run(
            [*HOLDFAST, "manifest", "verify", "--path", "copy"],
            cwd=tree.root,
            env=clean_environment(HOLDFAST_SOCKET=str(tree.socket)),
            capture_output=True,
            check=False,
        )
        assert relative.returncode == DIFFERENT

    def test_a_sample_is_the_same_again(self, tree: Daemon) -> None:
        build(tree)
        sample = ("manifest", "verify", "--sample", "50", "--seed", "4")
        first, second = (as_json(tree.cli(*sample, "--json"))["result"] for _ in range(2))
        assert first["chunks_checked"] == second["chunks_checked"] < first["chunks_total"] == 6
        assert first["bytes"] == second["bytes"]
        told = tree.cli(*sample)
        assert told.returncode == 0, told.stderr
        assert f"{first['chunks_checked']} of 6 chunks in" in told.stdout
        assert told.stdout.rstrip().endswith("as far as was read")

    def test_patterns(self, tree: Daemon) -> None:
        build(tree, "--include", "*.db", "--exclude", "1.*", "--exclude", "large.db")
        shown = tree.cli("manifest", "show")
        assert re.search(r"^ +only +\*\.db$", shown.stdout, re.MULTILINE), shown.stdout
        assert re.search(r"^ +without +1\.\*, large\.db$", shown.stdout, re.MULTILINE)
        assert as_json(tree.cli("manifest", "show", "--json"))["files"] == 2
        # What was left out is no extra.
        flip(tree.root / "small" / "1.db", 0)
        assert tree.cli("manifest", "verify").returncode == 0

    def test_full_reads_again(self, tree: Daemon) -> None:
        build(tree)
        again = as_json(tree.cli("manifest", "build", "--json"))["result"]
        full = as_json(tree.cli("manifest", "build", "--full", "--json"))["result"]
        assert (again["hashed_bytes"], again["reused_files"]) == (0, 4)
        assert (full["hashed_bytes"], full["reused_files"]) == (full["bytes"], 0)

    @pytest.mark.skipif(not Path("/proc/pressure/io").exists(), reason="the kernel has no PSI")
    def test_limits(self, daemon: Daemon) -> None:
        write_file(daemon.root / "a", 2 * MIB)
        limits = ("--rate", "1MiB", "--pressure", "100")
        asked = as_json(daemon.cli("manifest", "build", *limits, "--json"))
        assert asked["params"]["bytes_per_second"] == MIB
        assert asked["params"]["pressure"] == {"cgroup": None, "threshold_percent": 100.0}
        told = daemon.cli("manifest", "verify", *limits)
        assert told.returncode == 0, told.stderr
        assert re.search(r"^waited [\d.]+ s for the rate limit$", told.stdout, re.MULTILINE)
        group = ("--pressure", "5", "--pressure-cgroup", "no/such")
        assert "no control group no/such" in one_line(daemon.cli("manifest", "build", *group))

    def test_no_wait(self, tree: Daemon) -> None:
        started = tree.cli("manifest", "build", "--no-wait")
        assert started.returncode == 0, started.stderr
        (operation,) = started.stdout.split()
        assert "recorded 128 MiB" in tree.cli("op", "watch", operation).stdout
        (operation,) = tree.cli("manifest", "verify", "--no-wait").stdout.split()
        assert "ok: " in tree.cli("op", "watch", operation).stdout
        flip(tree.root / "small" / "0.db", 17)
        (operation,) = tree.cli("manifest", "verify", "--no-wait").stdout.split()
        assert different(tree.cli("op", "watch", operation))[-1].startswith("NOT OK: ")
        shown = tree.cli("op", "show", operation)
        assert shown.returncode == 3, shown.stderr
        assert "NOT OK: " in shown.stdout


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
        told = one_line(tree.cli("manifest", "diff", left, right))
        assert "xxh64" in told
        assert "xxh3_128" in told

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
        told = other.cli("manifest", "import", record)
        assert told.returncode == 0, told.stderr
        manifest = told.stdout.removeprefix("stored as manifest ").strip()
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


class TestWrong:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["verfiy"], "did you mean 'verify'"),
            (["build", "--algorithm", "md5"], "blake3"),
            (["build", "--rate", "fast"], "'fast' is not a size"),
            (["build", "--pressure", "0"], "--pressure"),
            (["build", "--pressure-cgroup", "a"], "--pressure-cgroup needs --pressure"),
            (["verify", "--sample", "0"], "--sample"),
            (["verify", "--sample", "101"], "--sample"),
            (["verify", "--seed", "-1"], "--seed"),
            (["diff", "latest"], "MANIFEST"),
            (["report"], "OPERATION"),
            (["export", "--format", "md5sum"], "xxhsum"),
            (["build", "--root", "/srv"], "--root goes with --local"),
        ],
    )
    def test_usage(self, arguments: list[str], told: str) -> None:
        assert told.lower() in one_line(run_cli("manifest", *arguments), 2).lower()

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["build", "/etc"], "no configured root"),
            (["build", "--include", "[z-a]"], "[z-a]"),
            (["verify"], "no manifest"),
            (["verify", "nope"], "nope"),
            (["verify", "../../etc"], "etc"),
            (["diff", "nope", "latest"], "nope"),
            (["show", "nope"], "nope"),
            (["delete", "nope"], "nope"),
            (["export", "nope"], "nope"),
            (["report", "nope"], "no report of operation nope"),
            (["import", "/nowhere/record"], "/nowhere/record"),
        ],
    )
    def test_what_the_daemon_refuses(
        self, shared_daemon: Daemon, arguments: list[str], told: str
    ) -> None:
        assert told in one_line(shared_daemon.cli("manifest", *arguments))

    def test_a_file_and_several_roots(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path
    ) -> None:
        roots = [disk_dir / "one", disk_dir / "two"]
        daemon = start_daemon(roots=roots)
        told = one_line(daemon.cli("manifest", "build"))
        assert str(roots[0]) in told
        assert str(roots[1]) in told
        write_file(roots[1] / "f", 10)
        assert "is a file" in one_line(daemon.cli("manifest", "build", roots[1] / "f"))
        build(daemon, roots[1])

    def test_an_export_leaves_nothing_behind(self, shared_daemon: Daemon, tmp_path: Path) -> None:
        one_line(shared_daemon.cli("manifest", "export", "nope", "-o", tmp_path / "record"))
        assert list(tmp_path.iterdir()) == []


class TestProgress:
    def test_lines_name_the_file(self, daemon: Daemon) -> None:
        write_file(daemon.root / "the-large-one", 8 * MIB)
        with start_cli(daemon, "manifest", "build", "--rate", "1MiB") as process:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "iB/s" in line)
            assert line.startswith("build: hashing, ")
            assert "of 8.00 MiB" in line
            assert line.endswith("the-large-one\n")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=15)
        assert process.returncode == 1
        assert "was cancelled" in err
        assert running(daemon) is None
        assert daemon.cli("manifest", "list").stdout == "no manifests yet\n"

    def test_ctrl_c_asks(self, daemon: Daemon) -> None:
        write_file(daemon.root / "the-large-one", 64 * MIB)
        build(daemon)
        with Terminal(
            [*HOLDFAST, "manifest", "verify", "--rate", "4MiB"],
            clean_environment(HOLDFAST_SOCKET=str(daemon.socket)),
            columns=160,
        ) as terminal:
            terminal.wait_for("the-large-one")
            terminal.wait_for("verify: verifying")
            terminal.type(INTERRUPT)
            terminal.wait_for("[c]ancel, [l]eave it running, [w]atch on? ")
            terminal.type("l\n")
            assert terminal.wait() == 4
        operation = running(daemon)
        assert operation["kind"] == "manifest.verify"
        assert daemon.cli("op", "cancel", operation["id"]).returncode == 0
        until(lambda: running(daemon) is None, what="the end of the verification")

    def test_a_verdict_in_colour(self, daemon: Daemon) -> None:
        write_file(daemon.root / "a", 1000)
        build(daemon)
        flip(daemon.root / "a", 1)
        with Terminal(
            [*HOLDFAST, "manifest", "verify"],
            clean_environment(HOLDFAST_SOCKET=str(daemon.socket)),
        ) as terminal:
            assert terminal.wait() == DIFFERENT
            assert "NOT OK: " in terminal.shown


class TestLocal:
    def test_needs_no_daemon(self, disk_dir: Path, tmp_path: Path) -> None:
        root, state = disk_dir / "data", disk_dir / "state"
        fill(root)
        local = ("--local", "--root", root, "--state-dir", state, "--socket", "/nowhere")

        def manifest(*arguments: str | Path) -> Done:
            return run_cli("manifest", *arguments, *local)

        left = as_json(manifest("build", "--json"))["result"]["manifest"]
        assert manifest("verify").returncode == 0
        flip(root / "large.db", 0)
        assert f"  ! large.db  (other content, bytes 0-{CHUNK})" in different(manifest("verify"))
        verified = manifest("verify", "--json")
        operation = json.loads(verified.stdout)["id"]
        reported = manifest("report", operation)
        assert reported.stdout == f"! large.db  (other content, bytes 0-{CHUNK})\n"
        right = as_json(manifest("build", root, "--json"))["result"]["manifest"]
        differing = different(manifest("diff", left, right))
        assert len(differing) == 1
        assert differing[0].startswith("! large.db")
        assert f"manifest {right}" in manifest("show").stdout
        file = tmp_path / "record"
        assert manifest("export", left, "-o", file).returncode == 0
        assert as_json(manifest("import", file, "--json"))["uploaded"] is True
        assert len(as_json(manifest("list", "--json"))["manifests"]) == 3
        assert manifest("delete", left).returncode == 0
        assert left in one_line(manifest("show", left))
        assert "no report" in one_line(manifest("report", left))

    def test_a_unit_that_is_stopped(self, disk_dir: Path) -> None:
        root, state = disk_dir / "data", disk_dir / "state"
        write_file(root / "a.db", 64 * MIB)
        command = ["manifest", "build", "--rate", "1MiB", "--local"]
        with subprocess.Popen(
            [*HOLDFAST, *command, "--root", str(root), "--state-dir", str(state)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        ) as process:
            assert process.stderr is not None
            next(line for line in process.stderr if "hashing" in line)
            process.terminate()
            _, err = process.communicate(timeout=10)
        assert process.returncode == 1
        assert "was cancelled" in err
        assert list((state / "manifests").iterdir()) == []
