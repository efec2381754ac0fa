"""`holdfast manifest build` and `verify`, against a real daemon and without one."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.capabilities.manifests import CHUNK, flip
from tests.support.command_line.cli import as_json, one_line, running, start_cli
from tests.support.command_line.cli_manifest import (
    DIFFERENT,
    MIB,
    Done,
    build,
    different,
    fill,
    tree,
)
from tests.support.command_line.terminal import INTERRUPT, Terminal
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment, run_cli
from tests.support.machine.disk import write_file
from tests.support.waiting import until

__all__ = ["tree"]


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
        printed = tree.cli(*sample)
        assert printed.returncode == 0, printed.stderr
        assert f"{first['chunks_checked']} of 6 chunks in" in printed.stdout
        assert printed.stdout.rstrip().endswith("as far as was read")

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
        printed = daemon.cli("manifest", "verify", *limits)
        assert printed.returncode == 0, printed.stderr
        assert re.search(r"^waited [\d.]+ s for the rate limit$", printed.stdout, re.MULTILINE)
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


class TestWrong:
    @pytest.mark.parametrize(
        ("arguments", "printed"),
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
    def test_usage(self, arguments: list[str], printed: str) -> None:
        assert printed.lower() in one_line(run_cli("manifest", *arguments), 2).lower()

    @pytest.mark.parametrize(
        ("arguments", "printed"),
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
        self, shared_daemon: Daemon, arguments: list[str], printed: str
    ) -> None:
        assert printed in one_line(shared_daemon.cli("manifest", *arguments))

    def test_a_file_and_several_roots(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path
    ) -> None:
        roots = [disk_dir / "one", disk_dir / "two"]
        daemon = start_daemon(roots=roots)
        printed = one_line(daemon.cli("manifest", "build"))
        assert str(roots[0]) in printed
        assert str(roots[1]) in printed
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
