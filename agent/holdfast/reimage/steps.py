"""The steps that callers take: arm, disarm, reboot, confirm.

Each is done once for one key, in the attempt that its caller means; `acting` is held meanwhile, so
that there is one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from holdfast.operations.model import RequestError, Slug, now
from holdfast.privileged import Privileged
from holdfast.privileged.boot.models import (
    ArmReport,
    ArmRequest,
    NetworkImage,
    StagedImage,
    StatusServer,
)
from holdfast.privileged.writes import Refused
from holdfast.reimage.after_boot.lifeboat import forget_lifeboat
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.calls import Call
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.interlock.interlock import Interlock
from holdfast.reimage.models import AttemptRequest, ConfirmRequest, RebootRequest, StepRequest
from holdfast.reimage.planning.layout import layout_of
from holdfast.reimage.states import ReimageState
from holdfast.reimage.store import Job
from holdfast.text.wording import sentence_of

_S = ReimageState
_Report = TypeVar("_Report")


@dataclass(frozen=True)
class Steps:
    """Takes the steps. Methods raise `RequestError`, also with the reason why a step was not taken.

    Of a call that was made before with the same key nothing is done again.
    """

    attempt: Attempt
    acting: threading.Lock
    """Held by the thread that changes the boot loader."""
    privileged: Privileged
    interlock: Interlock
    images: ImageLibrary
    roots: Sequence[Path]
    status_server: StatusServer | None
    ca_file: Path | None

    def arm(self, request: StepRequest, key: str | None) -> ArmReport | None:
        """Have the next boot be the imager's. Returns what a dry run found, otherwise None."""
        call = Call("arm", request, key)
        with self.acting:
            if self._done(call):
                return None
            job = self.attempt.in_state(_S.STAGED, _S.ARMED)
            if job.state is _S.STAGED:
                if not job.restores:  # that one is this machine's own, and has no signature
                    self._check_signature(job)
                if request.dry_run:
                    rehearsal = self._arming(job).model_copy(update={"dry_run": True})
                    return self._ask(lambda: self.privileged.arm(rehearsal))
                self._arm(job, call)
            elif not request.dry_run:
                self._record(call)
        return None

    def _arm(self, job: Job, call: Call) -> None:
        if job.request.save_previous:
            self.attempt.store.previous.prepare()
        signs = self._ask(self.privileged.boot_outcome).system
        # On the disk first: if this process ends meanwhile, its successor takes it back.
        self.attempt.update(
            layout=layout_of(self.roots), boot_id=self.attempt.boot_id, old_system=signs
        )
        try:
            report = self._ask(lambda: self.privileged.arm(self._arming(job)))
        except RequestError:
            # The answer may be what got lost. Unless this succeeds too, `boot_id` stays:
            # cancelling, or the daemon's next start, reverts what may be armed.
            self._ask(self.privileged.disarm)
            self.attempt.update(boot_id=None)
            raise
        self.attempt.move(
            _S.ARMED,
            f"{report.loader} boots the imager once, next time.",
            armed=report,
            calls=call.recorded(self.attempt.require(), self.attempt.boot_id),
        )

    def disarm(self, request: AttemptRequest, key: str | None) -> None:
        """Take the arming back, byte for byte; what was staged stays.

        In state `unknown`, what may be left of it, on the word of the caller; the state stays.
        """
        call = Call("disarm", request, key)
        with self.acting:
            if self._done(call):
                return
            job = self.attempt.in_state(_S.STAGED, _S.ARMED, _S.UNKNOWN)
            calls = call.recorded(job, self.attempt.boot_id)
            if job.state is _S.STAGED:
                self._record(call)
            if job.state is _S.UNKNOWN:
                self._ask(self.privileged.disarm)
                self.attempt.update(armed=None, calls=calls)
            if job.state is _S.ARMED:
                self._ask(self.privileged.disarm)
                self.attempt.move(
                    _S.STAGED,
                    "Disarmed: the boot loader is as it was.",
                    armed=None,
                    boot_id=None,
                    automatic=False,
                    calls=calls,
                )

    def reboot(self, request: RebootRequest, key: str | None) -> None:
        """Reboot into the imager, once all gates allow it.

        A reboot that was ordered in an earlier boot is done, whatever runs now; one of this boot
        that has left the machine armed has come to nothing, and is ordered again.
        """
        call = Call("reboot", request, key)
        with self.acting:
            if self._done(call, undone=_S.ARMED):
                return
            job = self.attempt.in_state(_S.ARMED)
            # What cannot be done is not asked for.
            self._ask(lambda: self.privileged.reboot(job.nonce, dry_run=True))
        if request.dry_run:
            self.interlock.rehearse()
            return
        # Without `acting`: it may take long, and can be disarmed or cancelled meanwhile.
        with self.interlock.passing(job, force=request.force) as last_look, self.acting:
            if self._done(call, undone=_S.ARMED):
                return
            if self.attempt.in_state(_S.ARMED).nonce != job.nonce:
                raise RequestError(Slug.CONFLICT, "Another attempt was armed meanwhile.")
            last_look()
            self._order(call)

    def _order(self, call: Call) -> None:
        job = self.attempt.require()
        # With the key in the same write: either both are known after the boot, or neither is.
        self.attempt.move(
            _S.REBOOTING,
            "The reboot was ordered.",
            rebooted_at=now(),
            calls=call.recorded(job, self.attempt.boot_id),
        )
        try:
            self._ask(lambda: self.privileged.reboot(job.nonce))
        except RequestError as error:
            undone: dict[str, Any] = {"calls": job.calls}
            if error.slug is Slug.CONFLICT:
                # Refused; after any other error it may be on its way down.
                undone["rebooted_at"] = job.rebooted_at
            self.attempt.move(_S.ARMED, f"The machine was not rebooted: {error.detail}", **undone)
            raise

    def confirm(self, request: ConfirmRequest, key: str | None) -> bool:
        """Take the new system for good; False if its checks have to be made again first."""
        call = Call("confirm", request, key)
        with self.acting, self.attempt.lock:
            if self._done(call):
                return True
            job = self.attempt.in_state(_S.BOOTED, _S.UNCONFIRMED, _S.UNKNOWN, _S.CONFIRMED)
            if job.state is _S.BOOTED and not job.checks:
                raise RequestError(
                    Slug.CONFLICT, "The new system is still being checked; confirm it afterwards."
                )
            if job.rollback_begun is not None and job.rollback_problem is None:
                raise RequestError(
                    Slug.CONFLICT, "The old system is being put back already; it is too late."
                )
            if job.state in (_S.UNCONFIRMED, _S.UNKNOWN) and not request.override:
                return False
            if job.state is not _S.CONFIRMED:
                failed = [check.name for check in job.checks if not check.passed]
                although = f", although these checks failed: {', '.join(failed)}" if failed else ""
                if job.state is _S.UNKNOWN:
                    although = ", although nothing proved that the new system runs"
                forget_lifeboat(job, self.privileged)
                self.attempt.confirmed(f"Confirmed on request{although}.")
            self._record(call)
        return True

    def _done(self, call: Call, *, undone: ReimageState | None = None) -> bool:
        """Return whether a call was made before with its key.

        `undone` is a state that shows, in the same boot, that it came to nothing.
        """
        job = self.attempt.job
        known = call.done(job)
        if known is not None and job is not None:
            return not (job.state is undone and known.boot_id == self.attempt.boot_id)
        call.expect(job)
        return False

    def _record(self, call: Call) -> None:
        """Remember a call with a key that changed nothing else."""
        if call.key is not None:
            calls = call.recorded(self.attempt.require(), self.attempt.boot_id)
            self.attempt.update(calls=calls)

    def _check_signature(self, job: Job) -> None:
        """Refuse to arm if the key that signed is not trusted any more. Raises `RequestError`."""
        try:
            self.images.check_again(job.request, self.attempt.image_directory(job))
        except OSError as error:
            raise RequestError(Slug.IO_ERROR, sentence_of(error)) from error

    def _arming(self, job: Job) -> ArmRequest:
        directory = self.attempt.image_directory(job)
        try:
            signatures = self.images.signatures(directory)
        except OSError as error:
            raise RequestError(Slug.IO_ERROR, sentence_of(error)) from error
        source: StagedImage | NetworkImage
        if job.request.mode == "staged":
            source = StagedImage(path=str(directory / "image"))
        else:
            source = NetworkImage(url=job.content_url or "")
        return ArmRequest(
            nonce=job.nonce,
            secret=job.secret,
            operation=job.operation,
            descriptor_path=str(directory / "descriptor.json"),
            descriptor_sha256=directory.name,
            signatures=signatures.hex(),
            source=source,
            identity=job.request.identity,
            grow_root=job.request.grow_root,
            allow_unprotected=job.request.allow_unprotected,
            save_previous=str(self.attempt.store.previous.place(job.nonce))
            if job.request.save_previous
            else None,
            status=self.status_server,
            ca=None if self.ca_file is None else str(self.ca_file),
        )

    def _ask(self, call: Callable[[], _Report]) -> _Report:
        """Ask who has the rights. Raises `RequestError`."""
        try:
            return call()
        except Refused as error:
            raise RequestError(Slug.CONFLICT, str(error)) from error
        except OSError as error:
            raise RequestError(Slug.IO_ERROR, sentence_of(error)) from error
