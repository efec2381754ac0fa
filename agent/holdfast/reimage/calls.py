"""What a call of a step may carry: which attempt it means, and an idempotency key.

Both are kept with the attempt, on the data volume: a call is recognised after a boot as well, by
the new system as by the old one.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.operations.idempotency import check_key, digest_of
from holdfast.operations.model import RequestError, Slug, now
from holdfast.reimage.models import AttemptRequest, StageRequest
from holdfast.reimage.states import ReimageState
from holdfast.reimage.store import Job, StepCall

_MOST_CALLS = 64
"""Calls that are remembered, those of earlier attempts among them."""


@dataclass(frozen=True)
class Call:
    """A call of a step: its name in the API, what was asked, and the caller's key, if any."""

    step: str
    request: AttemptRequest
    key: str | None = None

    def done(self, job: Job | None) -> StepCall | None:
        """Return the record of this call, None if it was not made with this key before.

        Raises `RequestError` if the key was used for another request or in another attempt, or is
        no key.
        """
        check_key(self.key)
        if job is None or self.key is None:
            return None
        known = next((each for each in job.calls if each.key == self.key), None)
        if known is None:
            return None
        if (known.step, known.digest) != (self.step, self._digest()):
            raise key_used(known)
        if known.operation != job.operation:
            raise RequestError(
                Slug.CONFLICT,
                f"This `{self.step}` was done in the attempt of operation {known.operation}, which "
                f"is over; what is there now is {described(job)}.",
                **_present(job),
            )
        return known

    def expect(self, job: Job | None) -> None:
        """Raise `RequestError` unless the caller means this attempt."""
        wanted = self.request.operation
        if wanted is not None and (job is None or job.operation != wanted):
            raise RequestError(
                Slug.CONFLICT,
                f"The attempt here is not that of operation {wanted}, but {described(job)}. "
                f"Nothing was done.",
                **_present(job),
            )

    def recorded(self, job: Job, boot_id: str) -> list[StepCall]:
        """Return the calls to remember once this one is done."""
        if self.key is None:
            return job.calls
        record = StepCall(
            step=self.step,
            key=self.key,
            digest=self._digest(),
            operation=job.operation,
            boot_id=boot_id,
            at=now(),
        )
        others = [each for each in job.calls if each.key != self.key]
        return [*others, record][-_MOST_CALLS:]

    def _digest(self) -> str:
        return digest_of(self.step, self.request)


def key_used(known: StepCall) -> RequestError:
    """Return the refusal of a key that a step was called with before."""
    return RequestError(
        Slug.IDEMPOTENCY_MISMATCH,
        f"The idempotency key was already used for `{known.step}` of operation {known.operation} "
        "with another request; use a new key for a new request.",
        operation=known.operation,
    )


def described(job: Job | None) -> str:
    """Name an attempt for a person: its operation, image and state."""
    if job is None:
        return "none at all"
    image = "" if job.image is None else f" ({job.image.name} {job.image.image_version})"
    return f"that of operation {job.operation}{image}, in state `{job.state}`"


def _present(job: Job | None) -> dict[str, str | None]:
    """Return what is there instead, for programs."""
    return {
        "operation": None if job is None else job.operation,
        "state": (ReimageState.IDLE if job is None else job.state).value,
        "image": None if job is None or job.image is None else job.image.descriptor_sha256,
    }


def check_wishes(request: StageRequest) -> None:
    """Raise `RequestError` for wishes that do not go together."""
    if request.rollback == "automatic" and not request.save_previous:
        raise RequestError(
            Slug.INVALID_REQUEST,
            "An automatic rollback needs the old system to be kept: ask for `save_previous` too.",
            "rollback",
        )
