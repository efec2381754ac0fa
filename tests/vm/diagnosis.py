"""What a person wants to see of a machine in which a test failed."""

from __future__ import annotations

from tests.vm.guest import Guest, GuestError

_SECONDS = 60.0
_SCRIPT = """
systemctl is-system-running
systemctl list-jobs --no-pager
systemctl --failed --no-legend --plain --no-pager | while read -r unit rest; do
    echo "== $unit $rest"
    journalctl --boot --unit "$unit" --no-pager --lines 40
done
echo '== warnings of this boot'
journalctl --boot --priority warning --no-pager --lines 60
"""


def diagnosis(guest: Guest) -> str:
    """Return the failed units of a machine and their journal, or why there is none to be had."""
    guest.close()
    try:
        guest.wait(_SECONDS)
        return guest.sh(_SCRIPT, seconds=_SECONDS, check=False)
    except (GuestError, OSError) as error:
        return f"the machine cannot be asked: {error}"
