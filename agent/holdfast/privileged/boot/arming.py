"""Arms, disarms and explains: the order of the steps, each of which leaves a bootable machine.

First everything that the imager needs is written into a directory that nothing boots. Once that is
read back from the disk, the boot loader gets an entry, and the very last write has it boot that
once.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.node.paths.files import read_text
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, survey, system_position
from holdfast.privileged.boot.after_boot.evidence import identity_evidence, marker_lifeboat
from holdfast.privileged.boot.after_boot.signs import entry_nonces, signs_of
from holdfast.privileged.boot.approval import approve
from holdfast.privileged.boot.disk.file_io import read_plain
from holdfast.privileged.boot.image_rules import image_refusals
from holdfast.privileged.boot.lifeboat.lifeboat import Lifeboat
from holdfast.privileged.boot.lifeboat.parts import LifeboatError
from holdfast.privileged.boot.lifeboat.place import Place
from holdfast.privileged.boot.loaders.cmdline import imager_words
from holdfast.privileged.boot.loaders.loader import PAYLOAD, Armed, Loader
from holdfast.privileged.boot.loaders.registry import choose, loaders
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
    ForgottenReport,
    IdentityEvidence,
    IdentityName,
    LifeboatReport,
    OutcomeReport,
    TrialReport,
    TryRequest,
)
from holdfast.privileged.boot.payload import job
from holdfast.privileged.boot.payload.collecting import collect_all
from holdfast.privileged.boot.payload.directory import Payload
from holdfast.privileged.boot.payload.identity import collect
from holdfast.privileged.boot.payload.job import Descriptor
from holdfast.privileged.boot.payload.source import Source, find_source
from holdfast.privileged.boot.policy import FindPolicy, Policy, no_policy
from holdfast.privileged.trial.image_trial import try_image
from holdfast.privileged.trial.kept import KeptTrials
from holdfast.privileged.trial.models import failures, untried
from holdfast.privileged.trial.worker import SILENT_SECONDS
from holdfast.privileged.writes import Refused

IMAGER = Path("/usr/lib/holdfast/imager/holdfast-imager")
"""Where the package has the imager."""
_SECONDS = 60.0
_UNPROTECTED = (
    "There is no place for a lifeboat, so that a power cut during the write leaves a disk that "
    "does not boot:"
)


@dataclass(frozen=True)
class Boot:
    """The boot of a machine."""

    machine: MachineFiles = field(default_factory=MachineFiles)
    imager: Path = IMAGER
    policy: FindPolicy = no_policy
    """What root allows; asked anew at each arming."""
    trial_silent_seconds: float = SILENT_SECONDS
    """How long a trial of the new root may do one thing."""
    kept_trials: KeptTrials | None = None
    """Where outcomes of trials are kept."""

    def explain(self, request: ExplainRequest) -> BootReport:
        """Return what arming would do, and why it would be refused. Writes nothing.

        Needs no rights; what it could not inspect is in `unknown`. Raises `OSError` without /proc.
        """
        machine = self.machine
        mode: BootMode = "uefi" if machine.boots_with_efi else "bios"
        disks = survey(machine, request.roots, request.image_bytes)
        refusals, unknown = list(disks.refusals), list(disks.unknown)
        if platform.machine() != "x86_64":
            refusals.append(f"This machine is {platform.machine()}; the imager is for x86_64.")
        refusals += image_refusals(machine, request, disks.target, mode)
        chosen = choose(machine, allow_kexec=request.allow_kexec)
        loader, entry = chosen.loader, None
        refusals += chosen.reasons
        boat, no_boat = self._explain_lifeboat(request)
        refusals += no_boat
        payload = self._payload(loader)
        if loader is not None:
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
                unknown.append(f"{error.filename} cannot be inspected: {error.strerror}.")
        refusals += payload.refusals()
        return BootReport(
            mode=mode,
            loader=None if loader is None else loader.name,
            kernel=machine.kernel,
            entry=entry,
            files=[*payload.planned(), *_changes(loader)],
            disks=list(disks.all),
            loses=list(disks.loses),
            refusals=list(dict.fromkeys(refusals)),
            unknown=list(dict.fromkeys(unknown)),
            lifeboat=boat,
        )

    def identity(self, names: Sequence[IdentityName]) -> Sequence[CarriedItem]:
        """Return which files would be carried over; reads none of them."""
        return collect(self.machine, names, contents=False).items

    def arm(self, request: ArmRequest) -> ArmReport:
        """Have the next boot write the image. Raises `Refused`, `OSError`.

        After either, and after a dry run, everything is as it was before.
        """
        machine, policy = self.machine, self.policy()
        approved = approve(machine, policy, request)
        descriptor = approved.descriptor
        report = self.explain(
            ExplainRequest(
                roots=list(policy.roots),
                image_name=descriptor.name,
                image_bytes=descriptor.size_bytes,
                boot_modes=descriptor.boot_modes,
                image=descriptor.model_dump_json(),
                source=request.source,
                allow_kexec=policy.allow_kexec,
                allow_unprotected=request.allow_unprotected,
                require_lifeboat=policy.require_lifeboat,
            )
        )
        reasons = report.refusals + report.unknown
        loader = choose(machine, allow_kexec=policy.allow_kexec).loader
        system = system_position(machine)
        if reasons or loader is None or isinstance(system, str):
            raise Refused(" ".join(reasons) or "There is no boot loader that is known here.")
        collected = collect_all(machine, request, approved, report.disks)
        trial = try_image(
            machine,
            self.imager,
            request,
            approved,
            collected.identity,
            floor=policy.free_space_floor,
            target_bytes=None if report.target is None else report.target.size_bytes,
            silent_seconds=self.trial_silent_seconds,
            kept=self.kept_trials,
        )
        if failures(trial):
            raise Refused(" ".join(failures(trial)))
        words = imager_words(read_text(machine.proc / "cmdline") or "", request.nonce)
        entry = loader.entry(descriptor.name, words)
        notes = [*collected.notes, *loader.examine().notes, *untried(trial)]
        payload, seen = self._payload(loader), None
        boat = report.lifeboat
        if request.dry_run:
            files, target = payload.rehearse(
                request,
                collected,
                system,
                approved.content,
                protected=boat is not None and boat.kind != "none",
            )
            files += _changes(loader)
        else:
            try:
                size = payload.initramfs_bytes(request, collected, system, approved.content)
                place, why = self._hold_lifeboat(request, policy, descriptor, size)
                held = None if place is None else place.region
                files, target = payload.write(
                    request, collected, system, approved.content, lifeboat=held
                )
                if place is not None:
                    self._lifeboat.write(place, payload.path, request.nonce)
                    boat = LifeboatReport(kind=place.kind, **vars(place.region))
                else:
                    boat = LifeboatReport(kind="none", reason=why)
                    notes.append(f"{_UNPROTECTED} {why}")
                files += loader.arm(entry)
                seen = loader.sees(files)
            except BaseException:
                # A disarm that fails as well is not hidden: it has to be dealt with first.
                self.disarm()
                raise
        return ArmReport(
            nonce=request.nonce,
            loader=loader.name,
            entry=entry,
            files=files,
            target=target,
            kernel=machine.kernel,
            modules=[module.name for module in collected.modules],
            identity=collected.identity.items,
            network=(
                None if collected.network is None else str(collected.network["interface"]["name"])
            ),
            notes=notes,
            seen_by_grub=seen,
            trial=trial,
            lifeboat=boat,
        )

    def try_image(self, request: TryRequest) -> TrialReport:
        """Try the new root as arming does, and change nothing. Raises `Refused`, `OSError`."""
        machine, policy, arming = self.machine, self.policy(), request.arming
        approved = approve(machine, policy, arming)
        disks = survey(machine, list(policy.roots), approved.descriptor.size_bytes)
        rows = try_image(
            machine,
            self.imager,
            arming,
            approved,
            collect(machine, arming.identity),
            floor=policy.free_space_floor,
            target_bytes=None if disks.target is None else disks.target.size_bytes,
            seconds=request.seconds,
            silent_seconds=self.trial_silent_seconds,
            kept=self.kept_trials,
        )
        return TrialReport(rows=rows)

    def disarm(self) -> DisarmReport:
        """Make everything as it was before the arming; does nothing where there was none."""
        restored: list[str] = []
        edited: list[str] = []
        removed: list[str] = []
        present = loaders(self.machine)
        for loader in present:
            undone = loader.disarm()
            restored += undone.restored
            edited += undone.edited
            removed += undone.removed
        payloads = self._payloads(present)
        files, notes = self._lifeboat.remove([payload.path for payload in payloads])
        removed += files
        for payload in payloads:
            removed += payload.remove()
        return DisarmReport(restored=restored, edited=edited, removed=removed, notes=notes)

    def forget_lifeboat(self) -> ForgottenReport:
        """Wipe what the imager left of the lifeboat in this system, which it wrote.

        Raises `OSError`.
        """
        found = marker_lifeboat(self.machine)
        if found is None:
            return ForgottenReport()
        nonce, place = found
        return ForgottenReport(notes=self._lifeboat.forget(place, nonce))

    def outcome(self) -> OutcomeReport:
        """Read what the imager left behind, and whether it is armed now."""
        record = problem = None
        present = loaders(self.machine)
        for payload in self._payloads(present):
            try:
                record = job.parse_outcome(read_plain(payload.outcome, OUTCOME_BYTES))
                break
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                problem = f"{payload.directory}/{payload.outcome.name} {reason}."
        found = [loader.armed() for loader in present]
        return OutcomeReport(
            record=record,
            armed=any(armed.next and armed.entry is not None for armed in found),
            entry=any(armed.entry is not None for armed in found),
            entry_nonces=entry_nonces([armed.entry for armed in found if armed.entry is not None]),
            problem=problem,
            system=signs_of(self.machine),
        )

    def evidence(self, *, compare: bool) -> IdentityEvidence:
        """Compare what the imager carried over with what is there. Raises `OSError`."""
        return identity_evidence(self.machine, compare=compare)

    def reboot(self, nonce: str, *, dry_run: bool = False) -> None:
        """Reboot, if the imager is what comes next. Raises `Refused`, `OSError`.

        A dry run ends where nothing is left to do but that.
        """
        loader = next(
            (loader for loader in loaders(self.machine) if _boots(loader.armed(), nonce)), None
        )
        if loader is None:
            raise Refused(f"The next boot is not the imager's of {nonce}; arm it first.")
        record = self.outcome().record
        if record is None or record.nonce != nonce or record.started:
            raise Refused("The outcome record is not that of this arming; disarm, and arm again.")
        payload = self._payload(loader)
        payload.check()
        self._lifeboat.check(payload.path)
        if not self.machine.path("/run/systemd/system").exists():
            raise Refused("This machine is not run by systemd, so it has to be rebooted by hand.")
        program = shutil.which("systemctl", path="/usr/bin:/bin")
        if program is None:
            raise OSError(2, "is not installed", "systemctl")
        if dry_run:
            return
        verb = loader.prepare_reboot()
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            [program, verb, "--no-block"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(5, " ".join(done.stderr.split()) or "failed", f"systemctl {verb}")

    @property
    def _lifeboat(self) -> Lifeboat:
        return Lifeboat(self.machine, self.imager)

    def _explain_lifeboat(
        self, request: ExplainRequest
    ) -> tuple[LifeboatReport | None, Sequence[str]]:
        """Return where the lifeboat would be, and why it is refused to do without."""
        if request.image_bytes is None:
            return None, ()
        try:
            found = self._lifeboat.explain(request.image_bytes, len(request.image or ""))
        except OSError as error:
            found = LifeboatReport(kind="none", reason=f"It cannot be planned: {error}.")
        if request.image is not None:
            table = (json.loads(request.image).get("partition_table") or {}).get("kind")
            if (why := self._no_switch(table)) is not None:
                found = LifeboatReport(kind="none", reason=why)
        if found.kind != "none" or (request.allow_unprotected and not request.require_lifeboat):
            return found, ()
        return found, [_no_place(found.reason or "", forbidden=request.require_lifeboat)]

    def _hold_lifeboat(
        self, request: ArmRequest, policy: Policy, descriptor: Descriptor, initramfs_bytes: int
    ) -> tuple[Place | None, str]:
        """Hold a place for it, or return why there is none. Raises `Refused`, `OSError`."""
        table = descriptor.partition_table
        try:
            if (why := self._no_switch(None if table is None else table.kind)) is not None:
                raise LifeboatError(why)
            place = self._lifeboat.hold(
                descriptor.size_bytes, initramfs_bytes, last=request.grow_root
            )
        except LifeboatError as error:
            if policy.require_lifeboat or not request.allow_unprotected:
                forbidden = policy.require_lifeboat
                raise Refused(_no_place(str(error), forbidden=forbidden)) from None
            return None, str(error)
        return place, ""

    def _no_switch(self, image_table: str | None) -> str | None:
        """Return why an image with such a partition table cannot be the last switch's."""
        if not self.machine.boots_with_efi or image_table == "gpt":
            return None
        return "The image has no GPT, so that with UEFI no one sector decides what boots."

    def _payload(self, loader: Loader | None) -> Payload:
        directory = PAYLOAD if loader is None else loader.payload
        return Payload(self.machine, directory, self.imager)

    def _payloads(self, present: Sequence[Loader]) -> Sequence[Payload]:
        """Return every place where a payload may lie, also where no loader is left."""
        places = dict.fromkeys([PAYLOAD, *(loader.payload for loader in present)])
        return [Payload(self.machine, place, self.imager) for place in places]

    def _source_refusals(self, source: Source) -> Sequence[str]:
        system = system_position(self.machine)
        if isinstance(system, DiskPosition) and system.disk.name in [
            disk.name for disk in source.disks
        ]:
            return ["The staged image is on the disk that would be written over."]
        return []


def _no_place(reason: str, *, forbidden: bool) -> str:
    way_out = (
        "`reimage.require_lifeboat` of the settings forbids to do without one."
        if forbidden
        else "To do without one, ask for `allow_unprotected` (`--allow-unprotected`)."
    )
    return f"{_UNPROTECTED} {reason} {way_out}"


def _changes(loader: Loader | None) -> list[FileReport]:
    return [] if loader is None else [FileReport(path=change) for change in loader.changes]


def _boots(armed: Armed, nonce: str) -> bool:
    return armed.next and f"holdfast.nonce={nonce}" in (armed.entry or "")
