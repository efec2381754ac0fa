"""The attempt of this machine: its job on the disk, and its states.

docs/reimage.md has the states. Every transition is on the disk before anybody sees it.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
from pathlib import Path
from typing import Any

from holdfast.node.paths.files import read_text
from holdfast.operations.model import RequestError, Slug, now
from holdfast.reimage.models import StageRequest, Transition
from holdfast.reimage.states import ReimageState, check_transition
from holdfast.reimage.store import Job, JobStore
from holdfast.text.wording import sentence_of

log = logging.getLogger(__name__)

_S = ReimageState


class Attempt:
    """The job that is remembered. Methods may be called from any thread; `lock` is reentrant."""

    def __init__(self, state_dir: Path) -> None:
        self.store = JobStore(state_dir)
        self.boot_id = read_text(Path("/proc/sys/kernel/random/boot_id")) or ""
        self.lock = threading.Condition(threading.RLock())
        """Notified at every change of the job."""
        self.job: Job | None = None
        self.problem: str | None = None
        """Why the job on the disk cannot be read."""

    def load(self) -> None:
        """Read where the last process was."""
        try:
            self.job = self.store.load()
        except RequestError as error:
            self.problem = error.detail
            log.error("re-imaging: %s", error.detail)

    @property
    def state(self) -> ReimageState:
        """Where it is; `idle` if there never was one."""
        with self.lock:
            return self.job.state if self.job is not None else _S.IDLE

    def require(self) -> Job:
        """Return the job, where there has to be one."""
        with self.lock:
            if self.job is None:
                raise RuntimeError("there is no attempt")
            return self.job

    def in_state(self, *states: ReimageState) -> Job:
        """Return the job if it is in one of these. Raises `RequestError` otherwise."""
        with self.lock:
            job = self.job
            state = job.state if job is not None else _S.IDLE
            if job is None or state not in states:
                wanted = " or ".join(f"`{allowed}`" for allowed in states)
                raise RequestError(
                    Slug.CONFLICT,
                    f"This needs state {wanted}, and the state is `{state}`; see GET /v1/reimage.",
                )
            return job

    def wait(self, seconds: float) -> None:
        """Wait until the job changes, or for so long."""
        with self.lock:
            self.lock.wait(seconds)

    def image_directory(self, job: Job) -> Path:
        """Return where the job's image is kept."""
        if job.image is None:
            raise RuntimeError("the image is not known yet")
        return self.store.image_directory(job.image.descriptor_sha256)

    # What changes it. All raise `OSError` if it cannot be written, and then nothing has changed.

    def begin(self, operation: str, request: StageRequest) -> None:
        """Forget the last attempt, and begin one."""
        with self.lock:
            job = Job(
                operation=operation,
                nonce=secrets.token_hex(16),
                secret=secrets.token_hex(32),
                request=request,
                calls=[] if self.job is None else self.job.calls,
                unsettled=self.state in (_S.BOOTED, _S.UNCONFIRMED, _S.UNKNOWN),
            )
            why = "Asked for."
            if self.store.previous.of(request.descriptor_sha256) is not None:
                last = self.job
                tried = last is not None and last.rollback_begun and not last.rollback_problem
                automatic = bool(tried) and self.state is _S.UNCONFIRMED
                job = job.model_copy(
                    update={
                        "restores": True,
                        "rollback_of": last.operation if last is not None else None,
                        "automatic": automatic,
                    }
                )
                why = "A rollback to the system that was kept" + (
                    ": the new one was not confirmed in time." if automatic else ", as asked for."
                )
            self._set(job)
            self._move(_S.IDLE, _S.STAGING, why)

    def update(self, **members: Any) -> None:
        """Change members of the job."""
        with self.lock:
            self._set(self.require().model_copy(update=members))

    def move(self, state: ReimageState, why: str, **members: Any) -> None:
        """Go to another state, and change members of the job, in one write.

        `why` is a sentence for people. Raises `TransitionError` unless `states.py` allows it.
        """
        with self.lock:
            self._move(self.require().state, state, why, **members)

    def confirmed(self, why: str) -> None:
        """Keep the new system for good."""
        self.move(_S.CONFIRMED, why, confirmed_at=now(), reason=None)
        self.clear_images()

    def unconfirmed(self, why: str) -> None:
        """Report loudly that the new system runs and is not known to be good."""
        self.move(_S.UNCONFIRMED, why, reason=why)
        log.error("re-imaging: the new system is NOT CONFIRMED: %s", why)

    def unknown(self, why: str) -> None:
        """Report loudly that nothing proves which system runs; deletes nothing."""
        if self.state is _S.UNKNOWN:
            self.update(reason=why)
        else:
            self.move(_S.UNKNOWN, why, reason=why)
        log.error("re-imaging: UNKNOWN which system runs: %s", why)

    @property
    def in_its_boot(self) -> bool:
        """Whether there was no boot since the machine was armed, if it was: the old system runs."""
        with self.lock:
            job = self.job
            return job is None or job.boot_id in (None, self.boot_id)

    def fail(self, why: str) -> None:
        """End it in the old system, which has to be proven to run."""
        self.move(_S.FAILED, why, reason=why, armed=None)
        log.error("re-imaging: FAILED: %s", why)

    def clear_images(self, keep: str | None = None) -> None:
        """Remove images that nothing needs any more, except that of this digest."""
        if not self.store.images.is_dir():
            return
        try:
            for directory in self.store.images.iterdir():
                if directory.name != keep:
                    shutil.rmtree(directory)
        except OSError as error:
            # The space is lost, and the attempt is not.
            log.warning("an image that is not needed was not removed: %s", sentence_of(error))

    def _set(self, job: Job) -> None:
        self.store.save(job)
        self.job = job
        self.lock.notify_all()

    def _move(self, previous: ReimageState, state: ReimageState, why: str, **members: Any) -> None:
        check_transition(previous, state)
        job = self.require()
        entry = Transition(at=now(), previous=previous, state=state, why=why)
        members |= {"state": state, "history": [*job.history, entry]}
        self._set(job.model_copy(update=members))
        log.info("re-imaging %s: %s -> %s: %s", job.operation, previous, state, why)
