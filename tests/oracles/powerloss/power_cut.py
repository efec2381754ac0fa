"""Leaves on a disk what a power cut leaves: what was flushed, and some of the other writes."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

from tests.oracles.powerloss.writelog import SECTOR, Write, writes

_TORN = 0.3


def cut(log: Path, disk: Path, until: int, choose: random.Random) -> str:
    """Write to a disk what is there after a cut behind `until` entries of a log; return a summary.

    Of the writes after the last flush `choose` decides one by one which are there, and which of
    these only in part.
    """
    listed = list(islice(writes(log), until))
    last = max((number for number, write in enumerate(listed) if write.flush), default=-1)
    lost = torn = 0
    probability = choose.choice((0.1, 0.5, 0.9))
    with log.open("rb") as source, disk.open("r+b") as target:
        for number, write in enumerate(listed):
            if not write.changes:
                continue
            begin, end = 0, write.length
            if number > last and not write.fua and choose.random() < probability:
                if write.length > SECTOR and choose.random() < _TORN:
                    begin, end = _torn(write, choose)
                    torn += 1
                else:
                    lost += 1
                    continue
            source.seek(write.data_at + begin)
            target.seek(write.offset + begin)
            target.write(source.read(end - begin))
    return f"{until} entries, {len(listed) - 1 - last} since the flush, {lost} lost, {torn} torn"


def _torn(write: Write, choose: random.Random) -> tuple[int, int]:
    at = choose.randrange(1, write.length // SECTOR) * SECTOR
    return choose.choice(((0, at), (at, write.length)))
