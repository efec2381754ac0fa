"""The states in which a power cut leaves a disk, from a log of its writes.

What was written before a flush is there. Of what was written since, any part may be, in any
order, and of each write any of its sectors: a disk only promises to write one of these whole.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.oracles.powerloss.sectors import NUMBER, SECTOR, Contents, Extent
from tests.oracles.powerloss.verdict import Judge, Scene
from tests.oracles.powerloss.writelog import writes

_EVERY_SUBSET = 7
"""Up to this many units of writing in an epoch, every subset is tried."""
_FEW = 8
"""With fewer writes in an epoch, most states are of torn ones."""
_MOST_SINGLE = 64
"""Up to this many units, any set of them may be what is there of a write."""


@dataclass(frozen=True)
class Change:
    """One write, with the numbers of what it wrote."""

    extent: Extent
    numbers: bytes
    durable: bool = False
    """Whether it is on the medium once it is done (FUA)."""


Epoch = Sequence[Change]
"""The writes between two flushes, in the order in which they were made."""

State = tuple[tuple[int, int, int], ...]
"""Parts of writes in the order of their effect: the write's index, its first sector, its end."""


def epochs(log: Path, contents: Contents) -> Sequence[Epoch]:
    """Read a log."""
    found: list[list[Change]] = [[]]
    with log.open("rb") as file:
        for write in writes(log):
            if write.flush:
                found.append([])
            if write.changes or (write.discard and write.length):
                file.seek(write.data_at)
                # A disk may return anything for what was discarded; zeros destroy as much.
                content = bytes(write.length) if write.discard else file.read(write.length)
                assert len(content) == write.length, f"{log} ends early"
                extent = Extent.of_bytes(write.offset, write.length)
                found[-1].append(Change(extent, contents.numbers(content), write.fua))
    return [epoch for epoch in found if epoch]


def replayed(before: bytes, log: Sequence[Epoch]) -> bytes:
    """Return the disk after all of a log."""
    disk = bytearray(before)
    for epoch in log:
        for change in epoch:
            _put(disk, change, 0, change.extent.end - change.extent.begin)
    return bytes(disk)


def _put(disk: bytearray, change: Change, begin: int, end: int) -> None:
    at = change.extent.begin
    part = change.numbers[begin * NUMBER : end * NUMBER]
    disk[(at + begin) * NUMBER : (at + end) * NUMBER] = part


@dataclass
class Report:
    """What the states of a log boot."""

    states: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    dead: list[str] = field(default_factory=list)
    """Of some dead states, which they are and why."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.verdicts.items()))
        return f"{self.states} states: {kinds}"


_DESCRIBED = 20


def check(
    scene: Scene,
    log: Sequence[Epoch],
    contents: Contents,
    *,
    states: int,
    sector_bytes: int = SECTOR,
    seed: int = 0,
) -> Report:
    """Judge about that many different states of a log.

    Each prefix is one, and each write alone, missing and torn; the others are random.
    """
    report, choose = Report(), random.Random(seed)
    judge, disk = Judge(scene, contents), bytearray(scene.before)
    unit = sector_bytes // SECTOR
    left = states
    # The smallest first: what they cannot use is left for those that are large.
    budgets: dict[int, int] = {}
    order = sorted(range(len(log)), key=lambda number: _units(log[number], unit))
    for place, number in enumerate(order):
        budgets[number] = min(left // (len(order) - place), _most(log[number], unit))
        left -= budgets[number]
    for number, epoch in enumerate(log):
        base = bytes(disk)
        for state in _states(epoch, unit, budgets[number], choose):
            touched = []
            for index, begin, end in state:
                change = epoch[index]
                _put(disk, change, begin, end)
                at = change.extent.begin
                touched.append(Extent(at + begin, at + end))
            found = judge.verdict(touched, disk)
            report.states += 1
            report.verdicts[found.partition(":")[0]] += 1
            if found.startswith("dead") and len(report.dead) < _DESCRIBED:
                report.dead.append(f"epoch {number}, {_described(state, epoch)}: {found}")
            for extent in touched:
                begin, end = extent.begin * NUMBER, extent.end * NUMBER
                disk[begin:end] = base[begin:end]
        for change in epoch:
            _put(disk, change, 0, change.extent.end - change.extent.begin)
        judge.commit([change.extent for change in epoch], disk)
    return report


def _described(state: State, epoch: Epoch) -> str:
    parts = [f"{epoch[i].extent.begin + begin}+{end - begin}" for i, begin, end in state]
    return f"{len(state)} parts of {len(epoch)} writes: {' '.join(parts[:12])}"


def _units(epoch: Epoch, unit: int) -> int:
    return sum((change.extent.end - change.extent.begin) // unit for change in epoch)


def _most(epoch: Epoch, unit: int) -> int:
    """Return how many different states an epoch has, if these are few."""
    return 1 << min(_units(epoch, unit), 40)


def _states(epoch: Epoch, unit: int, count: int, choose: random.Random) -> Iterator[State]:
    """Yield different states, `count` if there are as many."""
    seen: set[int] = set()
    extents = sorted(change.extent for change in epoch)
    overlap = any(one.end > other.begin for one, other in pairwise(extents))
    tries = 8 * count
    for state in _candidates(epoch, unit, choose):
        key = hash(_canonical(state, overlap=overlap))
        if key not in seen:
            seen.add(key)
            yield state
        tries -= 1
        if len(seen) >= count or not tries:
            return


def _canonical(state: State, *, overlap: bool) -> State:
    """Return one form of all states that leave the same disk."""
    parts: list[tuple[int, int, int]] = []
    for index, begin, end in state if overlap else sorted(state):
        if parts and parts[-1][0] == index and parts[-1][2] == begin:
            parts[-1] = (index, parts[-1][1], end)
        else:
            parts.append((index, begin, end))
    return tuple(parts)


def _whole(epoch: Epoch, index: int) -> tuple[int, int, int]:
    return (index, 0, epoch[index].extent.end - epoch[index].extent.begin)


def _candidates(epoch: Epoch, unit: int, choose: random.Random) -> Iterator[State]:
    """Yield states for ever; the first ones are those that find most."""
    every = [_whole(epoch, index) for index in range(len(epoch))]
    if _units(epoch, unit) <= _EVERY_SUBSET:
        yield from _all_subsets(epoch, unit)
    for end in range(len(every) + 1):
        yield tuple(every[:end])
    for index in range(len(every)):
        needed = _durable(epoch, len(every))
        yield tuple(part for part in every if part[0] != index or part[0] in needed)
        alone = {*_durable(epoch, index), index}
        yield tuple(part for part in every if part[0] in alone)
    for index, _, end in every:
        others = tuple(part for part in every if part[0] != index)
        if end > unit and not epoch[index].durable:
            for at in (unit, end - unit):
                yield (*others, (index, 0, at))
                yield (*others, (index, at, end))
    few = len(every) < _FEW
    while True:
        end = choose.randrange(len(every) + 1)
        probability = choose.choice((0.05, 0.5, 0.95))
        torn = choose.choice((0.3, 1) if few else (0, 0, 0.1, 0.5))
        durable = _durable(epoch, end)
        parts: list[tuple[int, int, int]] = []
        for index in range(end):
            if index in durable:
                parts.append(every[index])
            elif choose.random() < probability:
                tear = choose.random() < torn
                parts += _torn(every[index], unit, choose) if tear else [every[index]]
        if choose.random() < 0.5 and not durable:
            choose.shuffle(parts)
        yield tuple(parts)


def _durable(epoch: Epoch, end: int) -> set[int]:
    return {index for index in range(end) if epoch[index].durable}


def _torn(
    part: tuple[int, int, int], unit: int, choose: random.Random
) -> Iterable[tuple[int, int, int]]:
    """Return some sectors of a write."""
    index, _, end = part
    count = end // unit
    if choose.random() < 0.5 or count > _MOST_SINGLE:
        first, last = sorted((_place(count, choose), _place(count, choose)))
        inner = (index, first * unit, last * unit)
        outer = ((index, 0, first * unit), (index, last * unit, end))
        return [range_ for range_ in choose.choice(((inner,), outer)) if range_[1] < range_[2]]
    return [(index, at * unit, (at + 1) * unit) for at in range(count) if choose.random() < 0.5]


def _place(count: int, choose: random.Random) -> int:
    """Choose a place in a write, more often one near its ends: tables are there."""
    near = min(count, int(2 ** choose.uniform(0, count.bit_length())) - 1)
    return choose.choice((near, count - near, choose.randrange(count + 1)))


def _all_subsets(epoch: Epoch, unit: int) -> Iterator[State]:
    sectors = [
        (index, at, at + unit)
        for index, change in enumerate(epoch)
        for at in range(0, change.extent.end - change.extent.begin, unit)
    ]
    durable = _durable(epoch, len(epoch))
    for chosen in range(1 << len(sectors)):
        parts = tuple(part for bit, part in enumerate(sectors) if chosen >> bit & 1)
        if durable <= {part[0] for part in parts}:
            yield parts
