"""Runs a command to which the kernel refuses system calls, as a container's seccomp profile does.

`python tests/support/machine/without.py NUMBER[,NUMBER…] COMMAND…`: each of them fails with EPERM,
for the command and everything that it starts. Needs no privilege, and cannot be undone.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_EPERM = 1
# linux/bpf_common.h and linux/seccomp.h
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_OFFSET_OF_NUMBER = 0  # in struct seccomp_data

IO_URING = (425, 426, 427)
"""io_uring_setup, io_uring_enter, io_uring_register: the same numbers on every architecture."""


class _Filter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filters", ctypes.POINTER(_Filter)))


def refusing(numbers: tuple[int, ...]) -> list[str]:
    """Make a command line that runs the command behind it without these system calls."""
    return [sys.executable, __file__, ",".join(map(str, numbers))]


def refuse(numbers: list[int]) -> None:
    """Have these system calls refused to this process from now on."""
    steps = [(_LOAD_WORD, 0, 0, _OFFSET_OF_NUMBER)]
    for nth, number in enumerate(numbers):
        # Forward over the other comparisons and the permission, to the refusal.
        steps.append((_JUMP_IF_EQUAL, len(numbers) - nth, 0, number))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    filters = (_Filter * len(steps))(*(_Filter(*step) for step in steps))
    program = _Program(len(steps), filters)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "prctl")


def main() -> None:
    """Refuse what the first argument names, and become the command."""
    refuse([int(number) for number in sys.argv[1].split(",")])
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
