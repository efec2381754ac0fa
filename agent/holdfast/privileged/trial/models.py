"""What a trial of an image found, as plain data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TrialCheck = Literal[
    "features",
    "copy",
    "boot",
    "mount",
    "system",
    "owners",
    "write",
    "grow",
    "space",
    "identity",
    "selinux",
    "cloud_init",
    "marker",
    "check",
]
TrialOutcome = Literal["passed", "warning", "failed", "not_tried"]
_Text = Annotated[str, Field(max_length=16384)]


class TrialRow(BaseModel, defer_build=True):
    """One thing that was tried of the new root, before anything is written."""

    model_config = ConfigDict(frozen=True)

    check: TrialCheck = Field(description="What was tried.")
    outcome: TrialOutcome = Field(
        description="`failed`: it is not armed; `warning`: it works, but see the detail; "
        "`not_tried`: this machine could not try it, or not yet."
    )
    detail: _Text = Field(description="What was found, in sentences.")
    advice: _Text | None = Field(default=None, description="What to do about it, as a sentence.")


def failures(rows: list[TrialRow]) -> list[str]:
    """Return sentences: why the image is not armed."""
    return [
        f"The trial of the new root failed ({row.check}): {row.detail}"
        + (f" {row.advice}" if row.advice else "")
        for row in rows
        if row.outcome == "failed"
    ]


def untried(rows: list[TrialRow]) -> list[str]:
    """Return sentences: what is not known before the write."""
    return [f"Not tried: {row.detail}" for row in rows if row.outcome == "not_tried"]
