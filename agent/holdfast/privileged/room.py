"""Performs writes in this process."""

from __future__ import annotations

from typing import Protocol

from holdfast.privileged import config_files, kernel_files, links, swap_areas
from holdfast.privileged.writes import (
    BlockWrite,
    FileWrite,
    HugePagesWrite,
    LinkWrite,
    ModuleWrite,
    QdiscWrite,
    SwapWrite,
    SysctlWrite,
    Write,
)


class Privileged(Protocol):
    """Whoever performs writes: this process, or a process of its own."""

    def perform(self, write: Write) -> None:
        """Do it. Raises `OSError` with a number and a reason, or `Refused`."""


class InProcess:
    """Performs writes with the rights of this process."""

    def perform(self, write: Write) -> None:
        """Do it. Raises `OSError` with a number and a reason, or `Refused`."""
        match write:
            case SysctlWrite():
                kernel_files.write_sysctl(write)
            case BlockWrite():
                kernel_files.write_block(write)
            case HugePagesWrite():
                kernel_files.write_huge_pages(write)
            case ModuleWrite():
                kernel_files.write_module(write)
            case QdiscWrite():
                links.set_qdisc(write)
            case LinkWrite():
                links.set_queue_length(write)
            case SwapWrite():
                swap_areas.use(write)
            case FileWrite():
                config_files.install(write)
