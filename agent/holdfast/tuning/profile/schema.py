"""Which settings there are, and which values make sense for each, before any kernel is asked.

Ranges are those of the kernel's documentation (admin-guide/sysctl, block/queue-sysfs,
networking/ip-sysctl) for settings where a wrong number is refused or does harm; other sysctls are
checked against what the kernel has now, when a plan is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.privileged.writes import QDISC_FLAGS, QDISC_PARAMETERS
from holdfast.tuning.planning import values

_EXPRESSION = re.compile(r"\$\{[^{}]*\}")
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]+)?[A-Za-z%]*")
_INTEGER = re.compile(r"-?[0-9]+")
_UNLIMITED = "infinity"

ROLES = ("array", "array-member", "root-disk", "data-disk", "data-volume")
TYPES = ("disk", "partition", "dm", "md", "loop")
BUSES = ("nvme", "scsi", "virtio", "xen", "mmc")
SELECTORS: Mapping[str, Mapping[str, Any]] = {
    "block": {
        "role": ROLES,
        "type": TYPES,
        "bus": BUSES,
        "model": str,
        "serial": str,
        "mount": str,
        "backing_file": str,
        "rotational": bool,
    },
    "network": {"physical": bool, "driver": str, "name": str, "default_route": bool},
}
"""By which properties devices are selected: any of some words, a pattern, or a yes or no."""

PROFILE_QDISCS = ("fq", "fq_codel", "pfifo_fast", "pfifo", "bfifo", "tbf", "mq", "noqueue")

SYSCTL_RANGES: Mapping[str, tuple[int, int]] = {
    "vm.swappiness": (0, 200),
    "vm.overcommit_memory": (0, 2),
    "vm.zone_reclaim_mode": (0, 7),
    "vm.dirty_ratio": (0, 100),
    "vm.dirty_background_ratio": (0, 100),
    "vm.vfs_cache_pressure": (0, 10_000),
    "vm.max_map_count": (0, 2**31 - 1),
    "vm.watermark_scale_factor": (1, 3000),
    "kernel.numa_balancing": (0, 3),
    "net.core.somaxconn": (0, 2**31 - 1),
    "net.ipv4.tcp_tw_reuse": (0, 2),
    "net.ipv4.tcp_slow_start_after_idle": (0, 1),
    "net.ipv4.tcp_keepalive_time": (1, 32_767),
    "net.ipv4.tcp_keepalive_probes": (1, 127),
    "net.ipv4.tcp_keepalive_intvl": (1, 32_767),
    "net.ipv4.tcp_retries2": (0, 255),
    "net.ipv4.ip_local_port_range": (1, 65_535),
}


@dataclass(frozen=True)
class ValueRule:
    """What a value may be."""

    problem: Callable[[Any], str | None]
    """Returns what is wrong with a value as the file has it, or None."""


def rule_of(subsystem: str, name: str) -> ValueRule | None:
    """Return the rule for a setting; None if there is no such setting."""
    if subsystem == "sysctl":
        return ValueRule(lambda value: _sysctl_problem(name, value))
    if subsystem == "modules":
        return ValueRule(_text_problem) if re.fullmatch(r"[A-Za-z0-9_]+", name) else None
    return _RULES[subsystem].get(name)


def _number(low: int, high: int, *words: str) -> ValueRule:
    def problem(value: Any) -> str | None:
        if isinstance(value, str) and (value in words or _EXPRESSION.search(value)):
            return None
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        allowed = f"a number from {low} to {high}" + "".join(f' or "{word}"' for word in words)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            return f"should be {allowed}, not {value!r}"
        return None

    return ValueRule(problem)


def _word(*words: str) -> ValueRule:
    def problem(value: Any) -> str | None:
        if value in words:
            return None
        return f"should be one of {', '.join(words)}, not {value!r}"

    return ValueRule(problem)


def _pattern(pattern: str, what: str) -> ValueRule:
    def problem(value: Any) -> str | None:
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return None
        return f"should be {what}, not {value!r}"

    return ValueRule(problem)


def _text_problem(value: Any) -> str | None:
    if isinstance(value, bool | int):
        return None
    if not isinstance(value, str) or not value.strip():
        return f"should be a number or text, not {value!r}"
    if any(ord(character) < 32 and character != "\t" for character in value):
        return "has control characters"
    return None


def _sysctl_problem(name: str, value: Any) -> str | None:
    if isinstance(value, bool):
        return "should be a number or text; write 1 or 0"
    problem = _text_problem(value) if value != "" else None
    limits = SYSCTL_RANGES.get(name)
    if problem is not None or limits is None or _EXPRESSION.search(str(value)):
        return problem
    for field in str(value).split():
        given = values.number(field)
        if given is None or not limits[0] <= given <= limits[1]:
            return f"should be from {limits[0]} to {limits[1]}, not {value!r}"
    return None


def _qdisc_problem(value: Any) -> str | None:
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return 'should be a kind, such as "fq", or a table with `kind` and its parameters'
    kind = value["kind"]
    if kind not in PROFILE_QDISCS:
        return f"should be one of {', '.join(PROFILE_QDISCS)}, not {kind!r}"
    for name, given in value.items():
        problem = None if name == "kind" else _parameter_problem(kind, name, given)
        if problem is not None:
            return problem
    if kind != "tbf":
        return None
    if {"rate", "burst", "latency"} <= value.keys():
        return None
    return "needs `rate`, `burst` and `latency`, as in tc-tbf(8)"


def _parameter_problem(kind: str, name: str, given: Any) -> str | None:
    known = sorted(QDISC_PARAMETERS[kind])
    if name not in known:
        has = f"has {', '.join(known)}" if known else "has no parameters"
        return f"has `{name}`, which is no parameter of {kind}: it {has}"
    if name in QDISC_FLAGS:
        return (
            None if given is True else f"has a flag `{name}`; write {name} = true, or leave it out"
        )
    if isinstance(given, bool) or not isinstance(given, int | str):
        return f"has `{name}` = {given!r}; write a number, or text with a unit"
    if _EXPRESSION.search(str(given)) or _AMOUNT.fullmatch(str(given)):
        return None
    return f"has `{name}` = {given!r}, which is no amount"


_LIMIT = _number(0, 2**63 - 1, _UNLIMITED)
_RULES: Mapping[str, Mapping[str, ValueRule]] = {
    "block": {
        "scheduler": _pattern(r"[a-z][a-z0-9-]*", "the name of an I/O scheduler"),
        "read_ahead_kb": _number(0, 1 << 22),
        "nr_requests": _number(1, 1 << 20),
        "nomerges": _number(0, 2),
        "rq_affinity": _number(0, 2),
        "max_sectors_kb": _number(1, 1 << 22),
        "wbt_lat_usec": _number(-1, 10_000_000),
    },
    "network": {
        "qdisc": ValueRule(_qdisc_problem),
        "txqueuelen": _number(0, 1_000_000),
    },
    "memory": {
        "transparent_hugepages": _word("always", "madvise", "never"),
        "transparent_hugepages_defrag": _word(
            "always", "defer", "defer+madvise", "madvise", "never"
        ),
        "swap": _word("off"),
    },
    "limits": dict.fromkeys(("nofile", "nproc", "memlock", "as", "core", "stack"), _LIMIT),
}
NAMES: Mapping[str, tuple[str, ...]] = {
    **{subsystem: tuple(rules) for subsystem, rules in _RULES.items()},
    "sysctl": (),
    "modules": (),
}
"""The names of settings, where they are a closed list."""
