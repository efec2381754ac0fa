"""memcached keeps its items over a reboot of a machine that is set up as docs/memory.md has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.vm.conftest import Start
from tests.vm.guest import Guest
from tests.vm.memcached_items import ITEMS
from tests.vm.service import SECONDS, journal, readiness

_PROGRAM = Path(__file__).with_name("memcached_items.py").read_text()
_TMPFS = "tmpfs /mnt/memcached tmpfs size=192m,mode=0700,uid=memcache,gid=memcache,nosuid,nodev"
_SET_UP = f"""
set -e
echo '{_TMPFS},noexec 0 0' >>/etc/fstab
systemctl daemon-reload
mkdir -p /mnt/memcached
mount /mnt/memcached
printf '%s\\n' '-m 128' '-e /mnt/memcached/memory_file' >>/etc/memcached.conf
install -D -m 0644 /usr/share/holdfast/memcached.conf \
    /etc/systemd/system/memcached.service.d/50-holdfast.conf
install -D -m 0644 /usr/share/holdfast/memory.conf \
    /etc/systemd/system/holdfast.service.d/50-memory.conf
printf '[memory]\\nroots = ["/mnt/memcached"]\\n' >>/etc/holdfast/holdfast.toml
systemctl daemon-reload
systemctl restart holdfast
systemctl enable --quiet --now memcached
"""


def test_a_memcached_has_all_of_its_items_after_a_reboot(start: Start) -> None:
    with start() as machine:
        guest = machine.guest
        guest.sh(_SET_UP, seconds=SECONDS)
        _run(guest, "fill")
        before = _read(guest)
        assert len(before["items"]) == ITEMS
        boot = machine.boot_id

        machine.reboot()

        assert machine.boot_id != boot
        after = _read(guest)
        print(
            f"\nmemcached: {len(before['items']):,} items before the reboot, "
            f"{len(after['items']):,} after it; {after['get_hits']:,} hits, "
            f"{after['get_misses']:,} misses; {after['now'] - before['now']:.0f} s between"
        )
        saved, restored = (journal(guest, "memcached.service", boot=boot) for boot in (-1, 0))
        assert "saved" in saved, saved
        assert "restored" in restored, restored
        # A hit rate of 1.
        assert (after["get_hits"], after["get_misses"]) == (ITEMS, 0), saved + restored
        assert after["items"].keys() == before["items"].keys()
        for name, (flags, ends, digest) in before["items"].items():
            now_flags, now_ends, now_digest = after["items"][name]
            assert (now_flags, now_digest) == (flags, digest), name
            # Its life went on meanwhile, by memcached's clock of whole seconds.
            assert abs(now_ends - ends) <= 5, (name, ends, now_ends)
        # What had to end meanwhile has ended.
        assert after["short"] == 0
        assert readiness(guest) == []
        assert guest.run("/bin/systemctl", "--failed", "--quiet", "--no-legend") == ""


def _run(guest: Guest, verb: str) -> str:
    return guest.run("/usr/bin/python3", "-c", _PROGRAM, verb, seconds=SECONDS)


def _read(guest: Guest) -> dict[str, Any]:
    found: dict[str, Any] = guest.json("/usr/bin/python3", "-c", _PROGRAM, "read", seconds=SECONDS)
    return found
