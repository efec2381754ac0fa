"""The package and the wheel: what is in them, and that they work where there is nothing else.

`make deb` makes both; `make test` does so first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon.harness import clean_environment
from tests.support.disks.debian import CHECKOUT, SUITES, System, copy_of, make_systems
from tests.support.machine.ground import built, program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
# Libraries that are on every Debian, of libc6 and libgcc-s1.
COMMON = re.compile(r"(libc|libdl|libgcc_s|libm|libpthread|librt|ld-linux-[\w-]+)\.so\.\d")


@pytest.fixture(scope="module")
def package() -> Path:
    return built("holdfast_*.deb", "deb")


@pytest.fixture(scope="module")
def wheel() -> Path:
    return built("holdfast-*.whl", "wheel")


@pytest.fixture(scope="module")
def client_wheel() -> Path:
    return built("holdfast_client-*.whl", "wheel")


@pytest.fixture(scope="module")
def unpacked(package: Path) -> Iterator[Path]:
    """Give the package's files, and its control files in DEBIAN."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, "tree")
        subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
        yield tree


def files_of(tree: Path) -> list[Path]:
    return [path for path in tree.rglob("*") if path.is_file() and "DEBIAN" not in path.parts]


def test_lintian_has_neither_errors_nor_warnings(package: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", package],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


def test_what_is_in_the_package(package: Path, unpacked: Path) -> None:
    conffiles = (unpacked / "DEBIAN/conffiles").read_text().split()
    assert sorted(conffiles) == [
        "/etc/default/holdfast",
        "/etc/holdfast/holdfast.toml",
        "/etc/holdfast/profiles.d/README",
    ]
    units = {path.name for path in (CHECKOUT / "systemd").iterdir() if path.suffix != ".conf"}
    assert {path.name for path in (unpacked / "lib/systemd/system").iterdir()} == units
    for path in (
        "usr/share/bash-completion/completions/holdfast",
        "usr/share/zsh/vendor-completions/_holdfast",
        "usr/share/fish/vendor_completions.d/holdfast.fish",
        "usr/share/doc/holdfast/copyright",
    ):
        assert "holdfast" in (unpacked / path).read_text(), path
    page = subprocess.run(
        ["zcat", unpacked / "usr/share/man/man1/holdfast.1.gz"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert page.startswith(".TH ")
    assert "pagecache dump" in page

    # Nothing in places that belong to others, and nothing that belongs to a user.
    ours = re.compile(
        r"\./(usr/bin/holdfast|usr/lib/holdfast/.+|lib/systemd/system/holdfast[\w.@-]+"
        r"|etc/default/holdfast|etc/holdfast/.+|usr/share/(holdfast|doc/holdfast)/.+"
        r"|usr/share/.+/_?holdfast(\.\w+)*|usr/lib/sysusers\.d/holdfast\.conf)"
    )
    listing = subprocess.run(
        ["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True
    ).stdout
    for line in listing.splitlines():
        mode, owner, _size, _day, _time, name = line.split(maxsplit=5)
        assert owner == "root/root", line
        assert mode in {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}, line
        if not mode.startswith("d"):
            assert ours.fullmatch(name), line
        program = name in {"./usr/bin/holdfast", "./usr/lib/holdfast/imager/holdfast-imager"}
        assert (mode == "-rwxr-xr-x") == program, line


def test_nothing_tells_where_it_was_built(unpacked: Path) -> None:
    cargo = os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")
    places = [str(CHECKOUT).encode(), f"{cargo}/registry".encode()]
    # Libraries of others are as their authors built them.
    own = [file for file in files_of(unpacked) if "/python3." not in str(file)]
    assert len(own) > 100
    for path in own:
        content = path.read_bytes()
        assert [place for place in places if place in content] == [], path


def test_libraries_need_nothing_else(unpacked: Path) -> None:
    libraries = [file for file in files_of(unpacked) if file.suffix == ".so"]
    assert any(library_.name.startswith("_engine.") for library_ in libraries)
    for library in libraries:
        shown = subprocess.run(
            ["readelf", "--dynamic", library], capture_output=True, text=True, check=True
        ).stdout
        assert "RPATH" not in shown, library
        assert "RUNPATH" not in shown, library
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", shown)
        assert needed
        assert [name for name in needed if not COMMON.fullmatch(name)] == [], library


def test_the_wheel_in_an_environment_of_its_own(
    wheel: Path, client_wheel: Path, disk_dir: Path
) -> None:
    tag = re.search(r"-cp311-abi3-manylinux_2_(\d+)_\w+\.whl$", wheel.name)
    assert tag is not None, wheel.name
    assert int(tag[1]) <= 36, "Debian 12 has glibc 2.36"
    environment = disk_dir / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    constraints = CHECKOUT / "packaging/constraints.txt"
    wheels = (wheel, client_wheel)
    subprocess.run(
        [environment / "bin/pip", "install", "--quiet", "--constraint", constraints, *wheels],
        check=True,
        env=clean_environment(PIP_DISABLE_PIP_VERSION_CHECK="1"),
    )
    root = disk_dir / "root"
    root.mkdir()
    (root / "file").write_bytes(b"x" * 10_000)
    local = ("--local", "--root", root, "--state-dir", disk_dir / "state", "--json")

    def holdfast(*arguments: str | Path) -> str:
        done = subprocess.run(
            [environment / "bin/holdfast", *arguments],
            cwd=disk_dir,
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    version = wheel.name.split("-")[1]
    assert holdfast("--version").split() == ["holdfast", version]
    dumped = json.loads(holdfast("pagecache", "dump", *local))
    assert dumped["result"]["files"] == 1
    built = json.loads(holdfast("manifest", "build", *local))
    assert (built["result"]["files"], built["result"]["ok"]) == (1, 1)


@pytest.fixture(scope="module")
def systems() -> None:
    """Make sure that there are Debian systems."""
    if os.geteuid() != 0:
        pytest.skip("only root can install a package")
    program("mmdebstrap")
    make_systems()


@pytest.fixture(params=SUITES)
def debian(
    request: pytest.FixtureRequest, systems: None, package: Path, disk_dir: Path
) -> Iterator[System]:
    """Give a Debian with the package's file in /root, not installed."""
    with copy_of(request.param, disk_dir, [package]) as system:
        version = system.run("python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
        assert version.strip() == PYTHONS[request.param]
        yield system


def test_the_package_in_a_debian_with_nothing_else(debian: System) -> None:
    before = debian.run("dpkg-query", "--show")
    debian.sh("dpkg --install /root/holdfast_*.deb")
    assert "holdfast pagecache" in debian.run("holdfast", "--help")
    assert debian.run("stat", "--format=%U", "/etc/holdfast").strip() == "root"
    assert debian.run("id", "--name", "--user", "holdfast").strip() == "holdfast"
    for own in ("systemctl --version", "pip --version"):
        assert debian.call("sh", "-c", own).returncode == 127

    # On a disk: files in memory have no page cache of their own.
    debian.sh("mkdir -p /srv/data/db; head -c 300000 /dev/zero >/srv/data/db/file")
    local = "--local --root /srv/data --state-dir /srv/state --json"
    built = json.loads(debian.sh(f"holdfast manifest build {local}"))
    assert (built["result"]["files"], built["result"]["ok"]) == (1, 1)
    dumped = json.loads(debian.sh(f"holdfast pagecache dump {local}"))
    assert dumped["result"]["files"] == 1

    # The daemon, and what it reports of the machine.
    node = json.loads(
        debian.sh(
            "holdfast serve --root /srv/data --state-dir /srv/state --listen '' "
            "--socket /run/hf.sock >/run/log 2>&1 & pid=$!;"
            "export HOLDFAST_SOCKET=/run/hf.sock;"
            "until [ -S /run/hf.sock ]; do kill -0 $pid || { cat /run/log; exit 1; }; done;"
            "holdfast node --json; kill $pid; wait $pid"
        )
    )
    assert node["os_name"].startswith("Debian GNU/Linux 1")
    assert [root["root"] for root in node["roots"]] == ["/srv/data"]

    # Settings that the operator changed stay, until they are purged; data stays for ever.
    debian.sh("echo '# ours' >>/etc/holdfast/holdfast.toml; mkdir -p /var/lib/holdfast/x")
    debian.sh("dpkg --install /root/holdfast_*.deb")
    assert debian.run("tail", "-n", "1", "/etc/holdfast/holdfast.toml") == "# ours\n"
    debian.run("dpkg", "--remove", "holdfast")
    assert debian.call("test", "-e", "/usr/lib/holdfast").returncode == 1
    assert debian.run("tail", "-n", "1", "/etc/holdfast/holdfast.toml") == "# ours\n"
    debian.run("dpkg", "--purge", "holdfast")
    for gone in ("/etc/holdfast", "/etc/default/holdfast", "/var/lib/holdfast"):
        assert debian.call("test", "-e", gone).returncode == 1, gone
    assert debian.run("ls", "/srv/data/db", "/srv/state/manifests")
    assert debian.run("dpkg-query", "--show") == before


def test_a_purge_removes_a_lifeboat_that_is_armed(disk_dir: Path) -> None:
    text = (CHECKOUT / "packaging/debian/holdfast.postrm").read_text()
    script = re.sub(r" /(boot|etc|var)/", rf" {disk_dir}/\1/", text)
    assert script.count(str(disk_dir)) == 5
    files = [disk_dir / "boot/holdfast-lifeboat", disk_dir / "var/lib/holdfast-helper/lifeboat"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"blocks")
    if subprocess.run(["chattr", "+i", *files], check=False).returncode != 0:
        pytest.skip("files cannot be made immutable here")
    try:
        subprocess.run(["sh", "-c", script, "postrm", "remove"], check=True)
        assert all(file.exists() for file in files)
        subprocess.run(["sh", "-c", script, "postrm", "purge"], check=True)
        assert not any(file.exists() for file in files)
        assert not (disk_dir / "var/lib/holdfast-helper").exists()
    finally:
        left = [file for file in files if file.exists()]
        if left:
            subprocess.run(["chattr", "-i", *left], check=True)
