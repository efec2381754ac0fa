"""What is wrong with a profile, or went wrong with a change, as problems to return."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from holdfast.operations.model import FieldError, OperationFailed, Problem, Slug
from holdfast.tuning.changes.transaction import ChangeFailed
from holdfast.tuning.profile.layers import ProfileError


class blamed(AbstractContextManager[None]):  # noqa: N801 - reads as a function
    """Turns what is wrong with a profile into a problem that names file, line and key."""

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if not isinstance(error, ProfileError):
            return
        listed = "; ".join(str(mistake) for mistake in error.mistakes[:5])
        more = f"; and {len(error.mistakes) - 5} more" if len(error.mistakes) > 5 else ""
        detail = f"{listed}{more}"
        raise OperationFailed(
            Problem.of(
                Slug.INVALID_REQUEST,
                f"The profile cannot be used: {detail}{'' if detail.endswith('?') else '.'}",
                errors=[
                    FieldError(
                        field=f"{mistake.file}:{mistake.line}: {mistake.key}"
                        if mistake.line
                        else mistake.file,
                        message=mistake.message,
                    )
                    for mistake in error.mistakes
                ],
            )
        ) from error


def problem_of(error: ChangeFailed) -> Problem:
    """Name the setting, the reason, what was reverted and what could not be."""
    failure = error.failure
    reverted = [str(knob) for knob in error.reverted]
    if error.left:
        left = "; ".join(map(str, error.left))
        after = (
            f"what had been written could not be reverted completely: {left}. That is kept in "
            "`holdfast tune show`, and tried again"
        )
    elif reverted:
        many = "one setting" if len(reverted) == 1 else f"{len(reverted)} settings"
        after = f"all that had been written was reverted ({many})"
    else:
        after = "nothing was changed"
    denied = "" if not failure.denied else "; holdfast needs to run as root for this"
    return Problem.of(
        Slug.NOT_PERMITTED if failure.denied else Slug.IO_ERROR,
        f"Not done: {failure.knob} {failure.reason}{denied}; {after}.",
        setting={
            "subsystem": failure.knob.subsystem,
            "target": failure.knob.target,
            "name": failure.knob.name,
        },
        reason=failure.reason,
        reverted=reverted,
        not_reverted=[str(setting.knob) for setting in error.left],
    )
