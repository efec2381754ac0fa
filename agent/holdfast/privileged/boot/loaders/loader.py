"""What a boot loader has to be able to do here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from holdfast.privileged.boot.models import DisarmReport, FileReport

PAYLOAD = "/boot/holdfast"
"""Where the kernel, the initramfs and the outcome record are, and `previous/`; for most loaders."""

RebootVerb = Literal["reboot", "kexec"]
"""Of systemctl."""


@dataclass
class Findings:
    """Sentences about a boot loader."""

    refusals: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Armed:
    """How a boot loader is set up now."""

    entry: str | None
    """The entry of ours, if it has one."""
    next: bool
    """Whether it is booted next."""


class Loader(Protocol):
    """A boot loader of this machine that can boot an entry once."""

    @property
    def name(self) -> str:
        """Its name, such as `grub2-bios`."""

    @property
    def payload(self) -> str:
        """The directory, not there yet, from which it would boot the imager."""

    @property
    def changes(self) -> Sequence[str]:
        """What arming writes for it, in that order: files, and variables of the firmware."""

    def unfit(self) -> str | None:
        """Return why it can never be used on this machine, whatever is done, or None."""

    def examine(self) -> Findings:
        """Check whether it can be used; writes nothing."""

    def entry(self, title: str, words: Sequence[str]) -> str:
        """Return the text of the entry for a kernel command line. Raises `Refused`."""

    def arm(self, entry: str) -> Sequence[FileReport]:
        """Have the entry booted next, and only then; what it names is on the disk already.

        Keeps what `disarm` needs before it writes anything. Raises `OSError`, `Refused`.
        """

    def sees(self, files: Sequence[FileReport]) -> bool | None:
        """Whether the loader's own code reads these files as they are; None if unknown."""

    def armed(self) -> Armed:
        """Check what it would boot. Raises `OSError`, `Refused`."""

    def prepare_reboot(self) -> RebootVerb:
        """Do what is left to do right before the reboot, and return which kind it has to be.

        Raises `OSError`, `Refused`.
        """

    def disarm(self) -> DisarmReport:
        """Make everything as it was before. Raises `OSError`, `Refused`."""
