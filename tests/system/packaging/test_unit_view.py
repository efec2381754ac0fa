"""What the daemon's unit lets it see: tried in a mount namespace made as the unit defines it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon.harness import clean_environment, dying_with_parent, run_cli
from tests.support.waiting import until

CHECKOUT = Path(__file__).parents[3]
SYSTEMD = CHECKOUT / "systemd"
CAPABILITIES = "+fowner,+dac_read_search"
HIDDEN = (
    "/etc/shadow", "/etc/shadow-", "/etc/gshadow-", "/etc/ssh", "/etc/ssl/private",
    "/etc/sudoers", "/var/backups", "/var/lib/dpkg", "/var/log", "/root/.profile", "/home",
    "/run/secrets", "/srv", "/opt", "/etc/unknown-to-this-test",
)  # fmt: skip
EXPOSURE = {"holdfast.service": 2.2, "holdfast-helper.service": 3.2, "holdfast-trial@.service": 2.9}


def directives(unit: str) -> list[tuple[str, str]]:
    """Return the assignments of a unit, in their order."""
    lines = (SYSTEMD / unit).read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return [(name, value) for name, value in pairs]


def words(unit: str, directive: str) -> list[str]:
    return [word for name, value in directives(unit) if name == directive for word in value.split()]


def setup(scratch: Path, data: Path) -> str:
    """Make a script that mounts what the unit has systemd mount, outer places first."""
    unit = "holdfast.service"
    old = scratch / "old"
    lines = [
        "set -e",
        f"mkdir -p {old} /var/lib/holdfast /run/holdfast /mnt/data",
        "touch /etc/unknown-to-this-test; mkdir -p /run/secrets",
        f"mount --bind {data} /mnt/data",
        f"mount --rbind / {old}",
        f"mount --make-rslave {old}",
    ]
    hidden = [word.split(":")[0] for word in words(unit, "TemporaryFileSystem")]
    hidden += ["/root", "/home"] if ("ProtectHome", "yes") in directives(unit) else []
    lines += [f"mkdir -p {place}; mount -t tmpfs none {place}" for place in hidden]
    for directive in ("BindReadOnlyPaths", "BindPaths"):
        for word in words(unit, directive):
            source = word.removeprefix("-").split(":")[0]
            lines.append(f"if [ -e {old}{source} ]; then bind {old} {source} {directive}; fi")
    # Where Python and the checkout of this test are, unlike the package's.
    for own in {CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)}:
        if any(own.is_relative_to(place) for place in hidden):
            lines.append(f"bind {old} {own} BindReadOnlyPaths")
    lines += [f"mount -o remount,ro,bind {place}" for place in hidden]
    lines += ["echo ready", "exec sleep infinity"]
    bind = (
        'bind() { src="$1$(realpath -m "$2")"; [ -e "$src" ] || src="$1$2";'
        ' if [ -d "$src" ]; then mkdir -p "$2"; else mkdir -p "$(dirname "$2")"; touch "$2"; fi;'
        ' mount --rbind "$src" "$2";'
        ' if [ "$3" = BindReadOnlyPaths ]; then'
        ' mount -o remount,ro,bind "$2" || true; fi; }'
    )
    return "\n".join([bind, *lines])


@pytest.fixture
def view(disk_dir: Path) -> Iterator[tuple[str, ...]]:
    """Give a command that runs another one as the unit runs the daemon, but for seccomp."""
    if os.geteuid() != 0:
        pytest.skip("mounts are root's")
    data = disk_dir / "data"
    (data / ".holdfast").mkdir(parents=True)
    (data / "file").write_text("theirs")
    (data / "file").chmod(0o600)
    os.chown(data / ".holdfast", 65534, 65534)
    scratch = disk_dir / "scratch"
    scratch.mkdir()
    # Its own copy of what the script adds to, so that nothing of the machine's changes.
    overlay = (
        "mount -t tmpfs none $0; for d in etc run var; do mkdir -p $0/$d/up $0/$d/work;"
        " mount -t overlay -o lowerdir=/$d,upperdir=$0/$d/up,workdir=$0/$d/work none /$d; done;"
    )
    script = overlay + setup(scratch, data)
    command = ["unshare", "--mount", "--propagation=private", "bash", "-c", script, str(scratch)]
    with subprocess.Popen(
        dying_with_parent(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        yield (
            "nsenter", f"--target={process.pid}", "--mount", "--",
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
            f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}",
            f"--bounding-set=-all,{CAPABILITIES}", "--",
        )  # fmt: skip
        process.kill()


def test_the_daemon_sees_what_it_needs_and_nothing_else(
    view: tuple[str, ...], disk_dir: Path
) -> None:
    def can_read(path: str) -> bool:
        script = '[ -d "$0" ] && [ -n "$(ls -A "$0")" ] || head -c 1 "$0"'
        done = subprocess.run([*view, "sh", "-c", script, path], capture_output=True, check=False)
        return done.returncode == 0

    assert [path for path in HIDDEN if can_read(path)] == []
    needed = ["/etc/passwd", "/etc/nsswitch.conf", "/mnt/data/file", "/usr/bin/env", "/sys/block"]
    assert [path for path in needed if not can_read(path)] == []
    done = subprocess.run([*view, "touch", "/etc/x", "/var/x"], capture_output=True, check=False)
    assert done.returncode != 0

    (disk_dir / "daemon").mkdir()
    os.chown(disk_dir / "daemon", 65534, 65534)
    socket = "/run/holdfast/holdfast.sock"
    environment = clean_environment(HOLDFAST_LISTEN="", HOLDFAST_SOCKET_MODE="0600")
    own = ("/run/holdfast", "/var/lib/holdfast")
    subprocess.run([*view[:4], "chown", "65534:65534", *own], check=True)
    serve = [*view, sys.executable, "-m", "holdfast", "serve", "--no-hints"]
    with subprocess.Popen(
        dying_with_parent(serve), env=environment, stderr=subprocess.PIPE, text=True
    ) as daemon:
        ask = (*view[:4], "curl", "-sS", "--unix-socket", socket)
        try:

            def ready() -> bool:
                assert daemon.poll() is None, daemon.stderr and daemon.stderr.read()
                done = subprocess.run(
                    [*ask, "http://holdfast/readyz"], capture_output=True, check=False
                )
                return done.returncode == 0

            until(ready, seconds=60, what="the daemon")

            def get(path: str, *options: str) -> dict[str, Any]:
                done = subprocess.run(
                    [*ask, *options, f"http://holdfast{path}"],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                found: dict[str, Any] = json.loads(done.stdout)
                return found

            assert get("/readyz")["status"] == "ready"
            node = get("/v1/node")
            assert all(root["exists"] for root in node["roots"]), node["roots"]
            built = get(
                "/v1/manifests",
                "-X", "POST", "-H", "Content-Type: application/json", "-H", "X-Holdfast: 1",
                "-d", "{}",
            )  # fmt: skip
            ended = get(f"/v1/operations/{built['id']}?wait=30")
            assert ended["state"] == "succeeded", ended
            assert ended["result"]["files"] == 1, ended
        finally:
            daemon.terminate()


@pytest.mark.parametrize("unit", EXPOSURE)
def test_exposure(unit: str) -> None:
    try:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SYSTEMD / unit)],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("systemd is not installed")
    found = re.search(
        rf"exposure level for {re.escape(unit).replace('@', '@i?')}: ([0-9.]+)", done.stdout
    )
    if found is None:
        pytest.skip(f"this systemd-analyze cannot read files: {done.stderr}")
    assert float(found[1]) <= EXPOSURE[unit], done.stdout


class TestConfigCheck:
    """`config check` reports what the unit hides from the daemon, and who else can influence it."""

    @pytest.fixture
    def etc(self, disk_dir: Path) -> Iterator[tuple[str, ...]]:
        if os.geteuid() != 0:
            pytest.skip("mounts are root's")
        script = (
            "mount -t tmpfs none $0; mkdir $0/up $0/work;"
            " mount -t overlay -o lowerdir=/etc,upperdir=$0/up,workdir=$0/work none /etc;"
            f" mkdir -p /etc/systemd/system; cp {SYSTEMD}/holdfast.service /etc/systemd/system;"
            " echo ready; exec sleep infinity"
        )
        scratch = disk_dir / "scratch"
        scratch.mkdir()
        command = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, str(scratch)]
        with subprocess.Popen(
            dying_with_parent(command), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield ("nsenter", f"--target={process.pid}", "--mount", "--")
            process.kill()

    def test_hidden_paths_are_named_with_what_shows_them(
        self, etc: tuple[str, ...], disk_dir: Path
    ) -> None:
        config = disk_dir / "holdfast.toml"
        config.write_text(
            'roots = ["/srv/data"]\ntokens_file = "/etc/secrets/tokens.json"\n'
            '[reimage]\ncheck_command = ["/opt/check/run", "/etc/check"]\n'
            'ca_file = "/etc/ssl/certs/ours.pem"\n'
        )
        reported = run_cli("config", "check", "--config", config, wrapper=etc).stdout
        for key, path in (
            ("roots", "/srv/data"),
            ("tokens_file", "/etc/secrets/tokens.json"),
            ("reimage.check_command", "/opt/check/run"),
        ):
            assert f"`{key}` = {path} is hidden from holdfast.service" in reported
            assert f"`BindReadOnlyPaths=-{path}`" in reported
        assert "`ReadWritePaths=-/srv/data/.holdfast`" in reported
        assert "ours.pem" not in reported

        drop_in = (
            "[Service]\nBindReadOnlyPaths=-/srv/data \\\n -/etc/secrets:/etc/secrets:rbind\n"
            "BindReadOnlyPaths=/opt/check\nReadWritePaths=-/srv/data/.holdfast\n"
        )
        write = 'mkdir -p "$(dirname "$1")"; printf %s "$0" > "$1"'
        place = "/etc/systemd/system/holdfast.service.d/roots.conf"
        subprocess.run([*etc, "sh", "-c", write, drop_in, place], check=True)
        reported = run_cli("config", "check", "--config", config, wrapper=etc).stdout
        assert "holdfast.service" not in reported, reported

    def test_who_else_can_exchange_the_state_directory(
        self, etc: tuple[str, ...], disk_dir: Path
    ) -> None:
        root = disk_dir / "data"
        root.mkdir()
        config = disk_dir / "holdfast.toml"
        config.write_text(f'roots = ["{root}"]\n')

        def reported() -> str:
            return run_cli("config", "check", "--config", config, wrapper=etc).stdout

        assert "can be moved or replaced" not in reported()
        os.chown(root, 12345, 12345)
        assert f"{root}/.holdfast can be moved or replaced by others" in reported()
        assert "belongs to user 12345" in reported()
        assert "chown root:root" in reported()
        os.chown(root, 0, 12345)
        root.chmod(0o775)
        assert "can be written by others than its owner (mode 0775)" in reported()
        root.chmod(0o1777)
        assert "can be moved or replaced" not in reported()

    def test_what_an_unsigned_image_means(self, etc: tuple[str, ...], disk_dir: Path) -> None:
        config = disk_dir / "holdfast.toml"
        config.write_text("")
        done = run_cli("config", "check", "--config", config, wrapper=etc)
        assert "re-imaging is guarded by the daemon alone" in done.stderr
        config.write_text("[reimage]\nrequire_signature = true\n")
        done = run_cli("config", "check", "--config", config, wrapper=etc)
        assert "guarded by the daemon alone" not in done.stderr
        config.chmod(0o666)
        done = run_cli("config", "check", "--config", config, wrapper=etc)
        assert f"{config} is not root's alone, so the helper arms no re-imaging" in done.stdout
