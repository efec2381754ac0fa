"""What the daemon reports of its machine, where its own view of it is another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon.harness import Daemon
from tests.support.machine.mounts import ext4

MIB = 1 << 20
# What `ProtectSystem=strict` does to a unit: a view of its own, in which the volume is read-only.
_READ_ONLY_VIEW = """
mount -o remount,bind,ro "$1"
shift
exec "$@"
"""


def options_seen_by(process: str, point: Path) -> str | None:
    """Read the options of a mount, without those of its file system, as a process has them."""
    for line in Path("/proc", process, "mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == str(point):
            return fields[5]
    return None


def test_a_volume_is_shown_as_the_machine_has_it(
    disk_dir: Path, start_daemon: Callable[..., Daemon]
) -> None:
    with ext4(disk_dir / "volume", 16 * MIB) as volume:
        if options_seen_by("1", volume) is None:
            pytest.skip("the first process here has mounts of its own")
        view = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _READ_ONLY_VIEW)
        daemon = start_daemon(
            roots=[volume],
            state_dir=str(disk_dir / "state"),
            wrapper=(*view, "sh", str(volume)),
        )
        own = options_seen_by(str(daemon.pid), volume)
        assert own is not None
        assert own.split(",")[0] == "ro"
        (root,) = daemon.http.get("/v1/node").json()["roots"]
        assert root["mount_point"] == str(volume)
        assert root["options"].split(",")[0] == "rw"
        assert f"ext4 ({root['options']})" in daemon.cli("node").stdout
        daemon.stop()
