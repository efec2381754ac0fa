"""Arms, disarms and explains: the order of the steps, each of which leaves a bootable machine.

First everything that the imager needs is written to `/boot/holdfast`, which nothing boots. Once
that is read back from the disk, the boot loader gets an entry, and as the very last write it is
told to boot that once.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.durable import flush_directory
from holdfast.node.disks import Place, place_of, survey
from holdfast.node.files import read_text
from holdfast.node.machine import Machine
from holdfast.privileged.boot import cpio, initramfs, job, modules
from holdfast.privileged.boot.cmdline import imager_words
from holdfast.privileged.boot.durable import read_plain, write_file
from holdfast.privileged.boot.extents import single_place
from holdfast.privileged.boot.freeze import settle
from holdfast.privileged.boot.grub import Grub
from holdfast.privileged.boot.identity import Identity, collect
from holdfast.privileged.boot.loader import PAYLOAD, Loader
from holdfast.privileged.boot.models import (
    OUTCOME_BYTES,
    ArmReport,
    ArmRequest,
    BootMode,
    BootReport,
    CarriedItem,
    DisarmReport,
    ExplainRequest,
    FileReport,
    IdentityName,
    OutcomeReport,
    Target,
)
from holdfast.privileged.boot.network import describe_network
from holdfast.privileged.boot.read_back import digest_on_disk
from holdfast.privileged.boot.source import Source, find_source
from holdfast.privileged.boot.target import pin
from holdfast.privileged.writes import Refused

IMAGER = Path("/usr/lib/holdfast/imager/holdfast-imager")
"""Where the package has the imager."""
_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_MAX_PEM = 16 << 20
_SPARE = 1 << 20  # for directories, custom.cfg and what is kept of before
_CHUNK = 1 << 20
_SECONDS = 60.0


@dataclass(frozen=True)
class Boot:
    """The boot of a machine."""

    machine: Machine = field(default_factory=Machine)
    imager: Path = IMAGER

    def explain(self, request: ExplainRequest) -> BootReport:
        """Say what arming would do, and why it would be refused. Writes nothing.

        Needs no rights; what it could not look at is in `unknown`. Raises `OSError` without /proc.
        """
        machine = self.machine
        mode: BootMode = "uefi" if machine.boots_with_efi else "bios"
        disks = survey(machine, request.roots, request.image_bytes)
        refusals, unknown = list(disks.refusals), list(disks.unknown)
        if platform.machine() != "x86_64":
            refusals.append(f"This machine is {platform.machine()}; the imager is for x86_64.")
        if request.boot_modes is not None and mode not in request.boot_modes:
            modes = " and ".join(request.boot_modes) or "no mode at all"
            refusals.append(f"This machine boots in mode {mode}, and the image in {modes}.")
        loader = self._loader()
        entry = None
        if loader is None:
            refusals.append(self._no_loader(mode))
        else:
            found = loader.examine()
            refusals += found.refusals
            unknown += found.unknown
            try:
                words = imager_words(read_text(machine.proc / "cmdline") or "", "NONCE")
                entry = loader.entry(request.image_name, words)
            except Refused as error:
                refusals.append(str(error))
        if request.source is not None:
            try:
                refusals += self._source_refusals(find_source(machine, request.source))
            except Refused as error:
                refusals.append(str(error))
            except OSError as error:
                unknown.append(f"{error.filename} cannot be looked at: {error.strerror}.")
        refusals += self._payload_refusals()
        return BootReport(
            mode=mode,
            loader=None if loader is None else loader.name,
            kernel=machine.kernel,
            entry=entry,
            files=[
                FileReport(path=f"{PAYLOAD}/vmlinuz", size_bytes=_size(self._kernel)),
                FileReport(path=f"{PAYLOAD}/initramfs.img"),
                FileReport(path=f"{PAYLOAD}/outcome", size_bytes=OUTCOME_BYTES),
            ],
            disks=list(disks.all),
            loses=list(disks.loses),
            refusals=list(dict.fromkeys(refusals)),
            unknown=list(dict.fromkeys(unknown)),
        )

    def identity(self, names: Sequence[IdentityName]) -> Sequence[CarriedItem]:
        """Say which files would be carried over; reads none of them."""
        return collect(self.machine, names, contents=False).items

    def arm(self, request: ArmRequest) -> ArmReport:
        """Have the next boot write the image. Raises `Refused`, `OSError`.

        After either, everything is as it was before.
        """
        machine = self.machine
        content, descriptor = job.read_descriptor(
            machine.path(request.descriptor_path), request.descriptor_sha256
        )
        report = self.explain(
            ExplainRequest(
                roots=request.roots,
                image_name=descriptor.name,
                image_bytes=descriptor.size_bytes,
                boot_modes=descriptor.boot_modes,
                source=request.source,
            )
        )
        reasons = report.refusals + report.unknown
        loader, system = self._loader(), place_of(machine, "/")
        if reasons or loader is None or isinstance(system, str):
            raise Refused(" ".join(reasons) or "There is no boot loader that is known here.")
        made = self._prepare(request, content, descriptor, report)
        words = imager_words(read_text(machine.proc / "cmdline") or "", request.nonce)
        entry = loader.entry(descriptor.name, words)
        try:
            files, target = self._write_payload(request, made, system, content)
            files += loader.arm(entry)
            seen = loader.sees(files)
        except BaseException:
            # A disarm that fails as well is not hidden: it is what has to be dealt with first.
            self.disarm()
            raise
        return ArmReport(
            nonce=request.nonce,
            loader=loader.name,
            entry=entry,
            files=files,
            target=target,
            kernel=machine.kernel,
            modules=[one.name for one in made.modules],
            identity=made.identity.items,
            network=None if made.network is None else str(made.network["interface"]["name"]),
            notes=made.notes,
            seen_by_grub=seen,
        )

    def disarm(self) -> DisarmReport:
        """Make everything as it was before the arming; does nothing where there was none."""
        loader = self._loader()
        undone = DisarmReport(restored=[], edited=[], removed=[])
        if loader is not None:
            undone = loader.disarm()
        removed = self._remove_payload()
        if removed:
            settle(self.machine.path("/boot"))
        return undone.model_copy(update={"removed": removed})

    def outcome(self) -> OutcomeReport:
        """Read what the imager left behind, and whether it is armed now."""
        record = problem = None
        path = self.machine.path(PAYLOAD) / "outcome"
        try:
            record = job.parse_outcome(read_plain(path, OUTCOME_BYTES))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            problem = f"{PAYLOAD}/outcome {getattr(error, 'strerror', None) or error}."
        loader = self._loader()
        if loader is None:
            return OutcomeReport(record=record, armed=False, entry=False, problem=problem)
        armed = loader.armed()
        return OutcomeReport(
            record=record,
            armed=armed.next and armed.entry is not None,
            entry=armed.entry is not None,
            problem=problem,
        )

    def reboot(self, nonce: str) -> None:
        """Reboot, if the imager is what comes next. Raises `Refused`, `OSError`."""
        loader = self._loader()
        armed = None if loader is None else loader.armed()
        if armed is None or not armed.next or f"holdfast.nonce={nonce}" not in (armed.entry or ""):
            raise Refused(f"The next boot is not the imager's of {nonce}; arm it first.")
        record = self.outcome().record
        if record is None or record.nonce != nonce or record.started:
            raise Refused("The outcome record is not that of this arming; disarm, and arm again.")
        for name in ("vmlinuz", "initramfs.img", "outcome"):
            path = self.machine.path(PAYLOAD) / name
            if digest_on_disk(path, self._boot_device()) != _digest(path):
                raise OSError(5, "the disk does not have what was written", str(path))
        if not self.machine.path("/run/systemd/system").exists():
            raise Refused("This machine is not run by systemd, so it has to be rebooted by hand.")
        program = shutil.which("systemctl", path="/usr/bin:/bin")
        if program is None:
            raise OSError(2, "is not installed", "systemctl")
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            [program, "reboot", "--no-block"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(5, " ".join(done.stderr.split()) or "failed", "systemctl reboot")

    def _prepare(
        self, request: ArmRequest, content: bytes, descriptor: job.Descriptor, report: BootReport
    ) -> _Made:
        """Collect everything that is written, before anything is."""
        machine = self.machine
        notes: list[str] = []
        source = find_source(machine, request.source)
        if request.source.kind == "staged" and not machine.path(request.source.path).is_file():
            raise Refused(f"There is no staged image {request.source.path}.")
        described_network = describe_network(machine)
        network = None
        if not isinstance(described_network, str):
            network = described_network
        elif request.source.kind == "network":
            raise Refused(described_network)
        else:
            notes.append(described_network)
        blocks = [disk.name for disk in report.disks if disk.target or disk.data]
        names = [
            name
            for block in [*blocks, *(disk.name for disk in source.disks)]
            for name in modules.drivers_of(machine, machine.sys / "class/block" / block)
        ]
        if network is not None:
            card = machine.sys / "class/net" / network["interface"]["name"]
            names += modules.drivers_of(machine, card)
        names += source.modules
        if descriptor.root_file_system is not None:
            names.append(modules.file_system_module(descriptor.root_file_system))
        data = [disk for disk in report.disks if disk.data]
        plain = machine.sysfs(udev=False)
        described = [plain.describe(disk.name) for disk in data]
        return _Made(
            source=source,
            network=network,
            modules=modules.gather(machine, names),
            identity=collect(machine, request.identity),
            files=_files(machine, request),
            data_disks=[one for one in described if one is not None],
            notes=notes,
        )

    def _write_payload(
        self, request: ArmRequest, made: _Made, system: Place, content: bytes
    ) -> tuple[list[FileReport], Target]:
        directory = self.machine.path(PAYLOAD)
        directory.mkdir(mode=0o700)
        flush_directory(directory.parent)
        outcome = job.blank_outcome(request.nonce)
        files = [
            write_file(directory / "outcome", [outcome], 0o600, f"{PAYLOAD}/outcome"),
        ]
        offset = single_place(directory / "outcome", OUTCOME_BYTES)
        target = pin(self.machine, system)
        order = job.Job(
            request=request,
            hostname=os.uname().nodename,
            target=target,
            source=made.source.job,
            network=made.network,
            outcome_offset=offset + self._boot_place().start_bytes,
            data_disks=made.data_disks,
            modules=[one.name for one in made.modules],
        )
        entries = initramfs.entries(
            imager=self.imager,
            job=order.document(),
            descriptor=content,
            identity=made.identity.document(),
            modules=made.modules,
            files=made.files,
        )
        self._check_space(cpio.size_of(entries))
        initrd, kernel = directory / "initramfs.img", directory / "vmlinuz"
        files.append(write_file(initrd, cpio.archive(entries), 0o600, f"{PAYLOAD}/initramfs.img"))
        with self._kernel.open("rb") as stream:
            parts = iter(lambda: stream.read(_CHUNK), b"")
            files.append(write_file(kernel, parts, 0o600, f"{PAYLOAD}/vmlinuz"))
        settle(directory)
        for file in files:
            if digest_on_disk(self.machine.path(file.path), self._boot_device()) != file.sha256:
                raise OSError(5, "the disk does not have what was written", file.path)
        return files, target

    def _remove_payload(self) -> list[str]:
        """Remove the directory, what was kept of before last."""
        directory = self.machine.path(PAYLOAD)
        if not directory.is_dir() or directory.is_symlink():
            return []
        previous = directory / "previous"
        for inner in (directory, previous):
            if inner.is_dir() and not inner.is_symlink():
                for path in sorted(inner.iterdir()):
                    if path != previous:
                        path.unlink()
                flush_directory(inner)
        if previous.is_dir():
            previous.rmdir()
        directory.rmdir()
        flush_directory(directory.parent)
        return [PAYLOAD]

    def _loader(self) -> Loader | None:
        return Grub.detect(self.machine)

    def _no_loader(self, mode: BootMode) -> str:
        if mode == "uefi":
            return "This machine boots through UEFI; only GRUB 2 on BIOS can be armed so far."
        return "There is no GRUB 2 here: neither /boot/grub/grub.cfg nor /boot/grub2/grub.cfg."

    def _source_refusals(self, source: Source) -> Sequence[str]:
        system = place_of(self.machine, "/")
        if isinstance(system, Place) and system.disk.name in [one.name for one in source.disks]:
            return ["The staged image lies on the disk that would be written over."]
        return []

    def _payload_refusals(self) -> Sequence[str]:
        found = []
        if _size(self._kernel) is None:
            found.append(
                f"There is no {self.machine.inside(self._kernel)}, the kernel that runs now; "
                "reboot into one that is installed."
            )
        if _size(self.imager) is None:
            found.append(f"There is no imager at {self.imager}; the package has it.")
        if self.machine.path(PAYLOAD).exists():
            found.append(f"{PAYLOAD} is still there from an earlier arming; disarm first.")
        if not found:
            try:
                self._check_space(_size(self.imager) or 0)
            except Refused as error:
                found.append(str(error))
        return found

    def _check_space(self, initramfs_bytes: int) -> None:
        needed = initramfs_bytes + (_size(self._kernel) or 0) + OUTCOME_BYTES + _SPARE
        space = os.statvfs(self.machine.path("/boot"))
        free = space.f_bavail * space.f_frsize
        if free < needed:
            raise Refused(f"/boot has {free} bytes free, and {needed} are needed.")

    @property
    def _kernel(self) -> Path:
        return self.machine.path(f"/boot/vmlinuz-{self.machine.kernel}")

    def _boot_place(self) -> Place:
        place = place_of(self.machine, "/boot")
        if isinstance(place, str):
            raise Refused(place)
        return place

    def _boot_device(self) -> Path:
        return self.machine.dev / self._boot_place().partition.name


@dataclass(frozen=True)
class _Made:
    """What goes into the initramfs, and what was noticed on the way."""

    source: Source
    network: dict[str, Any] | None
    modules: Sequence[modules.Module]
    identity: Identity
    files: Mapping[str, bytes]
    data_disks: Sequence[Any]
    notes: list[str]


def _files(machine: Machine, request: ArmRequest) -> Mapping[str, bytes]:
    """Read the other files that go into the initramfs. Raises `Refused`, `OSError`."""
    system = next((path for path in _CERTIFICATES if machine.path(path).is_file()), None)
    trusted = [read_plain(machine.path(path).resolve(), _MAX_PEM) for path in (system,) if path]
    if request.ca is not None:
        trusted.append(_checked(machine, request.ca, b"-----BEGIN "))
    found = {"ca.pem": b"\n".join(trusted)} if trusted else {}
    status = request.status
    if status is None:
        return found
    wanted = {
        "tls/certificate.pem": status.certificate,
        "tls/key.pem": status.key,
        "tokens.json": status.tokens,
    }
    for name, given in wanted.items():
        if given is not None:
            mark = b'"tokens"' if name == "tokens.json" else b"-----BEGIN "
            found[name] = _checked(machine, given, mark)
    return found


def _checked(machine: Machine, given: str, mark: bytes) -> bytes:
    """Read a file that is named by whoever asks: only if it is of the kind that it should be."""
    content = read_plain(machine.path(given).resolve(), _MAX_PEM)
    if mark not in content:
        raise Refused(
            f"{given} is not the file that the imager needs: it has no {mark.decode()!r}."
        )
    return content


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
