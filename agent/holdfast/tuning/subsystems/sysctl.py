"""Sysctls: files below /proc/sys. Those of the network are of this process's namespace."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from holdfast.privileged import Write
from holdfast.privileged.writes import Refused, SysctlWrite, interface_of, sysctl_path
from holdfast.tuning.planning import values
from holdfast.tuning.planning.couplings import neighbours
from holdfast.tuning.planning.knobs import Knob, Observed
from holdfast.tuning.subsystems.plain import Plain, observe_file

_HUGE_PAGES = frozenset({"vm.nr_hugepages", "vm.nr_hugepages_mempolicy"})
# Bytes of memory that the kernel takes, or keeps free, at once for each unit of a value.
_COSTS = {
    "vm.min_free_kbytes": 1 << 10,
    "net.netfilter.nf_conntrack_buckets": 8,
    "net.core.rps_sock_flow_entries": 4,
}


class Sysctl(Plain):
    """The knobs' target is empty, their names are those of sysctl(8)."""

    name = "sysctl"

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._base = proc / "sys"

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Read each file."""
        return {knob: observe_file(self._path(knob)) for knob in knobs}

    def same(self, knob: Knob, desired: str, observed: str) -> bool:
        """Whether the kernel takes two values for the same, or rounds one to the other."""
        return values.equal(knob.name, desired, observed) or values.equal(
            knob.name, self.rounded(knob, desired), observed
        )

    def rounded(self, knob: Knob, value: str) -> str:
        """Return what the kernel keeps of a value."""
        return values.rounded(knob.name, value)

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Compare the shape with what is there: words for numbers, or too few of them."""
        if observed.value is None:
            return None if self._path(knob).exists() else self._suggest(knob)
        now, wanted = observed.value.split(), desired.split()
        if now and all(values.number(word) is not None for word in now):
            if len(now) == 1 and values.is_list(desired):
                return self._too_much(knob, desired, observed.value)
            if len(wanted) != len(now):
                return f"needs {_numbers(len(now))} like the present {observed.value!r}"
            if any(values.number(word) is None for word in wanted):
                return f"should be a number like the present {observed.value}, not {desired!r}"
        return self._too_much(knob, desired, observed.value)

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Write the file."""
        return SysctlWrite(name=knob.name, value=value, ifindex=int(identity or 0))

    def identity(self, knob: Knob) -> str:
        """Return the index of the interface that the sysctl is of; empty for any other."""
        interface = interface_of(sysctl_path(knob.name))
        if interface is None:
            return ""
        try:
            return str(socket.if_nametoindex(interface))
        except OSError:
            return ""

    def follow(self, knob: Knob, identity: str) -> Knob:
        """Return the sysctl of the interface of this index under its present name."""
        interface = interface_of(sysctl_path(knob.name))
        if interface is None or not identity:
            return knob
        try:
            now = socket.if_indextoname(int(identity))
        except (OSError, ValueError):
            return knob
        parts = sysctl_path(knob.name)
        if parts[3] == now:
            return knob
        name = ".".join(part.replace(".", "/") for part in (*parts[:3], now, *parts[4:]))
        try:
            sysctl_path(name)
        except Refused:  # a name that no sysctl may have here
            return knob
        return replace(knob, name=name)

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Name the sysctls that the kernel may couple with this one."""
        return [Knob(self.name, "", name) for name in neighbours(knob.name, self._base)]

    def _too_much(self, knob: Knob, desired: str, now: str) -> str | None:
        """Return a clause if a value takes more memory at once than there is."""
        cost = self._huge_page() if knob.name in _HUGE_PAGES else _COSTS.get(knob.name, 0)
        wanted, present = values.number(desired), values.number(now)
        if not cost or wanted is None or present is None or wanted <= present:
            return None
        memory = psutil.virtual_memory()
        if wanted * cost > memory.total:
            have = f"this machine has {memory.total >> 20} MiB"
        elif (wanted - present) * cost > memory.available:
            have = f"{memory.available >> 20} MiB are available"
        else:
            return None
        return f"would take {wanted * cost >> 20} MiB of memory, and {have}"

    def _huge_page(self) -> int:
        """Return the bytes of a huge page."""
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
        except OSError:
            return 0
        sizes = [line.split()[1] for line in lines if line.startswith("Hugepagesize:")]
        return int(sizes[0]) << 10 if sizes else 0

    def _path(self, knob: Knob) -> Path:
        return self._base.joinpath(*sysctl_path(knob.name))

    def _suggest(self, knob: Knob) -> str:
        path = self._path(knob)
        try:
            near = difflib.get_close_matches(
                path.name, [file.name for file in path.parent.iterdir()]
            )
        except OSError:
            near = []
        if not near:
            return "does not exist on this kernel"
        close = ".".join([*knob.name.split(".")[:-1], near[0].replace(".", "/")])
        return f"does not exist on this kernel; did you mean `{close}`?"


def _numbers(count: int) -> str:
    return "one number" if count == 1 else f"{count} numbers"
