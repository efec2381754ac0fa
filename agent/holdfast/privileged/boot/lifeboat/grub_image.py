"""Makes an image of GRUB from the node's own modules, with its configuration embedded."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from holdfast.privileged.boot.lifeboat.parts import LifeboatError
from holdfast.privileged.boot.loaders.cmdline import grub_quoted, kernel_line

_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
_SECONDS = 60.0


def configuration(kernel: str, initramfs: str, words: Sequence[str]) -> bytes:
    """Return what GRUB's rescue parser reads line by line; paths as GRUB has them.

    Raises `ValueError` with a clause for words that no kernel takes.
    """
    kernel_line(words)
    quoted = " ".join(grub_quoted(word) for word in words)
    lines = (
        f"linux {kernel} {quoted}",
        f"initrd {initramfs}",
        "boot",
        # Only where one of them failed: the disk may answer the next time.
        "reboot",
    )
    return "".join(f"{line}\n" for line in lines).encode()


def tool() -> str:
    """Return the program that makes images. Raises `LifeboatError`."""
    for name in ("grub-mkimage", "grub2-mkimage"):
        program = shutil.which(name, path=_PATH)
        if program is not None:
            return program
    raise LifeboatError(
        "grub-mkimage is not installed (Debian, Ubuntu: grub-common; Fedora, RHEL: grub2-tools)."
    )


def image(
    target: Literal["i386-pc", "x86_64-efi"],
    modules: Path,
    names: Sequence[str],
    configured: bytes,
) -> bytes:
    """Make an image of the modules `names`, and of what they need. Raises `LifeboatError`."""
    program = tool()
    # Files in memory: what it reads and writes is in no directory.
    with _memory("configuration") as read, _memory("image") as wrote:
        read.write(configured)
        read.flush()
        command = [program, "-O", target, "-d", str(modules), "-p", "/"]
        command += ["-c", _named(read), "-o", _named(wrote), *names]
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            pass_fds=[read.fileno(), wrote.fileno()],
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
        made = wrote.read()
    if done.returncode != 0 or not made:
        said = " ".join(done.stderr.split()) or "nothing was written"
        raise LifeboatError(f"{program} made no image of GRUB: {said}.")
    return made


def _memory(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b")


def _named(file: BinaryIO) -> str:
    return f"/proc/self/fd/{file.fileno()}"
