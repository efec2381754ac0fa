"""What `make` builds, installs and says where something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon.harness import clean_environment
from tests.support.machine.privileges import ordinary

__all__ = ["ordinary"]

CHECKOUT = Path(__file__).resolve().parents[3]


def test_help_lists_the_targets() -> None:
    done = subprocess.run(
        ["make", "help"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    targets = re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE)
    expected = {"help", "build", "demo", "run", "test", "check", "lint", "format", "bench", "clean"}
    assert expected <= set(targets)


def recipes(*arguments: str, **variables: str) -> list[str]:
    """Return the commands that `make` would run; nothing is run."""
    done = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(**variables),
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("target", ["build", "wheel", "deb", "test"])
def test_every_build_of_a_crate_has_the_same_flags(target: str) -> None:
    # As if a source had changed, so that the extension is built again.
    lines = recipes(f"--what-if={CHECKOUT / 'pyproject.toml'}", target, RUSTFLAGS="-C opt-level=2")
    lines += recipes("--always-make", target, RUSTFLAGS="-C opt-level=2")
    of_maturin = {
        found[1] for line in lines if (found := re.search(r"RUSTFLAGS='([^']*)'.*/maturin ", line))
    }
    assert len(of_maturin) == 1, of_maturin
    (flags,) = of_maturin
    assert flags.startswith("-C opt-level=2 --remap-path-prefix=")
    assert flags.count("=/holdfast") == 1


@pytest.fixture
def copied(disk_dir: Path) -> Path:
    """Give a checkout that looks built: its commands note that they were run in `ran`."""
    checkout = disk_dir / "checkout"
    checkout.mkdir()
    for name in ("Makefile", "pyproject.toml", "Cargo.toml", "Cargo.lock"):
        shutil.copy(CHECKOUT / name, checkout)
    for name in ("packaging", "rust"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("target"))
    commands = checkout / ".venv" / "bin"
    commands.mkdir(parents=True)
    (checkout / "agent" / "holdfast").mkdir(parents=True)
    (checkout / "agent" / "holdfast" / "_engine.abi3.so").touch()
    for name in ("maturin", "python", "python3"):
        (commands / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{checkout}/ran"\n')
        (commands / name).chmod(0o755)
    (checkout / ".venv" / "stamp").touch()
    (checkout / ".venv" / "built").touch()
    return checkout


def make(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=clean_environment(**variables),
    )


@pytest.mark.parametrize(
    "changed",
    ["rust/engine/src/lib.rs", "rust/imager/Cargo.toml", "Cargo.lock", "pyproject.toml"],
)
def test_what_has_not_changed_is_not_built_again(copied: Path, changed: str) -> None:
    done = make(copied, "build")
    assert done.returncode == 0, done.stderr
    assert not (copied / "ran").exists()
    later = (copied / ".venv" / "built").stat().st_mtime_ns + 10**9
    os.utime(copied / changed, ns=(later, later))
    assert make(copied, "build", "PYTHON=true").returncode == 0
    assert "maturin develop --release" in (copied / "ran").read_text()


def test_a_missing_extension_is_built(copied: Path) -> None:
    (copied / "agent" / "holdfast" / "_engine.abi3.so").unlink()
    assert make(copied, "build").returncode == 0
    assert "maturin develop --release" in (copied / "ran").read_text()


def test_a_missing_toolchain_is_named_before_anything_is_installed(copied: Path) -> None:
    (copied / ".venv" / "stamp").unlink()
    tools = tools_of_make(copied / "tools", "sed")
    done = make(copied, "build", PATH=str(tools))
    assert done.returncode == 2
    assert "holdfast: cargo is missing: install Rust" in done.stderr
    assert not (copied / "ran").exists()


@pytest.mark.parametrize("target", ["run", "demo"])
def test_a_missing_directory_is_named_before_anything_is_built(copied: Path, target: str) -> None:
    (copied / ".venv" / "built").unlink()
    done = make(copied, target, f"DATA={copied}/nope")
    assert done.returncode == 2
    assert f"holdfast: DATA={copied}/nope: there is no such directory" in done.stderr
    assert not (copied / "ran").exists()


def tools_of_make(directory: Path, *others: str) -> Path:
    """Make a directory for PATH with what scripts here need, and with `others`."""
    directory.mkdir()
    for name in ("bash", "make", "cat", "cut", "dirname", "find", "realpath", "sort", *others):
        path = shutil.which(name)
        assert path is not None, name
        (directory / name).symlink_to(path)
    return directory


@pytest.fixture
def packages(disk_dir: Path) -> list[Path]:
    """Give two lists that share a package, none of which is on any machine."""
    lists = [disk_dir / "one.txt", disk_dir / "two.txt"]
    lists[0].write_text("# Comment\nfirst-package no-such-command-1\nboth no-such-command-2\n")
    lists[1].write_text("both no-such-command-2\nthird-package /no/such/file\ncoreutils cat\n")
    return lists


@pytest.fixture
def tools(disk_dir: Path) -> Path:
    """Give a directory for PATH that an ordinary user may use, and add commands to."""
    disk_dir.chmod(0o755)
    directory = tools_of_make(disk_dir / "tools", "touch", "chmod")
    directory.chmod(0o777)
    return directory


def install_packages(
    tools: Path, ordinary: list[str], *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    # A copy where another user can read it.
    script = shutil.copy(CHECKOUT / "packaging" / "install-packages", tools.parent)
    environment = clean_environment(PATH=str(tools), **variables)
    if "CI" not in variables:
        environment.pop("CI", None)
    return subprocess.run(
        [*ordinary, tools / "bash", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment,
    )


def put_command(tools: Path, name: str, script: str) -> None:
    (tools / name).write_text(f"#!{tools}/bash\n{script}\n")
    (tools / name).chmod(0o755)


def test_packages_of_all_lists_are_asked_for_in_one_round(
    tools: Path, ordinary: list[str], packages: list[Path]
) -> None:
    asked = tools.parent / "asked"
    asked.touch()
    asked.chmod(0o666)
    put_command(tools, "apt-get", "exit 1")
    made = " ".join(str(tools / name) for name in ("no-such-command-1", "no-such-command-2"))
    put_command(tools, "sudo", f'echo "$*" >>{asked}; touch {made}; chmod 755 {made}')
    packages[1].write_text("both no-such-command-2\ncoreutils cat\n")
    done = install_packages(tools, ordinary, *packages)
    assert done.returncode == 0, done.stderr
    (line,) = asked.read_text().splitlines()
    assert line.endswith("install-packages --as-root both first-package")


@pytest.mark.parametrize("sudo", ["", "exit 1"], ids=["without sudo", "where sudo refuses"])
def test_an_ordinary_user_goes_on_without_packages_in_one_line(
    tools: Path, ordinary: list[str], packages: list[Path], sudo: str
) -> None:
    put_command(tools, "apt-get", "exit 1")
    if sudo:
        put_command(tools, "sudo", sudo)
    done = install_packages(tools, ordinary, "--or-skip", *packages)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "install-packages: tests are skipped that need these Debian packages: "
        "both first-package third-package"
    )
    assert len(done.stderr.splitlines()) == (2 if sudo else 1)


@pytest.mark.parametrize("variables", [{}, {"CI": "true"}], ids=["strict", "CI"])
def test_packages_that_must_be_there_are_named(
    tools: Path, ordinary: list[str], packages: list[Path], variables: dict[str, str]
) -> None:
    put_command(tools, "apt-get", "exit 1")
    option = ["--or-skip"] if variables else []
    done = install_packages(tools, ordinary, *option, *packages, **variables)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "install-packages: these Debian packages are needed: both first-package third-package",
        "install-packages: run as root: apt-get install --no-install-recommends "
        "both first-package third-package",
    ]


def unit_tests(
    tools: Path, ordinary: list[str], *tests: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run unit tests as an ordinary user who has no more commands than `tools` and sbin."""
    (tools.parent / "tmp").mkdir()
    (tools.parent / "tmp").chmod(0o777)
    environment = clean_environment(PATH=str(tools), TMPDIR=str(tools.parent / "tmp"), **variables)
    if "CI" not in variables:
        environment.pop("CI", None)
    return subprocess.run(
        [*ordinary, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        env=environment
        | {"PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_STORAGE_DIRECTORY": f"{tools.parent}/tmp"},
    )


NEED_A_PACKAGE = (
    "tests/unit/daemon/test_metrics.py::test_promtool_finds_nothing_wrong",
    "tests/unit/boot/test_parts.py::test_archives_are_what_cpio_unpacks",
)


@pytest.mark.timeout(400)  # a whole pytest of its own
def test_what_needs_a_missing_package_is_skipped_with_a_line(
    tools: Path, ordinary: list[str]
) -> None:
    done = unit_tests(tools, ordinary, *NEED_A_PACKAGE)
    if done.returncode == 126 or "Permission denied" in done.stderr:
        pytest.skip("other users cannot read this checkout")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^=.* 2 skipped in ", done.stdout, re.MULTILINE), done.stdout
    assert "needs `promtool` of the Debian package prometheus" in done.stdout
    assert "needs `cpio` of the Debian package cpio" in done.stdout
    for line in ("null device", "loop devices", "namespaces", "disk"):
        assert len(re.findall(rf"^{line}: \S", done.stdout, re.MULTILINE)) == 1


@pytest.mark.timeout(400)  # a whole pytest of its own
def test_nothing_is_skipped_for_a_package_in_ci(tools: Path, ordinary: list[str]) -> None:
    done = unit_tests(tools, ordinary, *NEED_A_PACKAGE, CI="true")
    if done.returncode == 126 or "Permission denied" in done.stderr:
        pytest.skip("other users cannot read this checkout")
    assert done.returncode == 1, done.stdout
    assert re.search(r"^=.* 2 failed in ", done.stdout, re.MULTILINE), done.stdout


def test_a_directory_of_administrators_is_in_the_path_of_children() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import tests.conftest, os; print(os.environ['PATH'])"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(PATH="/usr/bin:/bin"),
    )
    assert {"/usr/sbin", "/sbin"} <= set(done.stdout.strip().split(":"))
