"""What the privileged room can be asked to do, as plain data."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

BLOCK_ATTRIBUTES = (
    "scheduler",
    "read_ahead_kb",
    "nr_requests",
    "nomerges",
    "rq_affinity",
    "max_sectors_kb",
    "wbt_lat_usec",
)
"""Files of /sys/class/block/<device>/queue, as in the kernel's sysfs-block documentation."""
THP_ATTRIBUTES = ("enabled", "defrag")
"""Files of /sys/kernel/mm/transparent_hugepage."""

# Programs the kernel runs, and formats it recognises: whoever may set them owns the machine.
_HANDS_OVER_CONTROL = re.compile(
    r"kernel\.(core_pattern|core_pipe_limit|modprobe|hotplug|poweroff_cmd)|kernel\.usermodehelper\..*"
    r"|kernel\.keys\..*|fs\.binfmt_misc\..*|net\.core\.bpf_jit_.*"
)
# Once set these cannot be taken back before the next boot, so they cannot be rolled back either.
_ONE_WAY = re.compile(
    r"kernel\.(modules_disabled|kexec_load_disabled|unprivileged_bpf_disabled|yama\.ptrace_scope)"
)
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*")
_DEVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:!-]*")
_MODULE = re.compile(r"[A-Za-z0-9_]+")
_UNIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]*\.service")
_QUEUE_VALUE = re.compile(r"[a-z0-9_.-]+")

QDISC_PARAMETERS: dict[str, frozenset[str]] = {
    "noqueue": frozenset(),
    "noop": frozenset(),
    "mq": frozenset(),
    "pfifo_fast": frozenset(),
    "pfifo": frozenset({"limit"}),
    "bfifo": frozenset({"limit"}),
    "fq": frozenset(
        {
            "limit",
            "flow_limit",
            "quantum",
            "initial_quantum",
            "maxrate",
            "buckets",
            "orphan_mask",
            "low_rate_threshold",
            "refill_delay",
            "ce_threshold",
            "timer_slack",
            "horizon",
            "horizon_drop",
            "horizon_cap",
            "pacing",
            "nopacing",
        }
    ),
    "fq_codel": frozenset(
        {
            "limit",
            "flows",
            "target",
            "interval",
            "quantum",
            "ecn",
            "noecn",
            "ce_threshold",
            "memory_limit",
            "drop_batch",
        }
    ),
    # tc does not show a peak rate, and a limit only as the latency it comes to.
    "tbf": frozenset({"rate", "burst", "latency"}),
}
"""Queueing disciplines and those of their parameters that tc(8) shows as well as takes."""
QDISC_FLAGS = frozenset({"horizon_drop", "horizon_cap", "pacing", "nopacing", "ecn", "noecn"})
"""Parameters that stand alone."""
EVERY = 0
"""Stands for the number of each queue below mq."""


class Refused(ValueError):  # noqa: N818 - it is refused, whoever is at fault
    """A request that this room does not do; the message is a sentence."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, revalidate_instances="always")


def sysctl_path(name: str) -> tuple[str, ...]:
    """Split the name of a sysctl into the parts of its path below /proc/sys.

    As in sysctl(8): if the first separator is a slash then slashes separate, and dots belong to
    names; else dots separate, and a slash stands for a dot in a name. Raises `Refused`.
    """
    separator = re.search(r"[./]", name)
    slashes = separator is not None and separator[0] == "/"
    parts = name.split("/") if slashes else [part.replace("/", ".") for part in name.split(".")]
    if len(parts) < 2 or not all(_SEGMENT.fullmatch(part) for part in parts):
        raise Refused(f"`{name}` is not the name of a sysctl, such as vm.max_map_count.")
    canonical = ".".join(parts)
    if _HANDS_OVER_CONTROL.fullmatch(canonical):
        raise Refused(
            f"sysctl `{name}` lets its writer run programs as root; it is not for tuning."
        )
    if _ONE_WAY.fullmatch(canonical):
        raise Refused(
            f"sysctl `{name}` cannot be taken back before the next boot, so it is not for tuning."
        )
    return tuple(parts)


class SysctlWrite(_Request):
    """Write a file below /proc/sys."""

    kind: Literal["sysctl"] = "sysctl"
    name: str
    value: Annotated[str, Field(min_length=1, max_length=4096)]

    @field_validator("value")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return _printable(value)


class BlockWrite(_Request):
    """Write a file in /sys/class/block/<device>/queue."""

    kind: Literal["block"] = "block"
    device: str
    diskseq: Annotated[str, Field(pattern=r"^[0-9]*$")] = ""
    """Only if the device still has this sequence number; empty where the kernel has none."""
    attribute: Literal[
        "scheduler",
        "read_ahead_kb",
        "nr_requests",
        "nomerges",
        "rq_affinity",
        "max_sectors_kb",
        "wbt_lat_usec",
    ]
    value: str

    @field_validator("device")
    @classmethod
    def _device_name(cls, value: str) -> str:
        return _matching(_DEVICE, value, "the name of a block device")

    @field_validator("value")
    @classmethod
    def _plain(cls, value: str) -> str:
        return _matching(_QUEUE_VALUE, value, "the value of a queue attribute")


class HugePagesWrite(_Request):
    """Write a file in /sys/kernel/mm/transparent_hugepage."""

    kind: Literal["hugepages"] = "hugepages"
    attribute: Literal["enabled", "defrag"]
    value: str

    @field_validator("value")
    @classmethod
    def _word(cls, value: str) -> str:
        return _matching(re.compile(r"[a-z+_]+"), value, "a mode of transparent huge pages")


class ModuleWrite(_Request):
    """Write a file in /sys/module/<module>/parameters."""

    kind: Literal["module"] = "module"
    module: str
    parameter: str
    value: Annotated[str, Field(max_length=1024)]

    @field_validator("module", "parameter")
    @classmethod
    def _name(cls, value: str) -> str:
        return _matching(_MODULE, value, "the name of a kernel module or its parameter")

    @field_validator("value")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return _printable(value)


class Qdisc(_Request):
    """A queueing discipline with parameters as tc takes them; a flag has an empty value."""

    kind: str
    parameters: dict[str, str] = {}

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in QDISC_PARAMETERS:
            raise ValueError(f"{value!r} is not one of {', '.join(QDISC_PARAMETERS)}")
        return value

    def check(self) -> None:
        """Raise `Refused` if a parameter is not one of this kind."""
        if self.kind not in QDISC_PARAMETERS:
            raise Refused(f"qdisc {self.kind} is not one that is set here.")
        for name, value in self.parameters.items():
            if name not in QDISC_PARAMETERS[self.kind]:
                raise Refused(f"qdisc {self.kind} has no parameter `{name}`.")
            if not re.fullmatch(r"[A-Za-z0-9.%]*", value):
                raise Refused(f"qdisc {self.kind}: {value!r} is no value for `{name}`.")


class QdiscWrite(_Request):
    """Give an interface a root qdisc; None brings back the kernel's default."""

    kind: Literal["qdisc"] = "qdisc"
    interface: str
    ifindex: int
    """Only if the interface still has this index."""
    root: Qdisc | None
    leaves: dict[int, Qdisc | None] = {}
    """Below a root of kind mq: by number of the queue, from 1, or `EVERY`; None is the default."""


class LinkWrite(_Request):
    """Set the length of an interface's transmit queue, in packets."""

    kind: Literal["link"] = "link"
    interface: str
    ifindex: int
    txqueuelen: Annotated[int, Field(ge=0, le=2**31 - 1)]


class SwapArea(_Request):
    """One swap area."""

    path: Annotated[str, Field(pattern=r"^/[^\n]*$")]
    priority: int
    """Below 0: the kernel chooses."""


class SwapWrite(_Request):
    """Use these swap areas and no others."""

    kind: Literal["swap"] = "swap"
    areas: list[SwapArea]


FilePlace = Literal["sysctl.d", "udev", "tmpfiles.d", "service"]


class FileWrite(_Request):
    """Install or remove one of holdfast's own configuration files."""

    kind: Literal["file"] = "file"
    place: FilePlace
    unit: str = ""
    """For place `service`: the unit that the drop-in is for."""
    content: Annotated[str, Field(max_length=1 << 20)] | None
    """None removes the file."""

    @field_validator("unit")
    @classmethod
    def _unit_name(cls, value: str) -> str:
        return value and _matching(_UNIT, value, "the name of a service unit")


Write = Annotated[
    SysctlWrite
    | BlockWrite
    | HugePagesWrite
    | ModuleWrite
    | QdiscWrite
    | LinkWrite
    | SwapWrite
    | FileWrite,
    Field(discriminator="kind"),
]


def is_unit(name: str) -> bool:
    """Whether this is a name that a service unit may have here."""
    return _UNIT.fullmatch(name) is not None


def is_device(name: str) -> bool:
    """Whether this is a name that a block device may have here."""
    return _DEVICE.fullmatch(name) is not None


def _matching(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")
    return value


def _printable(value: str) -> str:
    if any(ord(character) < 32 and character != "\t" for character in value):
        raise ValueError("has control characters")
    return value
