"""Queueing disciplines as text: `fq limit 10000`, `mq: fq limit 10000`, `default noqueue`.

A qdisc is its kind and its parameters in tc's words, amounts in tc's base units: bytes, packets,
bytes per second (`bps` to tc), microseconds (`us`). Below `mq:` stands what each queue has, or,
separated by `; `, what queues have by number. `default` marks what the kernel attached by itself
and would attach again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from holdfast.node.links import ShownQdisc
from holdfast.privileged.writes import EVERY, QDISC_FLAGS, QDISC_PARAMETERS, Qdisc

DEFAULT = "default"
_DROPS = "noop"
PER_QUEUE = frozenset({"fq", "fq_codel", "pfifo_fast", "pfifo", "bfifo"})
"""Kinds that serve one queue; on an interface with several, each gets one below mq."""

_RATES = frozenset({"rate", "maxrate", "low_rate_threshold"})
_TIMES = frozenset({"latency", "target", "interval", "ce_threshold", "horizon", "refill_delay"})
_NANOSECONDS = "timer_slack"
"""The only time that tc shows in nanoseconds."""
_BITS = {"": 1, "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
_BITS |= {"kibit": 2**10, "mibit": 2**20, "gibit": 2**30}
_BYTES_A_SECOND = {"bps": 1, "kbps": 10**3, "mbps": 10**6, "gbps": 10**9}
_SIZES = {"": 1, "b": 1, "k": 2**10, "kb": 2**10, "m": 2**20, "mb": 2**20, "g": 2**30, "gb": 2**30}
_SIZES |= {"kbit": 2**7, "mbit": 2**17, "gbit": 2**27}
_MICROSECONDS: dict[str, float] = {
    "": 1,
    "us": 1,
    "usec": 1,
    "usecs": 1,
    "ms": 10**3,
    "msec": 10**3,
}
_MICROSECONDS |= {"msecs": 10**3, "s": 10**6, "sec": 10**6, "secs": 10**6, "ns": 0.001}
_COUNTS = {"": 1, "p": 1}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")
# The kernel keeps these in ticks of its own and returns the rounded value.
_ROUNDED = frozenset({"burst", _NANOSECONDS, *_TIMES})
_TOLERANCE = 0.01
# What tc shows of a qdisc that its parameters do not set.
_FIXED: Mapping[str, frozenset[str]] = {
    "pfifo_fast": frozenset({"bands", "priomap", "multiqueue"}),
    "fq": frozenset({"bands", "priomap", "weights", "offload_horizon"}),
}
_RENAMED = {"lat": "latency"}
# What tc shows of each kind whatever was set: text with all of it was observed, and means all.
_WHOLE: Mapping[str, frozenset[str]] = {
    "fq": frozenset(
        {
            "limit",
            "flow_limit",
            "buckets",
            "orphan_mask",
            "quantum",
            "initial_quantum",
            "refill_delay",
        }
    ),
    "fq_codel": frozenset({"limit", "flows", "quantum", "target", "interval", "memory_limit"}),
}


class UnknownQdiscError(ValueError):
    """A qdisc that could not be restored; the message is a clause that states why."""


def desired(kind: str, parameters: Mapping[str, str], *, queues: int) -> str:
    """Write what a profile asks for. Raises `ValueError` with a clause."""
    text = _text(kind, {name: amount(kind, name, value) for name, value in parameters.items()})
    return f"mq: {text}" if queues > 1 and kind in PER_QUEUE else text


def observed(shown: Sequence[ShownQdisc], queues: int | None = None) -> str:
    """Write what an interface has that uses `queues` queues. Raises `UnknownQdiscError`."""
    root = next((qdisc for qdisc in shown if qdisc.root), None)
    if root is None:
        # Nothing is shown for an interface that is down and was never given one.
        return f"{DEFAULT} noop"
    if root.kind != "mq":
        return _shown(root)
    leaves = {
        int(qdisc.parent.rpartition(":")[2], 16): _shown(qdisc)
        for qdisc in shown
        # Below a root that the kernel attached, tc writes the parent as `:1`.
        if qdisc.parent.rpartition(":")[0] == ("" if root.handle == "0:" else root.handle[:-1])
        and qdisc.parent
    }
    prefix = f"{DEFAULT} " if root.handle == "0:" else ""
    if not prefix:
        # A queue whose leaf was taken away drops everything, and tc shows nothing of it.
        for number in range(1, 1 + max([queues or 0, *leaves])):
            leaves.setdefault(number, _DROPS)
    if not leaves or (prefix and all(leaf.startswith(f"{DEFAULT} ") for leaf in leaves.values())):
        kinds = {leaf.split()[1] for leaf in leaves.values()}
        below = f": {leaves[min(leaves)].removeprefix(DEFAULT + ' ')}" if len(kinds) == 1 else ""
        return f"{prefix}mq{below}"
    if len(set(leaves.values())) == 1:
        return f"{prefix}mq: {leaves[min(leaves)]}"
    return f"{prefix}mq: " + "; ".join(f"{number} {leaves[number]}" for number in sorted(leaves))


def parse(text: str) -> tuple[Qdisc | None, dict[int, Qdisc | None]]:
    """Read the text back: the root and what is below it; None for what the kernel attaches."""
    if text.startswith(f"{DEFAULT} "):
        return None, {}
    head, colon, rest = text.partition(": ")
    if not colon:
        return _qdisc(text), {}
    return _qdisc(head), dict(_leaves(rest))


def covers(wanted: str, found: str) -> bool:
    """Whether all that is wanted is found: the kinds, and each stated parameter.

    What was observed once is wanted as a whole: what it does not have must not be there either.
    """
    if wanted.startswith(f"{DEFAULT} "):
        # Which one that is, is the kernel's choice, and another when the interface goes up.
        return found.startswith(f"{DEFAULT} ")
    found = found.removeprefix(f"{DEFAULT} ")
    root, leaves = parse(wanted)
    has_root, has_leaves = parse(found)
    if root is None or has_root is None or not _includes(root, has_root):
        return False
    for number, leaf in leaves.items():
        below = (
            has_leaves.values()
            if number == EVERY
            else [has_leaves.get(number, has_leaves.get(EVERY))]
        )
        if not below or not all(_alike(leaf, qdisc) for qdisc in below):
            return False
    return True


def _alike(wanted: Qdisc | None, found: Qdisc | None) -> bool:
    if wanted is None or found is None:
        return wanted is found
    return _includes(wanted, found)


def _includes(wanted: Qdisc, found: Qdisc) -> bool:
    whole = _WHOLE.get(wanted.kind)
    if whole is not None and whole <= wanted.parameters.keys() != found.parameters.keys():
        return False
    return wanted.kind == found.kind and all(
        name in found.parameters and _near(name, value, found.parameters[name])
        for name, value in wanted.parameters.items()
    )


def _near(name: str, wanted: str, found: str) -> bool:
    if wanted == found or name not in _ROUNDED:
        return wanted == found
    left, right = (int(_AMOUNT.match(text)[1]) for text in (wanted, found))  # type: ignore[index]
    return abs(left - right) <= max(1, _TOLERANCE * left)


def amount(kind: str, name: str, text: str) -> str:
    """Write an amount in base units: `10mbit` is `1250000bps`. Raises `ValueError`."""
    if name in QDISC_FLAGS:
        return ""
    match = _AMOUNT.fullmatch(text)
    unit = match[2].lower() if match else ""
    table, suffix = _units(kind, name, unit)
    if match is None or unit not in table:
        raise ValueError(f"`{name}` cannot be {text!r}")
    value = float(match[1]) * table[unit]
    if name in _RATES and unit in _BITS:
        value /= 8
    return f"{round(value)}{suffix}"


def _units(kind: str, name: str, unit: str) -> tuple[Mapping[str, float], str]:
    if name in _RATES:
        return (_BYTES_A_SECOND if unit in _BYTES_A_SECOND else _BITS), "bps"
    if name in _TIMES:
        return _MICROSECONDS, "us"
    if name == _NANOSECONDS:
        return {unit: 1000 * factor for unit, factor in _MICROSECONDS.items()}, "ns"
    if name == "limit" and kind in ("fq", "fq_codel", "pfifo"):
        return _COUNTS, ""
    return _SIZES, ""


def _text(kind: str, parameters: Mapping[str, str]) -> str:
    words = [kind]
    for name, value in parameters.items():
        words += [name, value] if value else [name]
    return " ".join(words)


def _shown(qdisc: ShownQdisc) -> str:
    prefix = f"{DEFAULT} " if qdisc.handle == "0:" else ""
    if qdisc.kind not in QDISC_PARAMETERS:
        if prefix:
            return f"{prefix}{qdisc.kind}"
        raise UnknownQdiscError(
            f"has a {qdisc.kind} qdisc that another program set up; holdfast cannot restore it"
        )
    return prefix + _text(qdisc.kind, dict(_parameters(qdisc)))


def _parameters(qdisc: ShownQdisc) -> Iterator[tuple[str, str]]:
    if qdisc.kind == "fq_codel" and "ecn" not in qdisc.options:
        yield "noecn", ""  # which tc shows by its absence, though the default is the other
    for shown_name, value in qdisc.options.items():
        name = _RENAMED.get(shown_name, shown_name)
        if name in _FIXED.get(qdisc.kind, ()):
            continue
        if name not in QDISC_PARAMETERS[qdisc.kind]:
            if qdisc.handle == "0:":
                continue
            raise UnknownQdiscError(
                f"has a {qdisc.kind} qdisc with {name!r} set, which holdfast cannot restore"
            )
        if value is None or isinstance(value, bool):
            yield from _flag(name, value is not False)
        elif isinstance(value, int | float):
            yield name, f"{round(value)}{_units(qdisc.kind, name, '')[1]}"
        else:
            yield name, amount(qdisc.kind, name, str(value))


def _flag(name: str, value: bool) -> Iterator[tuple[str, str]]:
    if name == "ecn":
        yield ("ecn" if value else "noecn"), ""
    elif name == "pacing":
        if not value:
            yield "nopacing", ""
    elif value:
        yield name, ""


def _leaves(text: str) -> Iterator[tuple[int, Qdisc | None]]:
    for part in text.split("; "):
        first, _, rest = part.partition(" ")
        number, words = (int(first), rest) if first.isdigit() else (EVERY, part)
        yield number, None if words.startswith(f"{DEFAULT} ") else _qdisc(words)


def _qdisc(text: str) -> Qdisc:
    kind, *words = text.split()
    parameters: dict[str, Any] = {}
    remaining = iter(words)
    for word in remaining:
        parameters[word] = "" if word in QDISC_FLAGS else next(remaining)
    # What is observed may be of any kind; what is to be written is checked where it is written.
    return Qdisc.model_construct(kind=kind, parameters=parameters)
