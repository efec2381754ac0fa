"""holdfast as a service of a real machine: installed, booted, killed, hindered, and removed."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.vm.conftest import FILE_MIB, Start
from tests.vm.guest import Guest
from tests.vm.machine import Machine
from tests.waiting import until

LATER = "2037-01-01T00:00:00"


def first_pass(machine: Machine) -> dict[str, Any]:
    """Wait for the datastore's first pass over its hot set, and answer what it cost."""

    def told() -> dict[str, Any] | None:
        done = machine.guest.call("/bin/cat", "/run/datastore.json")
        found: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
        return found

    found = until(told, seconds=240, what="the datastore's first pass", interval=1)
    assert found["hot_bytes"] == FILE_MIB << 19
    return found


def metric(guest: Guest, name: str, **labels: str) -> float:
    """Read a metric as Prometheus would: over TCP, without a token."""
    script = "import urllib.request as u;print(u.urlopen('http://127.0.0.1:9918/metrics').read().decode())"
    text = guest.run("/usr/bin/python3", "-c", script)
    shown = "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
    line = next(
        one for one in text.splitlines() if one.startswith(f"{name}{shown if labels else ''} ")
    )
    return float(line.rpartition(" ")[2])


def journal(guest: Guest, *units: str, boot: int = 0) -> str:
    """Read what units wrote, and what systemd wrote about them."""
    chosen = [f"--unit={unit}" for unit in units]
    return guest.run("/usr/bin/journalctl", f"--boot={boot}", "--output=cat", "--no-pager", *chosen)


def moments(guest: Guest, unit: str, *names: str) -> list[int]:
    """Read times of a unit, in µs since the boot."""
    shown = guest.run("/bin/systemctl", "show", unit, *(f"--property={name}" for name in names))
    values = dict(line.split("=", 1) for line in shown.splitlines())
    return [int(values[name]) for name in names]


def test_the_datastore_starts_warm_after_a_reboot(start: Start) -> None:
    with start() as machine:
        guest = machine.guest
        # The control: nothing was recorded yet, and the boot went on all the same.
        assert "there is no dump to load" in journal(guest, "holdfast-warm.service")
        cold = first_pass(machine)
        assert cold["read_bytes"] >= 0.99 * cold["hot_bytes"]

        machine.reboot()

        before = journal(
            guest, "datastore.service", "holdfast-dump.service", "mnt-data.mount", boot=-1
        )
        order = [
            before.index("Stopped datastore.service"),
            before.index("Stopped holdfast-dump.service"),
            before.index("Unmounted mnt-data.mount"),
        ]
        assert order == sorted(order), before
        warm = first_pass(machine)
        print(
            f"\nfirst pass over {cold['hot_bytes'] >> 20} MiB: read {cold['read_bytes']} bytes "
            f"in {cold['seconds']:.2f} s cold, {warm['read_bytes']} in {warm['seconds']:.2f} s warm"
        )
        assert warm["read_bytes"] <= 0.01 * warm["hot_bytes"]
        (loaded,) = moments(guest, "holdfast-warm.service", "ActiveEnterTimestampMonotonic")
        (started,) = moments(guest, "datastore.service", "ExecMainStartTimestampMonotonic")
        assert 0 < loaded <= started
        success = metric(
            guest,
            "holdfast_operation_last_success_timestamp_seconds",
            kind="pagecache.load",
        )
        assert success <= warm["started"]
        assert guest.run("/bin/systemctl", "--failed", "--quiet", "--no-legend") == ""


def test_killed_or_stuck_the_daemon_comes_back_and_goes_on(start: Start) -> None:
    with start() as machine:
        guest = machine.guest
        (pid,) = moments(guest, "holdfast.service", "MainPID")
        operation = guest.run(
            "/usr/bin/holdfast", "manifest", "build", "--no-wait", "--rate", "16MiB"
        ).strip()
        guest.run("/bin/kill", "-KILL", str(pid))
        until(
            lambda: moments(guest, "holdfast.service", "MainPID")[0] not in (0, pid),
            seconds=60,
            what="the restart",
            interval=0.5,
        )
        until(
            lambda: guest.call("/usr/bin/holdfast", "op", "list").returncode == 0,
            seconds=120,
            what="an answer after the restart",
            interval=0.5,
        )
        done = guest.json("/usr/bin/holdfast", "op", "watch", operation, "--json", seconds=180)
        assert done["state"] == "succeeded"
        assert "Main process exited, code=killed" in journal(guest, "holdfast.service")
        (restarted,) = moments(guest, "holdfast.service", "MainPID")
        assert restarted != pid

        # Stopped, it answers nothing and feeds no watchdog.
        guest.sh(
            "mkdir -p /run/systemd/system/holdfast.service.d;"
            "printf '[Service]\\nWatchdogSec=8\\n' >/run/systemd/system/holdfast.service.d/w.conf;"
            "systemctl daemon-reload; systemctl restart holdfast"
        )
        (stuck,) = moments(guest, "holdfast.service", "MainPID")
        guest.run("/bin/kill", "-STOP", str(stuck))

        def revived() -> bool:
            shown = guest.run(
                "/bin/systemctl", "show", "holdfast", "--property=ActiveState,MainPID"
            )
            return "ActiveState=active" in shown and f"MainPID={stuck}" not in shown

        until(revived, seconds=180, what="the restart of a daemon that hangs", interval=1)
        assert "Watchdog timeout" in journal(guest, "holdfast.service")


def test_a_boot_goes_on_whatever_is_wrong_with_the_state(start: Start) -> None:
    with start() as machine:
        first_pass(machine)
        # The only dump is damaged, the volume is full, and the clock is years ahead afterwards.
        machine.guest.sh(
            "holdfast pagecache dump; systemctl mask --runtime holdfast-dump.service;"
            "systemctl stop holdfast; cd /mnt/data/.holdfast;"
            'for one in dumps/*; do truncate -s -20 "$one"; done;'
            "free=$(df --output=avail -B1 /mnt/data | tail -n 1);"
            "fallocate -l $((free - 65536)) /mnt/data/full;"
            "dd if=/dev/zero of=/mnt/data/rest bs=4k || true; sync"
        )
        machine.power_off()
    with start(options=["-rtc", f"base={LATER}"]) as machine:
        guest = machine.guest
        assert guest.run("/bin/date", "+%Y").strip() == LATER[:4]
        assert first_pass(machine)["read_bytes"] > 0
        assert guest.run("/bin/systemctl", "is-active", "datastore.service").strip() == "active"
        shown = guest.json("/usr/bin/holdfast", "pagecache", "list", "--json")
        assert shown["dumps"] == []
        assert len(shown["damaged"]) == 1
        machine.power_off()


def test_a_boot_goes_on_without_the_data_volume(start: Start) -> None:
    with start(data_disk=False) as machine:
        guest = machine.guest
        assert guest.run("/bin/systemctl", "is-active", "holdfast.service").strip() == "active"
        told = journal(guest, "holdfast.service")
        assert "a minimal state is kept in /var/lib/holdfast; mount the volume" in told
        assert not guest.sh("ls -A /mnt/data").strip()
        assert metric(guest, "holdfast_build_info", version="0.1.0") == 1


def test_locked_down_and_still_able(start: Start) -> None:
    with start() as machine:
        guest = machine.guest
        first_pass(machine)
        (pid,) = moments(guest, "holdfast.service", "MainPID")
        status = guest.run("/bin/cat", f"/proc/{pid}/status")
        assert re.search(r"^CapEff:\s+000000000000000c$", status, re.MULTILINE), status
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        score = guest.run("/usr/bin/systemd-analyze", "security", "--no-pager", "holdfast.service")
        found = re.search(r"exposure level for holdfast.service: ([0-9.]+)", score)
        assert found is not None
        assert float(found[1]) <= 3.0, score
        # Into data, boot files and devices it cannot write, whatever capabilities it has.
        for path in ("/mnt/data/db/file", "/mnt/data/new", "/etc/x", "/boot/x", "/dev/nvme0n1"):
            done = guest.call(
                *("/usr/bin/nsenter", f"--target={pid}", "--mount", "--"),
                *("/usr/bin/setpriv", "--reuid=holdfast", "--regid=holdfast", "--clear-groups"),
                *("--inh-caps=+fowner,+dac_read_search", "--ambient-caps=+fowner,+dac_read_search"),
                *("/bin/dd", "if=/dev/zero", f"of={path}", "count=1", "conv=notrunc"),
            )
            assert done.returncode != 0, path
        # What it is for, it can do: files of another user's, and settings through the helper.
        dumped = guest.json("/usr/bin/holdfast", "pagecache", "dump", "--json")
        assert dumped["result"]["bytes"] >= FILE_MIB << 19
        built = guest.json("/usr/bin/holdfast", "manifest", "build", "--json")
        assert built["result"]["errors"] == 0
        somaxconn = guest.run("/bin/cat", "/proc/sys/net/core/somaxconn")
        guest.run("/usr/bin/holdfast", "tune", "apply", "cassandra", "--persist")
        assert guest.run("/bin/cat", "/proc/sys/vm/max_map_count").strip() == "1048575"
        assert "max_map_count" in guest.run("/bin/cat", "/etc/sysctl.d/90-holdfast.conf")
        guest.run("/usr/bin/holdfast", "tune", "rollback", "--to", "first")
        assert guest.run("/bin/cat", "/proc/sys/net/core/somaxconn") == somaxconn
        assert guest.call("/usr/bin/test", "-e", "/etc/sysctl.d/90-holdfast.conf").returncode == 1


def test_upgraded_removed_and_purged(start: Start) -> None:
    with start() as machine:
        guest = machine.guest
        guest.run("/usr/bin/holdfast", "token", "create", "ci")
        guest.run("/usr/bin/holdfast", "pagecache", "dump")
        before = guest.json("/usr/bin/holdfast", "pagecache", "list", "--json")["dumps"]

        guest.run("/usr/bin/dpkg", "-i", "/mnt/seed/holdfast.deb", seconds=300)

        assert guest.json("/usr/bin/holdfast", "pagecache", "list", "--json")["dumps"] == before
        assert "reserve_bytes" in guest.run("/bin/cat", "/etc/holdfast/holdfast.toml")
        assert "ci" in guest.run("/usr/bin/holdfast", "token", "list")

        guest.run("/usr/bin/dpkg", "--remove", "holdfast", seconds=120)

        assert guest.run("/bin/systemctl", "show", "holdfast", "--property=MainPID").strip() in (
            "MainPID=0"
        )
        assert guest.call("/usr/bin/test", "-e", "/usr/lib/holdfast").returncode == 1
        assert guest.call("/usr/bin/test", "-e", "/etc/holdfast/tokens.json").returncode == 0

        data = guest.sh("cd /mnt/data && find . | sort")
        guest.run("/usr/bin/dpkg", "--purge", "holdfast", seconds=120)

        assert guest.call("/usr/bin/test", "-e", "/etc/holdfast").returncode == 1
        assert guest.call("/usr/bin/test", "-e", "/var/lib/holdfast").returncode == 1
        assert guest.sh("cd /mnt/data && find . | sort") == data
