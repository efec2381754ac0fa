"""What `--output` names is written to: a device, a FIFO, a link are not replaced by a file."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracles.residency import PAGE
from tests.support.capabilities.building import build
from tests.support.command_line.terminal import Terminal
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment, run_cli
from tests.support.machine.disk import write_file


@pytest.fixture
def manifest(daemon: Daemon) -> Daemon:
    write_file(daemon.root / "file", PAGE)
    build(daemon)
    return daemon


def exported(daemon: Daemon, output: Path, *more: str) -> None:
    done = daemon.cli("manifest", "export", "--format", "jsonl", "--output", output, *more)
    assert done.returncode == 0, done.stderr


def test_a_device_stays_a_device(manifest: Daemon, tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device node needs root")
    exported(manifest, null)
    assert stat.S_ISCHR(null.stat().st_mode)
    done = manifest.cli("pagecache", "export", "--output", null)
    assert "there is no dump yet" in done.stderr
    manifest.run("/v1/pagecache/dumps", {})
    assert manifest.cli("pagecache", "export", "--output", null).returncode == 0
    assert stat.S_ISCHR(null.stat().st_mode)
    assert list(tmp_path.iterdir()) == [null]


def test_a_fifo_is_written_to(manifest: Daemon, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    exported(manifest, fifo)
    reader.join(10)
    assert b"holdfast-manifest" in found[0]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_link_is_followed(manifest: Daemon, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    link.symlink_to("there/target")
    # Also where there is nothing yet at its other end.
    for _ in range(2):
        exported(manifest, link)
        assert link.is_symlink()
        assert b"holdfast-manifest" in target.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert stat.S_IMODE(target.stat().st_mode) & 0o077 == 0o044


def test_standard_output_by_its_name(manifest: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as stdout:
        done = subprocess.run(
            [*HOLDFAST, "manifest", "export", "-o", "/dev/stdout", "--json"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
            env=clean_environment(HOLDFAST_SOCKET=str(manifest.socket)),
        )
        assert done.returncode == 0, done.stderr
        assert os.fstat(stdout.fileno()).st_nlink == 1
    assert file.read_bytes()


@pytest.mark.parametrize("command", ["describe", "sign"])
def test_descriptors_and_signatures_go_through_links_too(tmp_path: Path, command: str) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(1 << 20))
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    if command == "describe":
        done = run_cli("image", "describe", disk, "--output", link)
    else:
        assert run_cli("image", "describe", disk).returncode == 0
        assert run_cli("image", "keygen", tmp_path / "key").returncode == 0
        descriptor, key = tmp_path / "disk.raw.json", tmp_path / "key.key"
        done = run_cli("image", "sign", descriptor, "--key", key, "--output", link)
    assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert target.stat().st_size > 0


def test_a_token_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "tokens", tmp_path / "link.json"
    link.symlink_to(target)
    for name in ("a", "b"):
        done = run_cli("token", "create", name, "--scope", "read", "--tokens-file", link)
        assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    listed = run_cli("token", "list", "--tokens-file", target)
    assert "a" in listed.stdout
    assert "b" in listed.stdout


@pytest.mark.parametrize("form", ["xxhsum", "jsonl"])
def test_names_do_not_control_a_terminal(start_daemon: Callable[..., Daemon], form: str) -> None:
    daemon = start_daemon()
    name = "a\x1b]0;title\x07b\x7f\u009b31mc"
    write_file(daemon.root / name, PAGE)
    build(daemon)
    command = [*HOLDFAST, "manifest", "export", "--format", form]
    with Terminal(command, clean_environment(HOLDFAST_SOCKET=str(daemon.socket))) as terminal:
        assert terminal.wait() == 0
        shown = terminal.raw
    assert "title" in shown
    for control in ("\x1b]0", "\x07", "\x7f", "\u009b"):
        assert control not in shown
    # A pipe gets what is there.
    piped = daemon.cli("manifest", "export", "--format", "xxhsum")
    assert name in piped.stdout
