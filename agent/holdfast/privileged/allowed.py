"""Which settings may be written at all: families for tuning, and what root's own profiles name.

A list of what is allowed, as a list of what is forbidden has holes: kernels and modules have
settings that run programs, open files, or weaken the machine's defences. What `writes.py` refuses
(programs that the kernel runs, what cannot be undone before a boot) is refused for every caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from holdfast.node.storage.swap import read_swaps
from holdfast.privileged import swap_areas
from holdfast.privileged.writes import (
    LimitsFileWrite,
    ModuleWrite,
    Refused,
    SwapWrite,
    SysctlFileWrite,
    SysctlWrite,
    TmpfilesFileWrite,
    Write,
    sysctl_path,
)

# As in the kernel's Documentation/admin-guide/sysctl and networking/ip-sysctl, by the parts of a
# name. Not among them: what is an action and not a setting (vm.drop_caches), what protects
# (vm.mmap_min_addr), and keys (tcp_fastopen_key).
_VM = (
    "admin_reserve_kbytes|compaction_proactiveness|dirty_.*|dirtytime_expire_seconds"
    "|extfrag_threshold|lowmem_reserve_ratio|max_map_count|min_free_kbytes|min_slab_ratio"
    "|min_unmapped_ratio|nr_hugepages(_mempolicy)?|nr_overcommit_hugepages|numa_stat"
    "|oom_kill_allocating_task|overcommit_.*|page-cluster|percpu_pagelist_.*|stat_interval"
    "|swappiness|user_reserve_kbytes|vfs_cache_pressure(_denom)?|watermark_.*|zone_reclaim_mode"
)
_CORE = (
    "somaxconn|netdev_.*|[rw]mem_(default|max)|optmem_max|default_qdisc|busy_(poll|read)"
    "|dev_weight.*|gro_normal_batch|skb_defer_max|rps_.*|flow_limit_.*|high_order_alloc_disable"
    "|max_skb_frags|message_(burst|cost)|tstamp_allow_data|txrehash"
)
_KERNEL = (
    "pid_max|threads-max|sched_.*|numa_balancing.*|timer_migration|sem|shm(all|max|mni)|shmmni"
    "|msg(max|mnb|mni)"
)
_FS = (
    "file-max|nr_open|aio-max-nr|pipe-max-size|pipe-user-pages-(hard|soft)|lease-break-time"
    "|leases-enable"
)
_NEIGH = r"gc_(interval|stale_time|thresh[123])|base_reachable_time(_ms)?|unres_qlen(_bytes)?"
_IPV4 = (
    "tcp_(?!fastopen_key)[a-z0-9_]+|udp_mem|udp_[rw]mem_min|udp_early_demux"
    "|ip_local_(port_range|reserved_ports)|ip_default_ttl|ipfrag_.*|igmp_max_.*"
    r"|conf\..+\.(rp_filter|arp_[a-z_]+)|neigh\..+\.(" + _NEIGH + r")|route\.(gc_.*|max_size)"
)
_IPV6 = (
    r"ip6frag_.*|conf\..+\.(hop_limit|mtu|ndisc_[a-z_]+)|neigh\..+\.(" + _NEIGH + r")"
    r"|route\.(gc_.*|max_size)"
)
_SYSCTLS = re.compile(
    rf"vm\.({_VM})|kernel\.({_KERNEL})|fs\.({_FS})|fs\.inotify\.max_.*|fs\.epoll\.max_.*"
    rf"|net\.core\.({_CORE})|net\.ipv4\.({_IPV4})|net\.ipv6\.({_IPV6})|net\.unix\.max_dgram_qlen"
    r"|net\.nf_conntrack_max|net\.netfilter\.nf_conntrack_(?!helper)[a-z0-9_]+"
)
_MODULES = frozenset(
    {
        ("nvme_core", "io_timeout"),
        ("nvme_core", "admin_timeout"),
        ("nvme_core", "max_retries"),
        ("nvme_core", "default_ps_max_latency_us"),
    }
)


@dataclass(frozen=True)
class Named:
    """What profiles name that only root can write."""

    sysctls: frozenset[str] = frozenset()
    """Parts joined by dots."""
    modules: frozenset[tuple[str, str]] = frozenset()
    """Module and parameter."""
    units: frozenset[str] = frozenset()


class AllowList:
    """Decides which writes are allowed. Profiles are read anew for each request."""

    def __init__(
        self, named: Callable[[], Named], profiles_dir: Path, proc: Path = Path("/proc")
    ) -> None:
        self._named = named
        self._where = profiles_dir
        self._proc_sys = proc / "sys"
        self._sys = Path("/sys")

    def check(self, *writes: Write, areas: Collection[str] = ()) -> None:
        """Raise `Refused` with a sentence for a write that is not allowed.

        `areas` are swap areas that were in use before, by path; those in use now may stay so.
        """
        named = self._named()
        for write in writes:
            match write:
                case SysctlWrite():
                    self._check_sysctl(write.name, write.value, named)
                case SysctlFileWrite():
                    for name, value in write.settings:
                        self._check_sysctl(name, value, named)
                case ModuleWrite():
                    self._check_module(write.module, write.parameter, write.value, named)
                case TmpfilesFileWrite():
                    for module, parameter, value in write.modules:
                        self._check_module(module, parameter, value, named)
                case LimitsFileWrite():
                    if write.unit not in named.units:
                        raise self._not_named(f"limits of `{write.unit}`")
                case SwapWrite():
                    _check_swap(write, areas)
                case _:
                    pass  # a closed list of attributes

    def refusal(self, write: Write) -> str | None:
        """Return why a write is not allowed, as a sentence; None if it is."""
        try:
            self.check(write)
        except Refused as error:
            return str(error)
        return None

    def _check_sysctl(self, name: str, value: str, named: Named) -> None:
        parts = sysctl_path(name)
        canonical = ".".join(parts)
        if canonical not in named.sysctls and not _SYSCTLS.fullmatch(canonical):
            raise self._not_named(f"sysctl `{name}`")
        _check_value(f"sysctl `{name}`", value, self._proc_sys.joinpath(*parts))

    def _check_module(self, module: str, parameter: str, value: str, named: Named) -> None:
        what = f"parameter `{parameter}` of module {module}"
        if (module, parameter) not in named.modules | _MODULES:
            raise self._not_named(what)
        _check_value(what, value, self._sys / "module" / module / "parameters" / parameter)

    def _not_named(self, what: str) -> Refused:
        return Refused(
            f"{what[:1].upper()}{what[1:]} is not among what holdfast sets by itself; name it in "
            f"a profile in {self._where}, which only root may be able to write."
        )


def _check_value(what: str, value: str, file: Path) -> None:
    """Refuse paths and programs, among them where the kernel has one now."""
    try:
        with file.open("rb") as stream:
            present = stream.read(64).decode("ascii", "replace")
    except OSError:
        present = ""
    if not value.isascii() or not value.isprintable():
        raise Refused(f"The value of {what} has characters that no setting has.")
    if value.lstrip().startswith(("/", "|")) or present.lstrip().startswith(("/", "|")):
        raise Refused(f"The value of {what} is a path or a program; that is not for tuning.")


def _check_swap(write: SwapWrite, areas: Collection[str]) -> None:
    active = {area.path for area in read_swaps()}
    wanted = {area.path for area in write.areas}
    for path in sorted(wanted - active - set(areas)):
        raise Refused(f"Swap area {path} was not in use before, so it is not turned on.")
    for path in sorted(active - wanted):
        reason = swap_areas.lost(path)
        if reason is not None:
            raise Refused(f"Swap file {path} could not be turned on again: {reason}.")
