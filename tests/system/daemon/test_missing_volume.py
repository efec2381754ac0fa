"""A root whose volume is missing, and that has left its empty mount point behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon.harness import Daemon, run_cli
from tests.support.machine.namespaces import Namespaces, own_namespaces

NOT_MOUNTED = "is not mounted, though /etc/fstab names it as a mount point"


class Volume:
    """A mount point, and what would be mounted there: a bind mount in namespaces of the test's."""

    def __init__(self, ns: Namespaces, directory: Path) -> None:
        self._ns = ns
        self._device = directory / "device"
        self._device.mkdir()
        self.point = directory / "volume"
        self.point.mkdir()
        self.wrapper = ns.wrapper
        ns.write("/etc/fstab", f"UUID=6f0a-77 {self.point} xfs nofail 0 0\n")

    def mount(self) -> None:
        self._ns.run("mount", "--bind", self._device, self.point)

    def vanish(self) -> None:
        """Go while it is in use, as when it is unmounted with force."""
        self._ns.run("umount", "--lazy", self.point)

    @property
    def below(self) -> list[Path]:
        """What is in the directory that the volume is mounted on."""
        return list(self.point.iterdir())

    @property
    def content(self) -> list[Path]:
        """What is on the volume."""
        return list(self._device.iterdir())


@pytest.fixture
def volume(disk_dir: Path) -> Iterator[Volume]:
    with own_namespaces(disk_dir / "scratch") as ns:
        yield Volume(ns, disk_dir)


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon], disk_dir: Path, volume: Volume) -> Daemon:
    """Give a daemon that was started without its volume."""
    return start_daemon(
        roots=[volume.point],
        state_dir=None,
        fallback_state_dir=str(disk_dir / "fallback"),
        wrapper=volume.wrapper,
    )


def reasons(daemon: Daemon) -> list[str]:
    """Why the daemon is not ready; nothing if it is."""
    response = daemon.http.get("/readyz")
    ready = "\nholdfast_ready 1.0\n" in daemon.http.get("/metrics").text
    assert ready == (response.status_code == 200)
    reported: list[str] = [] if ready else response.json()["reasons"]
    return reported


def test_the_daemon_says_so_and_leaves_the_directory_alone(
    daemon: Daemon, volume: Volume, disk_dir: Path
) -> None:
    (reported,) = reasons(daemon)
    assert reported.startswith(f"Root {volume.point} {NOT_MOUNTED}, so a minimal state is kept in ")
    assert f"degraded: {reported}" in daemon.log
    assert (disk_dir / "fallback/operations.sqlite3").exists()
    (root,) = daemon.http.get("/v1/node").json()["roots"]
    assert (root["exists"], root["devices"]) == (False, [])
    assert root["note"] == f"{volume.point} {NOT_MOUNTED}."
    assert NOT_MOUNTED in daemon.http.get("/v1/pagecache").json()["unavailable"][0]["detail"]
    # An empty manifest or dump would be a lie.
    for path, body in (
        ("/v1/manifests", {}),
        ("/v1/pagecache/dumps", {}),
        ("/v1/pagecache/evictions", {"paths": [str(volume.point)]}),
    ):
        response = daemon.http.post(path, json=body)
        assert response.status_code == 503, response.text
        assert NOT_MOUNTED in response.json()["detail"]
    assert not volume.below


def test_a_volume_that_comes_late_is_used_after_a_restart(daemon: Daemon, volume: Volume) -> None:
    volume.mount()
    (reported,) = reasons(daemon)
    assert "The data volume is there now" in reported
    assert "restart holdfast" in reported
    assert not volume.content

    daemon.stop()
    daemon.restart()

    assert reasons(daemon) == []
    assert [path.name for path in volume.content] == [".holdfast"]
    assert not volume.below
    assert daemon.http.post("/v1/manifests", json={}).status_code == 202

    volume.vanish()
    assert reasons(daemon) == [f"Root {volume.point} {NOT_MOUNTED}; mount the volume."]


def test_nothing_is_prepared_on_the_wrong_disk(volume: Volume, disk_dir: Path) -> None:
    config = disk_dir / "holdfast.toml"
    config.write_text(f'roots = ["{volume.point}"]\n')
    prepare = ("prepare", "--user", "nobody", "--config", config)

    done = run_cli(*prepare, wrapper=volume.wrapper)

    assert done.returncode == 0, done.stderr
    assert NOT_MOUNTED in done.stdout
    assert not volume.below
    checked = run_cli("config", "check", "--config", config, wrapper=volume.wrapper)
    assert f"Root {volume.point} {NOT_MOUNTED}; state would be kept in" in checked.stdout

    volume.mount()
    assert run_cli(*prepare, wrapper=volume.wrapper).returncode == 0
    assert [path.name for path in volume.content] == [".holdfast"]
