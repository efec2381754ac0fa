"""What blocks a shutdown, as the machine's own systemd-logind has it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.daemon.helper import helping

_LOGIND = "/lib/systemd/systemd-logind"
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""
_MACHINE = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/systemd/system
printf '%s' "$1" >/run/bus.conf
shift
list() {
    busctl --json=short call org.freedesktop.login1 /org/freedesktop/login1 \\
        org.freedesktop.login1.Manager ListInhibitors
}
dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile 2>/dev/null &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
/lib/systemd/systemd-logind 2>/dev/null &
until list >/dev/null 2>&1; do sleep 0.05; done
systemd-inhibit --what=shutdown:sleep --who=backup --why='a backup
runs' --mode=block sleep 1000 &
systemd-inhibit --what=shutdown --who=delayer --why=waits --mode=delay sleep 1000 &
systemd-inhibit --what=sleep --who=sleeper --why=sleeps --mode=block sleep 1000 &
until list | grep -q backup && list | grep -q delayer && list | grep -q sleeper; do sleep 0.05; done
exec "$@"
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path(_LOGIND).exists() or shutil.which("dbus-daemon") is None,
    reason="needs root, systemd-logind and dbus-daemon",
)


def test_only_what_blocks_a_shutdown_is_listed(tmp_path: Path) -> None:
    apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    machine = (*apart, "sh", "-c", _MACHINE, "sh", _BUS)
    with helping(tmp_path / "helper", wrapper=machine, user="root") as helper:
        answer = helper.ask({"do": "inhibitors"})
        (found,) = answer["inhibitors"]
        assert (found["who"], found["why"], found["uid"]) == ("backup", "a backup runs", 0)
        assert found["pid"] > 0


def test_where_logind_does_not_answer_nothing_is_taken_for_granted(tmp_path: Path) -> None:
    silent = 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/inhibit && exec "$@"'
    machine = ("unshare", "--mount", "sh", "-c", silent, "sh")
    with helping(tmp_path / "helper", wrapper=machine, user="root") as helper:
        answer = helper.ask({"do": "inhibitors"})
        assert answer["errno"]
        assert answer["file"] == "busctl"
    without = 'mount -t tmpfs tmpfs /run && exec "$@"'
    with helping(
        tmp_path / "other", wrapper=("unshare", "--mount", "sh", "-c", without, "sh"), user="root"
    ) as helper:
        assert helper.ask({"do": "inhibitors"}) == {"inhibitors": []}
