from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.node.storage.volumes import missing, on_missing_volume


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Give a machine that describes no mount."""
    (tmp_path / "system/etc").mkdir(parents=True)
    return tmp_path / "system"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "volumes/my data"
    root.mkdir(parents=True)
    return root


def unit_name(root: Path) -> str:
    # As systemd-escape --path writes it.
    return str(root).strip("/").replace("-", r"\x2d").replace("/", "-").replace(" ", r"\x20")


def booted(system: Path) -> None:
    (system / "run/systemd/system").mkdir(parents=True)


def add_unit(system: Path, directory: str, root: Path, content: str = "[Mount]\n") -> Path:
    file = system / directory / f"{unit_name(root)}.mount"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def want(system: Path, directory: str, root: Path) -> None:
    wants = system / directory / "local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / f"{unit_name(root)}.mount").symlink_to("../x")


def fstab(system: Path, *points: Path | str) -> None:
    lines = ["# a comment", "", "UUID=1 / ext4 defaults 0 1", "/swap none swap sw 0 0", "#x /x y"]
    escaped = [str(point).replace(" ", r"\040") for point in points]
    lines += [f"UUID=2\t{point}\txfs nofail" for point in escaped]
    (system / "etc/fstab").write_text("\n".join(lines) + "\n")


def test_a_directory_that_nobody_mounts_anything_on_is_there(system: Path, root: Path) -> None:
    assert missing(root, system) is None
    fstab(system)
    booted(system)
    assert missing(root, system) is None
    assert on_missing_volume(root / "not/there", system) is None


def test_what_is_no_directory(system: Path, root: Path) -> None:
    assert missing(root / "x", system) == "does not exist"
    (root / "x").touch()
    assert missing(root / "x", system) == "is not a directory"


def test_an_empty_mount_point_of_fstab_is_no_root(system: Path, root: Path) -> None:
    fstab(system, root)
    reported = "is not mounted, though /etc/fstab names it as a mount point"
    assert missing(root, system) == reported
    # Also by another name.
    link = system / "link"
    link.symlink_to(root)
    assert missing(link, system) == reported
    fstab(system, f"{link}/")
    assert missing(root, system) == reported
    # What is below it, or beside it, does not count.
    fstab(system, root / "below", root.with_name("my"))
    assert missing(root, system) is None


def test_a_root_within_a_volume_that_is_not_mounted(system: Path, root: Path) -> None:
    fstab(system, root.parent)
    reported = (
        f"is in {root.parent}, which is not mounted though /etc/fstab names it as a mount point"
    )
    assert missing(root, system) == reported
    assert on_missing_volume(root / "state", system) == reported


def test_the_innermost_mount_point_counts(system: Path, root: Path) -> None:
    fstab(system, "/proc", "/nowhere")
    assert missing(Path("/proc/self"), system) is None
    fstab(system, "/proc", "/proc/self")
    reported = missing(Path("/proc/self/fd"), system)
    assert reported is not None
    assert reported.startswith("is in /proc/")


@pytest.mark.parametrize("directory", ["etc/systemd/system", "run/systemd/generator"])
def test_a_unit_names_a_mount_point_where_systemd_runs(
    system: Path, root: Path, directory: str
) -> None:
    unit = add_unit(system, directory, root)
    assert missing(root, system) is None
    booted(system)
    reported = missing(root, system)
    assert reported == f"is not mounted, though /{directory}/{unit.name} names it as a mount point"


def test_a_unit_of_a_package_counts_once_it_is_wanted(system: Path, root: Path) -> None:
    booted(system)
    add_unit(system, "lib/systemd/system", root)
    assert missing(root, system) is None
    want(system, "etc/systemd/system", root)
    assert missing(root, system) is not None


@pytest.mark.parametrize("empty", [False, True])
def test_a_masked_unit_names_nothing(system: Path, root: Path, empty: bool) -> None:
    booted(system)
    add_unit(system, "usr/lib/systemd/system", root)
    want(system, "usr/lib/systemd/system", root)
    mask = add_unit(system, "etc/systemd/system", root, "")
    if not empty:
        mask.unlink()
        mask.symlink_to("/dev/null")
    assert missing(root, system) is None
    mask.unlink()
    assert missing(root, system) is not None
