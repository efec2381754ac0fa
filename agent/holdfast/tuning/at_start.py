"""The profile that is applied when the daemon starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.operations.model import Conflict, OperationFailed, RequestError
from holdfast.tuning.models import ApplyRequest

if TYPE_CHECKING:
    from holdfast.operations.service import Operations
    from holdfast.tuning.service import Tuning

_ACTOR = "start"


@dataclass(frozen=True)
class AtStart:
    """What the settings want applied when the daemon starts."""

    profile: str = ""
    """For a node on which none was ever applied; "" for none."""
    reapply: bool = True
    """Apply again what a boot took back."""

    def apply(self, tuning: Tuning, operations: Operations) -> None:
        """Start the operation, if anything is to be applied; what fails is an event."""
        try:
            request = tuning.unfinished_boot() if self.reapply else None
            if request is None and self.profile and tuning.untouched():
                request = ApplyRequest(profile=self.profile)
            if request is not None:
                operations.start("tuning.apply", request, actor=_ACTOR)
        except (RequestError, OperationFailed, Conflict, OSError) as error:
            tuning.not_started(str(error))
