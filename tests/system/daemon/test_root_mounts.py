"""What belongs to a root: the same for every command, on layers, subvolumes, and mounts inside.

The judge walks by itself, by the names of mounts in /proc/self/mountinfo.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.oracles.residency import PAGE, evict, page_count, pinned, resident_pages
from tests.support.capabilities.building import BUILDS, build, digest, verify
from tests.support.capabilities.manifests import flip
from tests.support.capabilities.pagecache import DUMPS, EVICTIONS, LOADS, SHOW, dump
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.machine.fuse import fuse
from tests.support.machine.mounts import btrfs, ext4, mounted, overlay, subvolume, tmpfs

Mounter = Callable[[Path, Path, ExitStack], None]
SIZE = 4 * PAGE + 100
DIFFERENT = 3


def mount_points() -> set[Path]:
    """Return where something is mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {Path(re.sub(r"\\040", " ", line.split(" ")[4])) for line in lines}


def own_files(root: Path) -> tuple[set[str], set[str]]:
    """Return the files of a root and the mounts in it, relative to it."""
    points = mount_points()
    files: set[str] = set()
    mounts: set[str] = set()
    for top, names, others in os.walk(root):
        for name in [*names, *others]:
            path = Path(top, name)
            if path in points:
                mounts.add(str(path.relative_to(root)))
                if name in names:
                    names.remove(name)
            elif name in others and path.is_file() and not path.is_symlink():
                files.add(str(path.relative_to(root)))
    return files, mounts


def relative(root: Path, paths: list[dict[str, Any]]) -> set[str]:
    return {str(Path(each["path"]).relative_to(root)) for each in paths}


def check_all_agree(daemon: Daemon) -> None:
    """Hold every command's files against those of the judge."""
    root = daemon.root
    files, mounts = own_files(root)
    built = build(daemon)
    recorded = {os.fsdecode(path) for path, line in built.lines.items() if line["type"] == "file"}
    assert recorded == files
    for name in files:
        line = built.lines[os.fsencode(name)]
        first = line.get("hardlink_of")
        if first is not None:
            assert (root / first["path"]).samefile(root / name)
        assert line["xxh64"] == digest(root / name), name
    verified = verify(daemon, built.id)
    assert (verified["ok"], verified["checked_files"]) == (True, len(files))
    evicted = daemon.run(EVICTIONS, {"paths": [str(root)]})
    assert evicted["files"] + evicted["skipped"].get("hardlink", 0) == len(files)
    with ExitStack() as stack:
        first = {
            os.fsdecode(path): each.get("hardlink_of", {"path": os.fsdecode(path)})["path"]
            for path, each in built.lines.items()
        }
        held = {
            name: stack.enter_context(pinned(root / name, range(1, page_count(root / name))))
            for name in files
            if first[name] == name
        }
        (report,) = daemon.http.get(SHOW, params={"top": 1000}).json()["reports"]
        assert report["total"]["files"] == len(held)
        # A file with several names is reported under one of them.
        shown = {
            first[str(Path(each["path"]).relative_to(root))]: each["resident"]
            for each in report["files"]
        }
        assert {name: len(pages) * PAGE for name, pages in held.items()} == shown
        result, record = dump(daemon)
        assert result["files_scanned"] == len(held)
        assert {first[os.fsdecode(path)]: each for path, each in record.pages.items()} == held
    for answer in (built.result, verified, evicted, report, result):
        left = answer["left_out"].get("other_filesystem", {"count": 0, "examples": []})
        assert left["count"] == len(mounts)
        assert relative(root, left["examples"]) == mounts
    if mounts:
        text = daemon.http.get("/metrics").text
        sample = f'holdfast_left_out_files{{reason="other_filesystem",root="{root}"}}'
        assert f"{sample} {len(mounts)}.0" in text


def layers(*options: str, two: bool = True, upper_tmpfs: bool = False) -> Mounter:
    """Layers on one disk or on two, with a file from below, one from above, and some of both."""

    def mount(root: Path, scratch: Path, stack: ExitStack) -> None:
        disk = stack.enter_context(ext4(scratch / "e1", 32 << 20)) if two else scratch
        top = stack.enter_context(tmpfs(scratch / "t", 32 << 20)) if upper_tmpfs else scratch
        (top / "upper").mkdir()
        fill(disk / "lower")
        os.sync()  # An overlay does not write its lower layer back.
        stack.enter_context(overlay(root, disk / "lower", top / "upper", *options))
        write_file(root / "upper-only", SIZE, seed=9)
        (root / "d" / "f1").chmod(0o600)
        with (root / "d" / "f2").open("ab") as file:
            file.write(b"copied up")
        os.sync()

    return mount


def layers_on_subvolumes(root: Path, scratch: Path, stack: ExitStack) -> None:
    """Layers in two subvolumes, where one inode number with two names means two files."""
    disk = stack.enter_context(btrfs(scratch / "b"))
    lower, upper = subvolume(disk / "lower"), subvolume(disk / "upper")
    (lower / "d").mkdir()
    (upper / "d").mkdir()
    for directory in (lower / "d", upper / "d"):
        name = directory.parent.name
        (directory / name).write_bytes(f"this is {name}".encode() * PAGE)
        (directory / f"{name}-too").hardlink_to(directory / name)
    assert (lower / "d" / "lower").stat().st_ino == (upper / "d" / "upper").stat().st_ino
    stack.enter_context(overlay(root, lower / "d", upper / "d"))


def nested_layers(root: Path, scratch: Path, stack: ExitStack) -> None:
    disk = stack.enter_context(ext4(scratch / "e1", 32 << 20))
    fill(disk / "lower")
    (scratch / "upper").mkdir()
    (disk / "upper2").mkdir()
    inner = stack.enter_context(overlay(scratch / "inner", disk / "lower", scratch / "upper"))
    stack.enter_context(overlay(root, inner, disk / "upper2"))


def subvolumes(root: Path, scratch: Path, stack: ExitStack) -> None:
    stack.enter_context(btrfs(root))
    for name in ("one", "two"):
        fill(subvolume(root / name) / "d")
    subvolume(root / "one" / "nested")
    write_file(root / "one" / "nested" / "f", SIZE)
    subvolume(root / "snapshot", snapshot_of=root / "one")


def a_subvolume(root: Path, scratch: Path, stack: ExitStack) -> None:
    """A root that is one subvolume of a file system."""
    disk = stack.enter_context(btrfs(scratch / "b"))
    fill(subvolume(disk / "data") / "d")
    stack.enter_context(mounted(root, "--bind", disk / "data"))


def binds(root: Path, scratch: Path, stack: ExitStack) -> None:
    fill(root / "a")
    for name in ("b", "c"):
        (root / name).mkdir()
    (root / "file").write_bytes(b"hidden")
    (scratch / "elsewhere").write_bytes(b"elsewhere")
    write_file(root / "c" / "hidden" / "f", PAGE)
    stack.enter_context(mounted(root / "b", "--bind", root / "a"))
    stack.enter_context(tmpfs(root / "c", 1 << 20))
    (root / "c" / "there").write_bytes(b"there")
    stack.enter_context(mounted(root / "file", "--bind", scratch / "elsewhere"))


def fill(directory: Path) -> None:
    """Make some files, of which one has two names."""
    for number in range(3):
        write_file(directory / "d" / f"f{number}", SIZE + number, seed=number)
    (directory / "d" / "same").hardlink_to(directory / "d" / "f0")
    (directory / "link").symlink_to("d/f1")


ROOTS: dict[str, Mounter] = {
    "overlay-one-disk": layers(two=False),
    "overlay-two-disks": layers(),
    "overlay-two-disks-xino": layers("xino=on"),
    "overlay-metacopy": layers("metacopy=on", "redirect_dir=on"),
    "overlay-on-subvolumes": layers_on_subvolumes,
    "overlay-of-overlay": nested_layers,
    "subvolumes": subvolumes,
    "one-subvolume": a_subvolume,
    "binds": binds,
}


@contextmanager
def made(daemon: Daemon, scratch: Path, mounter: Mounter) -> Iterator[None]:
    with ExitStack() as stack:
        scratch.mkdir()
        mounter(daemon.root, scratch, stack)
        yield


@pytest.mark.parametrize("kind", ROOTS)
def test_every_command_works_on_the_same_files(daemon: Daemon, disk_dir: Path, kind: str) -> None:
    with made(daemon, disk_dir / "scratch", ROOTS[kind]):
        check_all_agree(daemon)


@pytest.mark.parametrize("kind", ["overlay-two-disks", "subvolumes"])
def test_damage_is_found_on_layers_and_subvolumes(
    daemon: Daemon, disk_dir: Path, kind: str
) -> None:
    with made(daemon, disk_dir / "scratch", ROOTS[kind]):
        victim, gone = sorted(own_files(daemon.root)[0])[:2]
        manifest = build(daemon).id
        os.sync()
        flip(daemon.root / victim, 1)
        (daemon.root / gone).unlink()
        found = verify(daemon, manifest)
        assert not found["ok"]
        findings = {each["path"]: each["finding"] for each in found["findings"]}
        assert findings[gone] == "missing"
        assert victim in findings
        text = daemon.cli("manifest", "verify", manifest)
        assert text.returncode == DIFFERENT
        # A file that has the same numbers by chance is never taken for one of an earlier manifest.
        assert build(daemon).lines[os.fsencode(victim)]["xxh64"] == digest(daemon.root / victim)


class TestResidencyOnLayers:
    @pytest.mark.parametrize(
        "kind", ["overlay-one-disk", "overlay-two-disks", "overlay-of-overlay"]
    )
    def test_pages_are_seen_dropped_and_loaded(
        self, daemon: Daemon, disk_dir: Path, kind: str
    ) -> None:
        with made(daemon, disk_dir / "scratch", ROOTS[kind]):
            paths = [daemon.root / name for name in sorted(own_files(daemon.root)[0])]
            os.sync()
            with ExitStack() as stack:
                for path in paths:
                    stack.enter_context(pinned(path))
                result, _ = dump(daemon)
            assert result["method"] == "mincore"
            assert result["bytes"] > 0
            daemon.run(EVICTIONS, {"paths": [str(daemon.root)]})
            assert not any(resident_pages(path) for path in paths)
            loaded = daemon.run(LOADS, {})
            assert (loaded["missing"], loaded["recall"]) == (0, 1)
            assert loaded["loaded"] + loaded["already_resident"] == result["bytes"]

    def test_reading_leaves_the_pages_as_they_were(self, daemon: Daemon, disk_dir: Path) -> None:
        """A build that believed cachestat dropped what others had in memory."""
        with made(daemon, disk_dir / "scratch", ROOTS["overlay-two-disks"]):
            os.sync()
            path = daemon.root / "d" / "f1"
            evict(path)
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                os.pread(file.fileno(), 1, 2 * PAGE)
                before = resident_pages(path)
                assert before == {2}
                build(daemon, path=str(path.parent))
                assert resident_pages(path) == before

    def test_a_layer_in_memory_keeps_its_pages_and_it_is_said(
        self, daemon: Daemon, disk_dir: Path
    ) -> None:
        with made(daemon, disk_dir / "scratch", layers(upper_tmpfs=True)):
            check = daemon.root / "upper-only"
            os.sync()
            result = daemon.run(EVICTIONS, {"paths": [str(daemon.root)]})
            assert result["retained"] >= page_count(check) * PAGE
            names = {Path(each["path"]).name for each in result["retained_files"]}
            assert "upper-only" in names


class TestFuse:
    @pytest.fixture(params=["cached", "direct", "passthrough"])
    def mode(self, daemon: Daemon, disk_dir: Path, request: pytest.FixtureRequest) -> Iterator[str]:
        """Serve two files as a root, and answer where the kernel keeps their pages."""
        mode: str = request.param
        for number in range(2):
            write_file(disk_dir / "source" / f"f{number}", SIZE, seed=number)
        os.sync()
        with fuse(daemon.root, disk_dir / "source", mode):
            yield mode

    def test_residency_is_true_or_refused(self, daemon: Daemon, mode: str) -> None:
        path = daemon.root / "f0"
        if mode == "direct":
            found = daemon.http.get(SHOW).json()
            assert "FUSE" in found["unavailable"][0]["detail"]
            for url, body in (
                (DUMPS, {}),
                (EVICTIONS, {"paths": [str(daemon.root)]}),
            ):
                operation = daemon.finish(daemon.start(url, body))
                assert operation["state"] == "failed"
                assert "FUSE" in operation["error"]["detail"]
            return
        with pinned(path, [1, 3]):
            held = resident_pages(path)
            (report,) = daemon.http.get(SHOW).json()["reports"]
            assert report["total"]["files"] == 2
            shown = {Path(each["path"]).name: each["resident"] for each in report["files"]}
            assert shown["f0"] == len(held) * PAGE
            assert dump(daemon)[1].pages[b"f0"] == held
        result = daemon.run(EVICTIONS, {"paths": [str(path)]})
        # Advice does not pass through FUSE: what stays is reported.
        assert result["retained"] == len(resident_pages(path)) * PAGE
        assert (mode == "cached") == (result["retained"] == 0)
        loaded = daemon.run(LOADS, {})
        assert (loaded["missing"], loaded["recall"]) == (0, 1)
        assert held <= resident_pages(path)

    def test_manifests_are_true(self, daemon: Daemon, mode: str) -> None:
        for _ in range(2):
            built = build(daemon)
            assert built.result["reused_files"] == 0
            for name, line in built.lines.items():
                assert line.get("xxh64") == digest(daemon.root / os.fsdecode(name)), str(line)
            assert verify(daemon, built.id)["ok"]


class TestMountsInside:
    def test_they_are_named_in_text(self, daemon: Daemon, disk_dir: Path) -> None:
        with made(daemon, disk_dir / "scratch", binds):
            for command in (
                ("manifest", "build"),
                ("manifest", "verify"),
                ("pagecache", "dump"),
                ("pagecache", "evict", daemon.root),
                ("pagecache", "show"),
            ):
                done = daemon.cli(*command)
                assert done.returncode == 0, (command, done.stdout, done.stderr)
                (line,) = [
                    each for each in done.stdout.splitlines() if each.startswith("left out: ")
                ]
                assert line.startswith("left out: 3 mounts inside: ")
                for name in ("b", "c", "file"):
                    assert str(daemon.root / name) in line

    def test_what_is_in_one_is_refused_at_once(self, daemon: Daemon, disk_dir: Path) -> None:
        with made(daemon, disk_dir / "scratch", binds):
            before = daemon.http.get("/v1/operations").json()
            for path in ("b", "b/d/f1", "c", "c/there", "file"):
                named = str(daemon.root / path)
                for response in (
                    daemon.http.get(SHOW, params={"path": named}),
                    daemon.http.post(DUMPS, json={"path": named}),
                    daemon.http.post(EVICTIONS, json={"paths": [named]}),
                    daemon.http.post(BUILDS, json={"path": named}),
                ):
                    assert response.status_code == 422, response.text
                    detail = response.json()["detail"]
                    assert "something else is mounted there (" in detail
                    assert detail.endswith("make it a root of its own.")
            assert daemon.http.get("/v1/operations").json() == before

    def test_a_subvolume_can_be_named(self, daemon: Daemon, disk_dir: Path) -> None:
        with made(daemon, disk_dir / "scratch", subvolumes):
            path = str(daemon.root / "two")
            built = build(daemon, path=path)
            assert built.result["files"] == len(own_files(daemon.root / "two")[0])
            assert verify(daemon, built.id)["ok"]
            assert daemon.run(DUMPS, {"path": path})["files_scanned"] > 0
            assert daemon.http.get(SHOW, params={"path": f"{path}/d"}).status_code == 200

    def test_what_a_later_mount_hides_is_missing(self, daemon: Daemon, disk_dir: Path) -> None:
        write_file(daemon.root / "kept", PAGE)
        write_file(daemon.root / "hidden" / "f", PAGE)
        manifest = build(daemon).id
        with tmpfs(daemon.root / "hidden", 1 << 20):
            found = verify(daemon, manifest)
        assert not found["ok"]
        assert {each["path"]: each["detail"] for each in found["findings"]} == {
            "hidden": "something else is mounted there now",
            "hidden/f": "something else is mounted there now",
        }

    def test_nothing_but_mounts_is_no_success(self, daemon: Daemon, disk_dir: Path) -> None:
        (daemon.root / "m").mkdir()
        with tmpfs(daemon.root / "m", 1 << 20) as place:
            (place / "f").write_bytes(b"x")
            text = daemon.cli("manifest", "build")
            assert "no file was recorded: all that is there was left out" in text.stdout
            operation = daemon.finish(daemon.start(BUILDS, {}))
            assert operation["outcome"] == "partial"
            text = daemon.cli("manifest", "verify")
            assert text.returncode == DIFFERENT
            assert "NOT OK" in text.stdout
            assert "nothing was verified" in text.stdout
            found = verify(daemon, operation["result"]["manifest"])
            assert not found["ok"]
            assert "1 name in the directory" in found["why"]
            assert daemon.finish(daemon.start(DUMPS, {}))["outcome"] == "partial"

    def test_an_empty_root_is_as_its_manifest(self, daemon: Daemon) -> None:
        found = verify(daemon, build(daemon).id)
        assert (found["ok"], found["why"]) == (True, None)


@pytest.mark.parametrize("seed", range(2))
def test_property_random_trees_with_random_mounts(
    daemon: Daemon, disk_dir: Path, seed: int
) -> None:
    """A tree of directories, links and files, in which things are mounted in places."""
    choose = random.Random(seed)
    scratch = disk_dir / "scratch"
    fill(scratch / "source")
    directories = [daemon.root]
    with ExitStack() as stack:
        for number in range(choose.randint(15, 30)):
            path = choose.choice(directories) / f"n{number}"
            match choose.randrange(8):
                case 0 | 1 | 2:
                    path.mkdir()
                    directories.append(path)
                case 3:
                    stack.enter_context(tmpfs(path, 1 << 20))
                    directories.append(path)
                case 4:
                    source = choose.choice([*directories, scratch / "source"])
                    stack.enter_context(mounted(path, "--bind", source))
                case 5:
                    path.write_bytes(b"hidden")
                    source = scratch / "source" / "d" / "f0"
                    stack.enter_context(mounted(path, "--bind", source))
                case 6:
                    path.symlink_to(choose.choice(directories))
                case _:
                    write_file(path, choose.randrange(2 * PAGE, 5 * PAGE), seed=number)
        check_all_agree(daemon)
