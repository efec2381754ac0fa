"""The boot loader of a lifeboat with UEFI: one of the node's own, that needs nothing but its files.

With Secure Boot that is the signed GRUB, behind shim, from the system partition; its configuration
is where it has it built in, such as /EFI/debian. Otherwise GRUB is made anew from the node's
modules, with its configuration embedded; where there are none, the signed one or systemd-boot is
taken from the system partition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from holdfast.privileged.boot.lifeboat.grub_image import configuration, image, tool
from holdfast.privileged.boot.lifeboat.parts import LifeboatError
from holdfast.privileged.boot.loaders.cmdline import kernel_line

_MODULE_DIRECTORIES = (
    "/usr/lib/grub/x86_64-efi",
    "/usr/lib/grub2/x86_64-efi",
    "/usr/share/grub2/x86_64-efi",
)
_MODULES = ("part_gpt", "fat", "linux", "reboot")
_MOST_PROGRAM, _MOST_MADE = 8 << 20, 1 << 20
_VENDOR = re.compile(rb"/(EFI/[A-Za-z0-9][A-Za-z0-9_.-]{0,40})\0")
"""What a signed GRUB has built in as the directory of its configuration."""
_SYSTEMD_BOOT = b"#### LoaderInfo: systemd-boot "
"""By which systemd itself knows its boot loader (bootctl)."""


@dataclass(frozen=True)
class EfiLoader:
    """A boot loader, and how it is configured."""

    name: str
    content: bytes = b""
    """What the firmware starts, if it is taken from the system partition."""
    modules: Path | None = None
    """What GRUB is made from otherwise."""
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """What the program starts from its own directory, by name."""
    directory: str | None = None
    """Where a GRUB of the system partition finds its configuration."""

    @property
    def most_bytes(self) -> int:
        """The most that program and what is beside it take."""
        program = len(self.content) if self.modules is None else _MOST_MADE
        return program + sum(map(len, self.beside.values()))

    def program(self, kernel: str, initramfs: str, words: Sequence[str]) -> bytes:
        """Return what the firmware starts, made if need be.

        Raises `LifeboatError`, `OSError`; `ValueError` with a clause.
        """
        if self.modules is None:
            return self.content
        made = image("x86_64-efi", self.modules, _MODULES, configuration(kernel, initramfs, words))
        if len(made) > _MOST_MADE:
            raise LifeboatError(f"The GRUB that was made for it has {len(made)} bytes.")
        return made

    def files(self, kernel: str, initramfs: str, words: Sequence[str]) -> dict[str, bytes]:
        """Return its configuration. Raises `ValueError` with a clause."""
        if self.modules is not None:
            return {}
        if self.directory is not None:
            return {f"{self.directory}/grub.cfg": configuration(kernel, initramfs, words)}
        entry = (
            f"title holdfast lifeboat\nlinux {kernel}\ninitrd {initramfs}\n"
            f"options {kernel_line(words)}\n"
        )
        return {
            "loader/loader.conf": b"timeout 0\ndefault holdfast.conf\n",
            "loader/entries/holdfast.conf": entry.encode(),
        }


def choose(
    system_partition: Path,
    *,
    secure_boot: bool,
    directories: Sequence[str] = _MODULE_DIRECTORIES,
) -> EfiLoader:
    """Choose a loader for a machine whose system partition is mounted at `system_partition`.

    Makes none yet. Raises `LifeboatError`, `OSError`.
    """
    modules = [
        directory for directory in map(Path, directories) if (directory / "kernel.img").is_file()
    ]
    if modules and not secure_boot:
        tool()
        return EfiLoader("grub", modules=modules[0])
    programs = dict(_programs(system_partition))
    for path, content in programs.items():
        vendor = _vendor(content)
        if vendor is None:
            continue
        shim = _beside(programs, path, "shimx64.efi") or _beside(programs, path, "bootx64.efi")
        if shim is not None and shim != content:
            mok = _beside(programs, path, "mmx64.efi")
            more = {} if mok is None else {"mmx64.efi": mok}
            beside = {"grubx64.efi": content} | more
            return EfiLoader("shim", shim, beside=beside, directory=vendor)
        if not secure_boot:
            return EfiLoader("grub", content, directory=vendor)
    if not secure_boot:
        for content in programs.values():
            if _SYSTEMD_BOOT in content:
                return EfiLoader("systemd-boot", content)
    raise LifeboatError(
        "With Secure Boot a lifeboat needs shim and the distribution's signed GRUB on the system "
        "partition, and they are not there."
        if secure_boot
        else "There is no boot loader that a lifeboat could have: GRUB's modules for UEFI are not "
        "installed (Debian, Ubuntu: grub-efi-amd64-bin; Fedora, RHEL: grub2-efi-x64-modules), and "
        "neither systemd-boot nor a signed GRUB is on the system partition."
    )


def _programs(system_partition: Path) -> Iterator[tuple[str, bytes]]:
    """Yield all programs of a system partition, by their paths from its root."""
    root = system_partition / "EFI"
    for directory in sorted(path for path in (root, *root.glob("*")) if path.is_dir()):
        for path in sorted(directory.iterdir()):
            if (
                path.suffix.casefold() == ".efi"
                and path.is_file()
                and path.stat().st_size <= _MOST_PROGRAM
            ):
                yield str(path.relative_to(system_partition)), path.read_bytes()


def _beside(programs: Mapping[str, bytes], path: str, name: str) -> bytes | None:
    wanted = str(PurePosixPath(path).with_name(name)).casefold()
    return next((one for other, one in programs.items() if other.casefold() == wanted), None)


def _vendor(program: bytes) -> str | None:
    """Return where a GRUB has its configuration, if that is on the system partition."""
    if b"grub" not in program:
        return None
    found = {match[1].decode() for match in _VENDOR.finditer(program)}
    return found.pop() if len(found) == 1 else None
