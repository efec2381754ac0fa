"""The writes that can be asked for, as plain data."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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
BlockAttribute = Literal[
    "scheduler",
    "read_ahead_kb",
    "nr_requests",
    "nomerges",
    "rq_affinity",
    "max_sectors_kb",
    "wbt_lat_usec",
]
LimitName = Literal["nofile", "nproc", "memlock", "as", "core", "stack"]
_QUEUE_ATTRIBUTE = re.compile("|".join(BLOCK_ATTRIBUTES) + "|iosched/[a-z][a-z0-9_]*")
# Where each interface has a directory of sysctls.
_INTERFACE_TABLES = tuple(
    ("net", family, table) for family in ("ipv4", "ipv6", "mpls") for table in ("conf", "neigh")
)
THP_ATTRIBUTES = ("enabled", "defrag")
"""Files of /sys/kernel/mm/transparent_hugepage."""

# Programs the kernel runs, and formats it recognises: a user that sets them owns the machine.
_HANDS_OVER_CONTROL = re.compile(
    r"kernel\.(core_pattern|core_pipe_limit|modprobe|hotplug|poweroff_cmd)|kernel\.usermodehelper\..*"
    r"|kernel\.keys\..*|fs\.binfmt_misc\..*|net\.core\.bpf_jit_.*|fs\.ocfs2\..*hb_ctl_path"
)
# Once set these cannot be reverted before the next boot, so they cannot be rolled back either.
_ONE_WAY = re.compile(
    r"kernel\.(modules_disabled|kexec_load_disabled|unprivileged_bpf_disabled|yama\.ptrace_scope)"
)
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*")
_DEVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:!-]*")
_MODULE = re.compile(r"[A-Za-z0-9_]+")
_UNIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]*\.service")
_QUEUE_VALUE = re.compile(r"[a-z0-9_.-]{1,64}")
_MODE = re.compile(r"[a-z+_]{1,32}")
_WORD = re.compile(r"(?!-$)[A-Za-z0-9_.,:+=-]{1,256}")
# Printable, and words with single blanks between them; no backslash, which would join lines.
_LINE_VALUE = re.compile(r"(?![/|])[!-\[\]-~]+( [!-\[\]-~]+)*")

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
"""Placeholder for the number of each queue below mq."""


class Refused(ValueError):  # noqa: N818 - it is refused, whatever the cause
    """A request that was refused; the message is a sentence."""


class _Request(BaseModel, defer_build=True):
    model_config = ConfigDict(extra="forbid", frozen=True, revalidate_instances="always")


def sysctl_path(name: str) -> tuple[str, ...]:
    """Split the name of a sysctl into the parts of its path below /proc/sys.

    As in sysctl(8): if the first separator is a slash then slashes separate, and dots belong to
    names; else dots separate, and a slash means a dot in a name. Raises `Refused`.
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
            f"sysctl `{name}` cannot be reverted before the next boot, so it is not for tuning."
        )
    return tuple(parts)


def interface_of(path: tuple[str, ...]) -> str | None:
    """Return the interface that a sysctl is of, from its path; None for any other sysctl."""
    if path[:3] not in _INTERFACE_TABLES or len(path) < 5 or path[3] in ("all", "default"):
        return None
    return path[3]


class SysctlWrite(_Request):
    """Write a file below /proc/sys."""

    kind: Literal["sysctl"] = "sysctl"
    name: str
    value: Annotated[str, Field(max_length=4096)]
    """Empty for an empty list."""
    ifindex: Annotated[int, Field(ge=0)] = 0
    """Only if the interface that it is of still has this index; 0 for any other sysctl."""

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
    attribute: str
    """One of `BLOCK_ATTRIBUTES`, or `iosched/` and a parameter of the scheduler."""
    value: str

    @field_validator("attribute")
    @classmethod
    def _attribute_name(cls, value: str) -> str:
        return _matching(_QUEUE_ATTRIBUTE, value, "an attribute of a queue")

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
        return _matching(_MODE, value, "a mode of transparent huge pages")


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
    """Give an interface a root qdisc; None restores the kernel's default."""

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

    path: Annotated[str, Field(pattern=r"^/[^\x00\n]*$", max_length=4096)]
    priority: int
    """Below 0: the kernel chooses."""


class SwapWrite(_Request):
    """Use these swap areas and no others."""

    kind: Literal["swap"] = "swap"
    areas: list[SwapArea]


class _OwnFile(_Request):
    """One of holdfast's own files: as data, never as text. Without any directive it is removed."""

    profile: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$")] = ""
    """Named in the comment at its head."""


class SysctlFileWrite(_OwnFile):
    """The file of sysctl.d(5): names and values."""

    kind: Literal["sysctl.d"] = "sysctl.d"
    settings: Annotated[list[tuple[str, str]], Field(max_length=4096)]

    @field_validator("settings")
    @classmethod
    def _plain(cls, value: list[tuple[str, str]]) -> list[tuple[str, str]]:
        for name, text in value:
            sysctl_path(name)
            _matching(_LINE_VALUE, text, f"a value of {name} that a line can have")
        return value


class UdevRule(_Request):
    """What is set on a block device, which is known by something that it keeps between boots."""

    match: Literal["md", "wwid", "serial"]
    """Every array, or the device with this `value`."""
    value: Annotated[str, Field(pattern=r"^[A-Za-z0-9_ :.=-]{0,256}$")] = ""
    settings: Annotated[list[tuple[BlockAttribute, str]], Field(min_length=1, max_length=16)]

    @field_validator("settings")
    @classmethod
    def _plain(cls, value: list[tuple[BlockAttribute, str]]) -> list[tuple[BlockAttribute, str]]:
        for _, text in value:
            _matching(_QUEUE_VALUE, text, "the value of a queue attribute")
        return value

    @model_validator(mode="after")
    def _matches(self) -> Self:
        if self.value != self.value.strip():
            raise ValueError("a value begins or ends with a blank")
        if (self.match == "md") != (self.value == ""):
            raise ValueError("a device is known by a value, and arrays have none here")
        return self


class UdevFileWrite(_OwnFile):
    """The file of udev(7): attributes of block devices' queues."""

    kind: Literal["udev"] = "udev"
    rules: Annotated[list[UdevRule], Field(max_length=4096)]


class TmpfilesFileWrite(_OwnFile):
    """The file of tmpfiles.d(5): modes of huge pages, and parameters of modules."""

    kind: Literal["tmpfiles.d"] = "tmpfiles.d"
    huge_pages: Annotated[list[tuple[Literal["enabled", "defrag"], str]], Field(max_length=16)] = []
    modules: Annotated[list[tuple[str, str, str]], Field(max_length=4096)] = []
    """Module, parameter, value."""

    @field_validator("huge_pages")
    @classmethod
    def _modes(cls, value: list[tuple[str, str]]) -> list[tuple[str, str]]:
        for _, mode in value:
            _matching(_MODE, mode, "a mode of transparent huge pages")
        return value

    @field_validator("modules")
    @classmethod
    def _words(cls, value: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        for module, parameter, text in value:
            for name in (module, parameter):
                _matching(_MODULE, name, "the name of a kernel module or its parameter")
            # `%` and `\\` have a meaning there, and `-` alone is no argument.
            _matching(_WORD, text, "a value of a module's parameter that a line can have")
        return value


class LimitsFileWrite(_Request):
    """A drop-in with limits for a service, see systemd.exec(5). Without any it is removed."""

    kind: Literal["limits"] = "limits"
    unit: str
    limits: dict[LimitName, Annotated[str, Field(pattern=r"^(infinity|[0-9]{1,20})$")]]

    @field_validator("unit")
    @classmethod
    def _unit_name(cls, value: str) -> str:
        if not is_unit(value):
            raise ValueError(f"{value!r} is not the name of a service that can have limits here")
        return value


OwnFileWrite = SysctlFileWrite | UdevFileWrite | TmpfilesFileWrite | LimitsFileWrite

Write = Annotated[
    SysctlWrite
    | BlockWrite
    | HugePagesWrite
    | ModuleWrite
    | QdiscWrite
    | LinkWrite
    | SwapWrite
    | SysctlFileWrite
    | UdevFileWrite
    | TmpfilesFileWrite
    | LimitsFileWrite,
    Field(discriminator="kind"),
]


def is_unit(name: str) -> bool:
    """Whether this is the name of a service that may have limits here.

    Not holdfast's own. A name that ends with a dash would be that of all units that begin with it
    (systemd.unit(5)).
    """
    own = name.startswith("holdfast")
    return _UNIT.fullmatch(name) is not None and not own and not name.endswith("-.service")


def is_queue_attribute(name: str) -> bool:
    """Whether this is an attribute of a block device's queue that can be set here."""
    return _QUEUE_ATTRIBUTE.fullmatch(name) is not None


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
