"""Tuning as the settings want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.privileged import privileged
from holdfast.tuning.at_start import AtStart
from holdfast.tuning.service import Tuning

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.config import Settings


def tuning_of(settings: Settings, state_dir: Path) -> Tuning:
    """Make the capability; nothing is written before its `prepare`."""
    wanted = settings.tuning
    return Tuning(
        roots=settings.roots,
        state_dir=state_dir,
        profiles_dir=wanted.profiles_dir,
        journal_dir=wanted.journal_dir,
        privileged=privileged(settings.helper),
        at_start=AtStart(wanted.profile, reapply=wanted.reapply),
        check_seconds=wanted.check_seconds,
    )
