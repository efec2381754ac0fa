"""kexec: the running kernel starts the imager's, and no boot loader or firmware takes part.

Nothing that boots this machine is changed. Until the reboot that is asked for, a reset ends in the
old system, as there is nothing armed in any other boot than the present one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence

from holdfast.node.paths.files import read_text
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.disk.file_io import read_plain, write_file
from holdfast.privileged.boot.disk.storage import Storage
from holdfast.privileged.boot.loaders.cmdline import kernel_line
from holdfast.privileged.boot.loaders.efi_variables import EfiVariables
from holdfast.privileged.boot.loaders.loader import PAYLOAD, Armed, Findings, RebootVerb
from holdfast.privileged.boot.models import DisarmReport, FileReport
from holdfast.privileged.writes import Refused

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_SECONDS = 120.0
_MAX_RECORD = 1 << 16


class Kexec:
    """The kernel of this machine, as a loader of another."""

    name = "kexec"
    payload = PAYLOAD

    def __init__(self, machine: MachineFiles) -> None:
        self._machine = machine
        self._record = machine.path(PAYLOAD) / "kexec.json"

    def unfit(self) -> str | None:
        """Return why it can never be used on this machine, or None."""
        if read_text(self._machine.sys / "hypervisor/type") == "xen":
            return "This machine runs on Xen, where kexec loses devices; it is not used there."
        return None

    def examine(self) -> Findings:
        """Check whether it can be used; writes nothing."""
        found = Findings()
        if (unfit := self.unfit()) is not None:
            found.refusals.append(unfit)
        if shutil.which("kexec", path=_PATH) is None:
            found.refusals.append("kexec is not installed (package kexec-tools).")
        if shutil.which("systemd-run", path=_PATH) is None:
            found.refusals.append("systemd-run is not installed, by which kexec is called.")
        if read_text(self._machine.proc / "sys/kernel/kexec_load_disabled") == "1":
            found.refusals.append("kexec is turned off until the next boot (kexec_load_disabled).")
        if self._loaded and not self._machine.path(PAYLOAD).exists():
            found.refusals.append(
                "A kernel of another program is loaded already; `kexec --unload` removes it."
            )
        if EfiVariables(self._machine).secure_boot:
            found.refusals.append("Secure Boot is on, under which kexec is not used.")
        return found

    def entry(self, title: str, words: Sequence[str]) -> str:
        """Return the command line. Raises `Refused`."""
        try:
            return kernel_line(words)
        except ValueError as error:
            raise Refused(f"The kernel's command line cannot be taken over: {error}.") from None

    @property
    def changes(self) -> Sequence[str]:
        """What arming writes for it: a note of the present boot."""
        return [self._machine.inside(self._record)]

    def arm(self, entry: str) -> Sequence[FileReport]:
        """Note that it may be started in this boot. Nothing else is done before the reboot."""
        storage = Storage.of(self._machine, PAYLOAD)
        content = json.dumps({"boot": self._boot(), "entry": entry}).encode() + b"\n"
        shown = self._machine.inside(self._record)
        report = write_file(self._record, [content], storage.mode(0o600), shown)
        storage.settle()
        storage.check(self._record, content)
        return [report]

    def sees(self, files: Sequence[FileReport]) -> bool | None:
        """Unknown: no boot loader is to see anything."""
        return None

    def armed(self) -> Armed:
        """Check what would be started."""
        try:
            record = json.loads(read_plain(self._record, _MAX_RECORD))
            return Armed(entry=str(record["entry"]), next=record["boot"] == self._boot())
        except FileNotFoundError:
            return Armed(entry=None, next=False)
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{self._record} is damaged; disarm, and arm again.") from None

    def prepare_reboot(self) -> RebootVerb:
        """Load the kernel, by a unit of its own: the caller may not have the right."""
        armed = self.armed()
        self._call(
            *("--load", f"{PAYLOAD}/vmlinuz", f"--initrd={PAYLOAD}/initramfs.img"),
            f"--command-line={armed.entry}",
        )
        if not self._loaded:
            raise OSError(5, "the kernel does not have what was loaded", "kexec --load")
        return "kexec"

    def disarm(self) -> DisarmReport:
        """Unload a kernel that `prepare_reboot` loaded, and remove the note."""
        if not self._record.exists():
            return DisarmReport(restored=[], edited=[], removed=[])
        if self._loaded:
            # Nobody else's was, when it was armed.
            self._call("--unload")
        shown = self._machine.inside(self._record)
        self._record.unlink()
        return DisarmReport(restored=[], edited=[], removed=[shown])

    @property
    def _loaded(self) -> bool:
        return read_text(self._machine.sys / "kernel/kexec_loaded") == "1"

    def _call(self, *arguments: str) -> None:
        """Call kexec. Raises `OSError`."""
        done = subprocess.run(  # noqa: S603 - fixed programs, no shell
            # Of the system's own directories only, as PATH is.
            ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", "kexec", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
        )
        if done.returncode != 0:
            said = " ".join((done.stderr + done.stdout).split())
            raise OSError(5, said or "failed", f"kexec {arguments[0]}")

    def _boot(self) -> str:
        found = read_text(self._machine.proc / "sys/kernel/random/boot_id")
        if not found:
            raise OSError(2, "cannot be read", "/proc/sys/kernel/random/boot_id")
        return found
