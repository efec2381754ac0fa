"""Performs writes in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from holdfast.privileged import config_files, kernel_files, links, open_files, swap_areas
from holdfast.privileged.boot.after_boot.unit_state import unit_state
from holdfast.privileged.boot.inhibitors import blocking_inhibitors
from holdfast.privileged.boot.models import (
    ArmReport,
    ArmRequest,
    DisarmReport,
    ForgottenReport,
    IdentityEvidence,
    Inhibitor,
    OutcomeReport,
    TrialReport,
    TryRequest,
)
from holdfast.privileged.open_files import Writers
from holdfast.privileged.writes import (
    BlockWrite,
    HugePagesWrite,
    LimitsFileWrite,
    LinkWrite,
    ModuleWrite,
    QdiscWrite,
    SwapWrite,
    SysctlFileWrite,
    SysctlWrite,
    TmpfilesFileWrite,
    UdevFileWrite,
    Write,
)

if TYPE_CHECKING:
    from holdfast.privileged.boot.arming import Boot


class Privileged(Protocol):
    """The holder of the rights: this process, or a process of its own."""

    def perform(self, write: Write) -> None:
        """Do it. Raises `OSError` with a number and a reason, or `Refused`."""

    def open_files(self, mount_point: str) -> Mapping[str, int]:
        """Count regular files open on the file system mounted there, by `name (pid)`.

        Raises `OSError`.
        """

    def writers(self, directory: str) -> Writers:
        """Find the files that processes may write to, on the file system of a directory.

        Raises `OSError`.
        """

    def arm(self, request: ArmRequest) -> ArmReport:
        """Have the next boot, and only that one, write an image to the disk of the root.

        Raises `Refused` with a sentence where that is not safe, and `OSError`; after either,
        what was there before is there again, unless `boot_outcome` reports otherwise.
        """

    def try_image(self, request: TryRequest) -> TrialReport:
        """Try the new root on this machine, as arming does first; changes nothing.

        Raises `Refused` for what may not be armed, and `OSError`.
        """

    def disarm(self) -> DisarmReport:
        """Take an arming back, byte for byte; does nothing where there is none.

        Raises `OSError`, and `Refused` for what it does not know how to undo.
        """

    def forget_lifeboat(self) -> ForgottenReport:
        """Wipe what the imager left of the lifeboat in the system that it wrote, if it did.

        Raises `OSError`.
        """

    def boot_outcome(self) -> OutcomeReport:
        """Read what the imager left behind, and whether it is armed now. Raises `OSError`."""

    def identity_evidence(self, *, compare: bool = True) -> IdentityEvidence:
        """Compare what was carried over with what is there, and see how far the boot is.

        Raises `OSError`.
        """

    def reboot(self, nonce: str, *, dry_run: bool = False) -> None:
        """Reboot, or only check whether that could be done.

        Raises `Refused` if the imager is not armed with this nonce, and `OSError`.
        """

    def inhibitors(self) -> list[Inhibitor]:
        """List what blocks a shutdown. Raises `OSError` where that cannot be determined."""

    def unit_state(self, unit: str) -> str:
        """Return `active`, `activating`, `failed` and the like of a unit. Raises `OSError`."""


class LocalExecutor:
    """Does it with the rights of this process.

    `boot` makes what arms, once that is first asked for; by default for this machine.
    """

    def __init__(self, boot: Callable[[], Boot] | None = None) -> None:
        self._make_boot = boot

    @cached_property
    def _boot(self) -> Boot:
        from holdfast.privileged.boot.arming import Boot  # noqa: PLC0415 - much, and rarely needed

        return Boot() if self._make_boot is None else self._make_boot()

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
            case SysctlFileWrite() | UdevFileWrite() | TmpfilesFileWrite() | LimitsFileWrite():
                config_files.install(write)

    def open_files(self, mount_point: str) -> Mapping[str, int]:
        """Count regular files open on a file system, as far as this process may see them."""
        return open_files.count_open_files(mount_point)

    def writers(self, directory: str) -> Writers:
        """Find the files that processes may write to, as far as this process may see them."""
        return open_files.find_writers(directory)

    def arm(self, request: ArmRequest) -> ArmReport:
        """Have the next boot, and only that one, write an image to the disk of the root."""
        return self._boot.arm(request)

    def try_image(self, request: TryRequest) -> TrialReport:
        """Try the new root on this machine, as arming does first; changes nothing."""
        return self._boot.try_image(request)

    def disarm(self) -> DisarmReport:
        """Take an arming back, byte for byte; does nothing where there is none."""
        return self._boot.disarm()

    def forget_lifeboat(self) -> ForgottenReport:
        """Wipe what the imager left of the lifeboat in the system that it wrote, if it did."""
        return self._boot.forget_lifeboat()

    def boot_outcome(self) -> OutcomeReport:
        """Read what the imager left behind, and whether it is armed now."""
        return self._boot.outcome()

    def identity_evidence(self, *, compare: bool = True) -> IdentityEvidence:
        """Compare what was carried over with what is there, and see how far the boot is."""
        return self._boot.evidence(compare=compare)

    def reboot(self, nonce: str, *, dry_run: bool = False) -> None:
        """Reboot, if the imager is armed with this nonce, or only check whether it is."""
        self._boot.reboot(nonce, dry_run=dry_run)

    def inhibitors(self) -> list[Inhibitor]:
        """List what blocks a shutdown."""
        return blocking_inhibitors()

    def unit_state(self, unit: str) -> str:
        """Return `active`, `activating`, `failed` and the like of a unit."""
        return unit_state(unit)
