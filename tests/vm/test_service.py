"""holdfast as a service of a real machine: installed, booted, killed, hindered, and removed."""

from __future__ import annotations

import re

from tests.support.waiting import until
from tests.vm.conftest import Installed, Start
from tests.vm.guest import Guest
from tests.vm.machine import Machine
from tests.vm.pace import patience
from tests.vm.service import (
    FILE_MIB,
    SECONDS,
    first_pass,
    journal,
    metric,
    moments,
    readiness,
    started_at,
)

HOLDFAST = "/usr/bin/holdfast"
LATER = "2037-01-01T00:00:00"
SERVICES = {
    "holdfast.service": 2.3,
    "holdfast-helper.service": 3.1,  # it reads disks and modules to arm re-imaging
    "holdfast-warm.service": 1.0,
    "holdfast-dump.service": 1.0,
    "holdfast-dump-periodic.service": 1.0,
}
"""The units, and the exposure that systemd-analyze may find at most."""


def test_the_datastore_starts_warm_after_a_reboot(installed: Installed, shared: Machine) -> None:
    guest, cold = shared.guest, installed.control
    assert cold["read_bytes"] >= 0.99 * cold["hot_bytes"]

    warm = first_pass(guest)

    start = started_at(guest)
    print(
        f"\nfirst pass over {cold['hot_bytes'] >> 20} MiB: read {cold['read_bytes']} bytes "
        f"in {cold['seconds']:.2f} s without holdfast, {warm['read_bytes']} in "
        f"{warm['seconds']:.2f} s with it; the datastore started {installed.control_start:.1f} s "
        f"after the boot without, {start:.1f} s with it"
    )
    assert warm["read_bytes"] <= 0.01 * warm["hot_bytes"]
    (loaded,) = moments(guest, "holdfast-warm.service", "ActiveEnterTimestampMonotonic")
    assert 0 < loaded <= start * 1e6
    reported = journal(guest, "holdfast-warm.service", "datastore.service")
    order = [
        reported.index("% of the 32.0 MiB in dump"),
        reported.index("Finished holdfast-warm.service"),
        reported.index("Started datastore.service"),
    ]
    assert order == sorted(order), reported
    success = metric(
        guest, "holdfast_operation_last_success_timestamp_seconds", kind="pagecache.load"
    )
    assert success <= warm["started"]
    # As the machine went down: the datastore first, then what it left in memory, then the volume.
    before = journal(guest, "datastore.service", "holdfast-dump.service", "mnt-data.mount", boot=-1)
    order = [
        before.rindex("Stopped datastore.service"),
        before.rindex("Stopped holdfast-dump.service"),
        before.rindex("Unmounted mnt-data.mount"),
    ]
    assert order == sorted(order), before
    assert readiness(guest) == []
    assert guest.run("/bin/systemctl", "--failed", "--quiet", "--no-legend") == ""


def test_locked_down_and_still_able(shared: Machine) -> None:
    guest = shared.guest
    first_pass(guest)
    verified = guest.call(
        *("/usr/bin/systemd-analyze", "verify", "--man=no", "datastore.service"),
        *("holdfast-helper.socket", "holdfast-dump-periodic.timer", *SERVICES),
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    for unit, most in SERVICES.items():
        score = guest.run("/usr/bin/systemd-analyze", "security", "--no-pager", unit)
        found = re.search(rf"exposure level for {re.escape(unit)}: ([0-9.]+)", score)
        assert found is not None
        assert float(found[1]) <= most, score
    (pid,) = moments(guest, "holdfast.service", "MainPID")
    status = guest.run("/bin/cat", f"/proc/{pid}/status")
    assert re.search(r"^CapEff:\s+000000000000000c$", status, re.MULTILINE), status
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    # Into data, boot files and devices it cannot write, whatever capabilities it has.
    for path in ("/mnt/data/db/file", "/mnt/data/new", "/etc/x", "/boot/x", "/dev/nvme0n1"):
        done = guest.call(
            *("/usr/bin/nsenter", f"--target={pid}", "--mount", "--"),
            *("/usr/bin/setpriv", "--reuid=holdfast", "--regid=holdfast", "--clear-groups"),
            *("--inh-caps=+fowner,+dac_read_search", "--ambient-caps=+fowner,+dac_read_search"),
            *("/bin/dd", "if=/dev/zero", f"of={path}", "count=1", "conv=notrunc"),
        )
        assert done.returncode != 0, path
    # Nor is there anything for it to read of what is none of its business.
    for path in ("/etc/shadow", "/etc/shadow-", "/etc/ssh", "/var/log", "/root/.profile"):
        seen = guest.call("/usr/bin/nsenter", f"--target={pid}", "--mount", "/bin/cat", path)
        assert seen.returncode != 0, path
    # What it is for, it can do: files of another user's, and settings through the helper.
    dumped = guest.json(HOLDFAST, "pagecache", "dump", "--json")
    assert dumped["result"]["bytes"] >= FILE_MIB << 19
    assert dumped["result"]["skipped"] == {}, dumped
    built = guest.json(HOLDFAST, "manifest", "build", "--json")
    assert built["result"]["errors"] == 0
    somaxconn = guest.run("/bin/cat", "/proc/sys/net/core/somaxconn")
    guest.run(HOLDFAST, "tune", "apply", "cassandra", "--persist")
    assert guest.run("/bin/cat", "/proc/sys/vm/max_map_count").strip() == "1048575"
    assert "max_map_count" in guest.run("/bin/cat", "/etc/sysctl.d/90-holdfast.conf")
    guest.run(HOLDFAST, "tune", "rollback", "--to", "first")
    assert guest.run("/bin/cat", "/proc/sys/net/core/somaxconn") == somaxconn
    assert guest.call("/usr/bin/test", "-e", "/etc/sysctl.d/90-holdfast.conf").returncode == 1
    # The units for clients are no less able: this one is as the others are.
    guest.run("/bin/systemctl", "start", "holdfast-dump-periodic.service", seconds=SECONDS)


def test_killed_or_stuck_the_daemon_comes_back_and_goes_on(shared: Machine) -> None:
    guest = shared.guest
    (pid,) = moments(guest, "holdfast.service", "MainPID")
    operation = guest.run(HOLDFAST, "manifest", "build", "--no-wait", "--rate", "16MiB").strip()
    guest.run("/bin/kill", "-KILL", str(pid))
    pid = _restarted(guest, pid)
    done = guest.json(HOLDFAST, "op", "watch", operation, "--json", seconds=SECONDS)
    assert (done["id"], done["state"]) == (operation, "succeeded")
    assert "Main process exited, code=killed" in journal(guest, "holdfast.service")

    # Ended by another process than systemd, it comes back as well.
    guest.run("/bin/kill", "-TERM", str(pid))
    pid = _restarted(guest, pid)

    # Stopped, it answers nothing and feeds no watchdog.
    guest.sh(
        "mkdir -p /run/systemd/system/holdfast.service.d;"
        "printf '[Service]\\nWatchdogSec=8\\n' >/run/systemd/system/holdfast.service.d/w.conf;"
        "systemctl daemon-reload; systemctl restart holdfast",
        seconds=SECONDS,
    )
    (pid,) = moments(guest, "holdfast.service", "MainPID")
    guest.run("/bin/kill", "-STOP", str(pid))
    guest.sh("rm /run/systemd/system/holdfast.service.d/w.conf; systemctl daemon-reload")
    _restarted(guest, pid)
    assert "Watchdog timeout" in journal(guest, "holdfast.service")


def _restarted(guest: Guest, old: int) -> int:
    """Wait until systemd has started another daemon and it is ready; answer its process id."""

    def reported() -> int | None:
        shown = guest.run("/bin/systemctl", "show", "holdfast", "--property=ActiveState,MainPID")
        pid = moments(guest, "holdfast.service", "MainPID")[0]
        return pid if "ActiveState=active" in shown and pid not in (0, old) else None

    return until(reported, seconds=patience(SECONDS), what="the daemon's restart", interval=0.5)


def test_a_boot_goes_on_whatever_is_wrong_with_the_state(start: Start) -> None:
    with start(data_disk=False) as machine:
        _without_the_volume(machine.guest)
        machine.power_off()
    with start(options=["-rtc", f"base={LATER}"]) as machine:
        ahead = _with_the_clock_ahead(machine.guest)
        machine.power_off()
    with start() as machine:
        _full_and_damaged_and_behind(machine.guest, ahead)


def _without_the_volume(guest: Guest) -> None:
    """The daemon runs, reports that everywhere, and leaves the empty mount point alone."""
    assert guest.run("/bin/systemctl", "is-active", "multi-user.target").strip() == "active"
    assert guest.run("/bin/systemctl", "is-active", "holdfast.service").strip() == "active"
    (reported,) = readiness(guest)
    assert reported.startswith(
        "Root /mnt/data is not mounted, though /etc/fstab names it as a mount"
    )
    assert "a minimal state is kept in /var/lib/holdfast; mount the volume" in reported
    assert f"degraded: {reported}" in journal(guest, "holdfast.service")
    assert "there is no dump to load" in journal(guest, "holdfast-warm.service")
    assert not guest.sh("ls -A /mnt/data").strip()
    # A unit of the administrator's names a mount point as well as fstab does.
    checked = guest.sh(
        "mkdir -p /srv/data; printf '[Mount]\\nWhat=tmpfs\\nWhere=/srv/data\\n'"
        " >/etc/systemd/system/srv-data.mount;"
        "HOLDFAST_ROOTS=/srv/data holdfast config check; rm /etc/systemd/system/srv-data.mount"
    )
    assert "Root /srv/data is not mounted, though /etc/systemd/system/srv-data.mount" in checked


def _with_the_clock_ahead(guest: Guest) -> str:
    """The volume is back, and it is ten years later; answer a dump that is made then.

    At the end that dump is damaged and the volume is full.
    """
    assert guest.run("/bin/date", "+%Y").strip() == LATER[:4]
    # What was recorded before the volume went.
    assert first_pass(guest)["read_bytes"] == 0
    assert readiness(guest) == []
    made: str = guest.json(HOLDFAST, "pagecache", "dump", "--json")["result"]["dump"]
    guest.sh(
        "set -e; systemctl mask --runtime holdfast-dump.service holdfast-dump-periodic.timer;"
        f"systemctl stop holdfast; cd /mnt/data; truncate -s -20 .holdfast/dumps/{made}.*;"
        "fallocate -l $(($(df --output=avail -B1 . | tail -n 1) - 65536)) full; sync",
        seconds=SECONDS,
    )
    return made


def _full_and_damaged_and_behind(guest: Guest, ahead: str) -> None:
    """The volume is full, the newest dump is damaged, and the clock is years behind its time."""
    # The dump before that one is loaded.
    assert first_pass(guest)["read_bytes"] == 0
    (reported,) = readiness(guest)
    assert "The volume of /mnt/data/.holdfast is full" in reported
    assert f"degraded: {reported}" in journal(guest, "holdfast.service")
    shown = guest.json(HOLDFAST, "pagecache", "list", "--json")
    assert [save["id"] for save in shown["damaged"]] == [ahead]

    guest.sh("rm /mnt/data/full; systemctl restart holdfast", seconds=SECONDS)

    assert readiness(guest) == []
    made = guest.json(HOLDFAST, "pagecache", "dump", "--json")["result"]["dump"]
    newest = guest.json(HOLDFAST, "pagecache", "list", "--json")["dumps"][0]
    assert (newest["id"], newest["latest"]) == (made, True)


def test_upgraded_removed_and_purged(shared: Machine) -> None:
    guest = shared.guest
    guest.run(HOLDFAST, "token", "create", "ci")
    made = guest.json(HOLDFAST, "pagecache", "dump", "--json")["result"]["dump"]

    guest.run("/usr/bin/dpkg", "-i", "/mnt/seed/holdfast.deb", seconds=SECONDS)

    listed = guest.json(HOLDFAST, "pagecache", "list", "--json")["dumps"]
    assert made in [save["id"] for save in listed]
    assert "reserve_bytes" in guest.run("/bin/cat", "/etc/holdfast/holdfast.toml")
    assert "ci" in guest.run(HOLDFAST, "token", "list")

    guest.run("/usr/bin/dpkg", "--remove", "holdfast", seconds=SECONDS)

    assert moments(guest, "holdfast.service", "MainPID") == [0]
    assert guest.call("/usr/bin/test", "-e", "/usr/lib/holdfast").returncode == 1
    assert guest.call("/usr/bin/test", "-e", "/etc/holdfast/tokens.json").returncode == 0

    data = guest.sh("cd /mnt/data && find . | sort")
    guest.run("/usr/bin/dpkg", "--purge", "holdfast", seconds=SECONDS)

    assert guest.call("/usr/bin/test", "-e", "/etc/holdfast").returncode == 1
    assert guest.call("/usr/bin/test", "-e", "/var/lib/holdfast").returncode == 1
    assert guest.sh("cd /mnt/data && find . | sort") == data
    # What wanted holdfast does without it.
    guest.run("/bin/systemctl", "restart", "datastore.service", seconds=SECONDS)
