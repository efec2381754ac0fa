"""Says of a disk, in any state, which of three systems it boots: the old, the lifeboat, the new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tests.oracles.powerloss.loaded import Firmware
from tests.oracles.powerloss.sectors import (
    NUMBER,
    SECTOR,
    Contents,
    Extent,
    NotBootableError,
    Reader,
)

_REMEMBERED = 32
_GRANULE = 128


@dataclass(frozen=True)
class Lifeboat:
    """What a boot of the lifeboat has to load, and what it then needs of the disk."""

    kernel: bytes
    initramfs: bytes
    word: str
    """On the kernel's command line."""
    kept: Sequence[Extent] = ()
    """These must be as they were before the first write."""


@dataclass(frozen=True)
class Scene:
    """A re-imaging, as its judge knows it."""

    firmware: Firmware
    before: bytes
    """The whole disk before the first write, in a sector's numbers, as all disks here."""
    final: bytes
    """And after the last."""
    owned: Sequence[Extent] = ()
    """Parts that the old system does not read: the outcome record and the lifeboat's region."""
    spare: Sequence[Extent] = ()
    """Parts that the new system does not read: the lifeboat's region."""
    lifeboat: Lifeboat | None = None
    old_is_gone: bool = False
    """Whether it begins in the lifeboat: then the old system is not to come back."""


class Whole:
    """Whether all of a disk is as it is to be, but for some parts."""

    def __init__(self, wanted: bytes, but: Sequence[Extent], now: bytes | bytearray) -> None:
        self._wanted, self._but = wanted, but
        self._different: set[Extent] = set()
        self.commit(_granules([Extent(0, len(wanted) // NUMBER)], len(wanted) // NUMBER), now)

    def commit(self, touched: Iterable[Extent], now: bytes | bytearray) -> None:
        """Take these extents, whole granules, over into what every later state begins with."""
        for granule in touched:
            if self._same(granule, now):
                self._different.discard(granule)
            else:
                self._different.add(granule)

    def holds(self, touched: Sequence[Extent], now: bytes | bytearray) -> bool:
        """Return whether it is whole if only these granules differ from the last commit."""
        if not self._different <= set(touched):
            return False
        return all(self._same(granule, now) for granule in touched)

    def _same(self, granule: Extent, now: bytes | bytearray) -> bool:
        if granule.numbers_in(now) == granule.numbers_in(self._wanted):
            return True
        parts = granule.without(self._but)
        return all(part.numbers_in(now) == part.numbers_in(self._wanted) for part in parts)


def _granules(extents: Iterable[Extent], sectors: int) -> Sequence[Extent]:
    indexes = {
        index
        for extent in extents
        for index in range(extent.begin // _GRANULE, -(-extent.end // _GRANULE))
    }
    return [Extent(i * _GRANULE, min((i + 1) * _GRANULE, sectors)) for i in sorted(indexes)]


_T = TypeVar("_T")


@dataclass
class _Memory(Generic[_T]):
    """Results of something that depends on nothing but the sectors that it reads."""

    compute: Callable[[Reader], _T]
    contents: Contents
    _known: dict[bytes, list[tuple[Sequence[tuple[Extent, bytes]], _T]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def of(self, disk: bytearray) -> _T:
        """Compute it of a disk, or return what the same sectors led to before."""
        # LBA 0 and 1, of 512 bytes or of 4096, decide more than all else.
        known = self._known[bytes(disk[: 2 * NUMBER] + disk[8 * NUMBER : 9 * NUMBER])]
        for place, (read, result) in enumerate(known):
            if all(extent.numbers_in(disk) == numbers for extent, numbers in read):
                if place:
                    known.insert(0, known.pop(place))
                return result
        reader = Reader(self.contents, disk)
        result = self.compute(reader)
        read = [(extent, bytes(extent.numbers_in(disk))) for extent in reader.extents]
        known.insert(0, (read, result))
        del known[_REMEMBERED:]
        return result


class Judge:
    """Judges states that are made by a few writes on top of one that is known."""

    def __init__(self, scene: Scene, contents: Contents) -> None:
        self.scene = scene
        self._contents = contents
        self._sectors = len(scene.before) // NUMBER
        self._old = Whole(scene.before, scene.owned, scene.before)
        self._new = Whole(scene.final, scene.spare, scene.before)
        self._loading = _Memory(self._not_lifeboat, contents)
        self._repairs = _Memory(scene.firmware.repairs, contents)

    def commit(self, touched: Iterable[Extent], now: bytearray) -> None:
        """Let later states begin with this disk."""
        granules = _granules(touched, self._sectors)
        self._old.commit(granules, now)
        self._new.commit(granules, now)

    def verdict(self, touched: Iterable[Extent], now: bytearray) -> str:
        """Return `old`, `lifeboat`, `new`, or `dead: ` and why.

        Only the extents in `touched` may differ from the last commit.
        """
        repairs = self._repairs.of(now)
        if repairs:
            now, touched = bytearray(now), [*touched]
            for begin, content in repairs.items():
                extent = Extent(begin, begin + len(content) // SECTOR)
                now[begin * NUMBER : extent.end * NUMBER] = self._contents.numbers(content)
                touched.append(extent)
        why = self._loading.of(now)
        if why is None:
            kept = self.scene.lifeboat.kept if self.scene.lifeboat else ()
            if all(
                evidence.numbers_in(now) == evidence.numbers_in(self.scene.before)
                for evidence in kept
            ):
                return "lifeboat"
            why = "the lifeboat boots, and its header or what it needs of the region is damaged"
        granules = _granules(touched, self._sectors)
        if not self.scene.old_is_gone and self._old.holds(granules, now):
            return "old"
        if self._new.holds(granules, now):
            return "new"
        return f"dead: {why}"

    def _not_lifeboat(self, disk: Reader) -> str | None:
        """Return why the disk does not boot a whole lifeboat; `None` if it does."""
        wanted = self.scene.lifeboat
        if wanted is None:
            return "neither system is whole"
        try:
            loaded = self.scene.firmware.load(disk)
        except NotBootableError as error:
            return str(error)
        if wanted.word not in loaded.words:
            return f"what boots is not the lifeboat: {' '.join(loaded.words)}"
        pairs: Mapping[str, tuple[bytes, bytes]] = {
            "kernel": (loaded.kernel, wanted.kernel),
            "initramfs": (loaded.initramfs, wanted.initramfs),
        }
        for name, (found, whole) in pairs.items():
            if found[: len(whole)] != whole or any(found[len(whole) :]):
                return f"the lifeboat's {name} is not whole"
        return None
