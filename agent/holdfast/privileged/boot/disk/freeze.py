"""Freezes a file system and thaws it at once, so that all of it is in its place on the disk.

GRUB replays no journal: it sees what is in place. fsync(2) puts metadata into the journal only,
freezing (ioctl_fsfreeze) empties the journal.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
# Thaws if this process ends or takes longer than 30 seconds: a frozen root stops everything. Not
# a fork of this process, which has threads; and all of it is in memory before it prints `ready`.
_WATCHDOG = """
import fcntl, select, signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
def thaw():
    try:
        fcntl.ioctl(int(sys.argv[1]), int(sys.argv[2]), 0)
    except OSError:
        pass
thaw()
sys.stdout.write("ready\\n")
sys.stdout.flush()
seconds = 30
while not select.select([0], [], [], seconds)[0]:
    thaw()
    seconds = 1
thaw()
"""


def settle(directory: Path) -> None:
    """Freeze and thaw the file system that holds a directory. Raises `OSError`.

    `EOPNOTSUPP` for one that cannot be frozen, `EPERM` without CAP_SYS_ADMIN.
    """
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Most of the work, while others can still write.
        os.sync()
        command = [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(place), str(_FITHAW)]
        with subprocess.Popen(  # noqa: S603 - a fixed program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[place]
        ) as watchdog:
            if watchdog.stdout is None or watchdog.stdout.readline() != b"ready\n":
                raise OSError(errno.ECHILD, "the watchdog of a freeze did not start")
            frozen = False
            try:
                fcntl.ioctl(place, _FIFREEZE, 0)
                frozen = True
            finally:
                if frozen:
                    _thaw(place)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from None
    finally:
        os.close(place)


def _thaw(place: int) -> None:
    try:
        fcntl.ioctl(place, _FITHAW, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:  # thawed by the watchdog
            raise
