"""Which sysctls the kernel couples: what a write to one may change besides, and what excludes what.

What a write changed is observed, not looked up here; this names what to observe, and which settings
cannot both be what a profile wants.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.writes import Refused, sysctl_path
from holdfast.tuning.planning import values

_Without = Callable[[os.DirEntry[str]], bool]
_FORWARDING = ("net", "ipv4", "ip_forward")
_FAMILIES = (("net", "ipv4"), ("net", "ipv6"))
_TABLES = ("conf", "neigh")
_ALL = ("all", "default")
# Settings that the kernel moves by itself, so what is seen beside a write is no effect of it.
_MOVES = re.compile(
    r"kernel\.(ns_last_pid|tainted|hostname|domainname|(msg|sem|shm)_next_id"
    r"|perf_event_max_sample_rate|random\..*|keys\..*|pty\.nr|hung_task_warnings"
    r"|real-root-dev|ctrl-alt-del|init_private.*)"
    r"|fs\.(dentry-state|file-nr|inode-nr|inode-state|quota\..*|binfmt_misc\..*)"
    r"|net\.netfilter\.nf_conntrack_count|net\.ipv6\.conf\.[^.]+\.mtu"
)


@dataclass(frozen=True)
class Exclusion:
    """Two sysctls that cannot both be set."""

    one: str
    other: str
    alias: bool
    """They are two names of one setting; else setting one makes the other 0."""

    @property
    def reason(self) -> str:
        """Why, as a clause."""
        if self.alias:
            return "the kernel has two names for this one setting"
        return "when one is set the kernel makes the other 0"

    def excludes(self, one: str, other: str) -> bool:
        """Whether these two values cannot both be."""
        if self.alias:
            return not values.equal(self.one, one, other)
        return 0 not in (values.number(one), values.number(other))


_PAIRS = (
    ("vm.dirty_bytes", "vm.dirty_ratio"),
    ("vm.dirty_background_bytes", "vm.dirty_background_ratio"),
    ("vm.overcommit_kbytes", "vm.overcommit_ratio"),
)
_NAMES = (
    ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"),
    ("net.nf_conntrack_max", "net.netfilter.nf_conntrack_max"),
    ("vm.nr_hugepages", "vm.nr_hugepages_mempolicy"),
)
EXCLUSIONS = (
    *(Exclusion(*pair, alias=False) for pair in _PAIRS),
    *(Exclusion(*pair, alias=True) for pair in _NAMES),
)


def excluded_by(name: str, value: str) -> str | None:
    """Return the sysctl that becomes 0 when this one is set to a value; None for none."""
    for one, other in _PAIRS:
        if name in (one, other) and values.number(value) != 0:
            return other if name == one else one
    return None


def neighbours(name: str, base: Path) -> Iterator[str]:
    """Yield the sysctls that a write to one may change, by name, if they can be written back.

    That is all below its directory; and for what counts for all interfaces, or for those to come,
    the copies of every interface. `base` is /proc/sys.
    """
    parts = sysctl_path(name)
    itself = _name(parts)
    for path, without in _places(parts, base):
        for found in _files(path, base, without):
            if found != itself and not _MOVES.fullmatch(found):
                yield found


def _places(parts: tuple[str, ...], base: Path) -> list[tuple[Path, _Without]]:
    """Return the directories or files, with what of them is left out."""
    directory = base.joinpath(*parts[:-1])
    if len(parts) == 2 and parts[0] == "net":
        return [(base / "net/netfilter", _nothing), (directory, os.DirEntry.is_dir)]
    if parts[:2] == ("net", "netfilter"):
        return [(directory, _nothing), (base / "net/nf_conntrack_max", _nothing)]
    if parts[:2] not in _FAMILIES or parts == _FORWARDING:
        return [(directory, _nothing)]
    if len(parts) == 3:
        # Only ip_forward is copied to interfaces, and there may be thousands of them.
        return [(directory, lambda entry: entry.name in _TABLES)]
    if parts[2] in _TABLES and parts[3] in _ALL:
        # conf/all/forwarding is the same as ip_forward, which is above it.
        return [(directory.parents[1], _nothing)]
    return [(directory, _nothing)]


def _nothing(_: os.DirEntry[str]) -> bool:
    return False


def _name(parts: Sequence[str]) -> str:
    return ".".join(part.replace(".", "/") for part in parts)


def _files(path: Path, top: Path, without: _Without) -> Iterator[str]:
    try:
        with os.scandir(path) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except NotADirectoryError:
        yield from _file(path, path.stat, top)
        return
    except OSError:
        return
    for entry in entries:
        if without(entry):
            continue
        if entry.is_dir():
            yield from _files(path / entry.name, top, without)
        else:
            yield from _file(path / entry.name, entry.stat, top)


def _file(path: Path, status: Callable[[], os.stat_result], top: Path) -> Iterator[str]:
    try:
        mode = status().st_mode
    except OSError:
        return
    # What only root may read are secrets and switches that act when they are read.
    if stat.S_ISREG(mode) and mode & stat.S_IWUSR and mode & stat.S_IROTH:
        name = _name(path.relative_to(top).parts)
        try:
            sysctl_path(name)
        except Refused:
            return
        yield name
