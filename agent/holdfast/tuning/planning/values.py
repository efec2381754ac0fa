"""When two texts are one value to the kernel, and to what it rounds a value.

The kernel prints a sysctl in one form whatever form was written: numbers in decimal, lists of
numbers as ranges, sets in an order of its own. It keeps some values in units coarser than those
they are written in. A rule of `rounded` names each: any other difference is a failure.
"""

from __future__ import annotations

import mmap
import re
import time
from collections.abc import Callable, Mapping
from functools import cache

_NUMBER = re.compile(r"-?(0[xX][0-9a-fA-F]+|[0-9]+)")
_RANGES = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_MASK = re.compile(r"[0-9a-fA-F]+(,[0-9a-fA-F]+)*")
_MASKS = re.compile(r"net\.core\.(flow_limit_cpu_bitmap|rps_default_mask)")
_USER_HZ = 100
_HASH_BUCKET = 8
"""Bytes of one bucket of the table of connections (hlist_nulls_head)."""


def number(text: str) -> int | None:
    """Read a number as the kernel does: 0x is hexadecimal, 0 octal. None if it is none."""
    if not _NUMBER.fullmatch(text):
        return None
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    try:
        if digits[:2].lower() == "0x":
            return sign * int(digits, 16)
        return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)
    except ValueError:  # an 8 or a 9 after a leading 0
        return None


def equal(name: str, one: str, other: str) -> bool:
    """Whether the kernel takes two values of a sysctl for the same."""
    left, right = one.split(), other.split()
    if left == right:
        return True
    if _MASKS.fullmatch(name):
        return _mask(one) == _mask(other) is not None
    if len(left) == len(right):
        pairs = zip(left, right, strict=True)
        if all(a == b or _same_number(a, b) for a, b in pairs):
            return True
    if len(left) == len(right) == 1 and (is_list(one) or is_list(other)):
        ranges = _members(one), _members(other)
        return ranges[0] == ranges[1] is not None
    return _is_set(left) and _is_set(right) and set(left) == set(right)


def rounded(name: str, value: str) -> str:
    """Return what the kernel keeps of a value of a sysctl; the value itself where all of it."""
    given = number(value)
    if given is None:
        return value
    for pattern, rule in _RULES.items():
        if pattern.fullmatch(name):
            return str(rule(given))
    return value


def is_list(text: str) -> bool:
    """Whether this is a list of numbers or ranges with more than one number."""
    return _RANGES.fullmatch(text) is not None and not text.isdecimal()


def _same_number(one: str, other: str) -> bool:
    value = number(one)
    return value is not None and value == number(other)


def _mask(text: str) -> int | None:
    return int(text.replace(",", ""), 16) if _MASK.fullmatch(text) else None


def _members(text: str) -> frozenset[tuple[int, int]] | None:
    """Return a list such as `7000-7001,9042` as its longest runs; None if it is no list."""
    if not _RANGES.fullmatch(text):
        return None
    runs: list[tuple[int, int]] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        runs.append((int(first), int(last or first)))
    joined: list[tuple[int, int]] = []
    for low, high in sorted(runs):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return frozenset(joined)


def _is_set(words: list[str]) -> bool:
    """Whether these are words, which the kernel keeps in no order: numbers always have one."""
    return len(words) > 1 and not any(_NUMBER.fullmatch(word) for word in words)


@cache
def ticks_a_second() -> int:
    """Return the frequency of the kernel's clock (HZ), which its coarse clock advances with."""
    return round(1 / time.clock_getres(getattr(time, "CLOCK_MONOTONIC_COARSE", 6)))


def _up(unit: int) -> Callable[[int], int]:
    return lambda value: -(-value // unit) * unit if value > 0 else value


def _milliseconds(value: int) -> int:
    """As proc_dointvec_ms_jiffies: up to whole ticks."""
    if value <= 0:
        return value
    ticks = -(-value * ticks_a_second() // 1000)
    return ticks * 1000 // ticks_a_second()


def _user_ticks(value: int) -> int:
    """As proc_dointvec_userhz_jiffies: down to whole ticks."""
    ticks = value * ticks_a_second() // _USER_HZ
    return ticks * _USER_HZ // ticks_a_second()


def _power_of_two(least: int) -> Callable[[int], int]:
    return lambda value: max(least, 1 << (value - 1).bit_length()) if value > 0 else value


_RULES: Mapping[re.Pattern[str], Callable[[int], int]] = {
    re.compile(pattern): rule
    for pattern, rule in (
        # The table is made of whole pages.
        (r"net\.netfilter\.nf_conntrack_buckets", _up(mmap.PAGESIZE // _HASH_BUCKET)),
        # Kept in ticks of the kernel's clock.
        (
            r"net\.ipv[46]\.neigh\..*_ms|net\.ipv[46]\.route\..*_ms"
            r"|net\.ipv6\.conf\..*\.mldv[12]_unsolicited_report_interval"
            r"|net\.ipv4\.conf\..*\.igmpv[23]_unsolicited_report_interval"
            r"|net\.ipv4\.icmp_ratelimit|net\.ipv6\.icmp\.ratelimit"
            r"|net\.ipv4\.tcp_invalid_ratelimit",
            _milliseconds,
        ),
        (
            r"net\.ipv[46]\.neigh\..*\.(anycast_delay|locktime|proxy_delay)"
            r"|net\.ipv4\.neigh\..*\.retrans_time",
            _user_ticks,
        ),
        # Powers of two.
        (r"fs\.pipe-max-size", _power_of_two(mmap.PAGESIZE)),
        (r"net\.core\.rps_sock_flow_entries", _power_of_two(1)),
        # A yes or no.
        (r"net\.bridge\.bridge-nf-(call|filter|pass)-.*", lambda value: int(value != 0)),
    )
}
