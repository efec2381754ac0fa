"""What becomes of the lifeboat once the new system is confirmed: nothing of it is left."""

from __future__ import annotations

import logging

from holdfast.privileged import Privileged
from holdfast.privileged.writes import Refused
from holdfast.reimage.store import Job
from holdfast.text.wording import sentence_of

log = logging.getLogger(__name__)


def forget_lifeboat(job: Job, privileged: Privileged) -> None:
    """Have what the imager left of the lifeboat wiped; a fault is logged, and undoes nothing."""
    if job.imager is None or job.imager.lifeboat is None:
        return
    try:
        notes = privileged.forget_lifeboat().notes
    except (Refused, OSError) as error:
        notes = [f"What is left of the lifeboat could not be wiped: {sentence_of(error)}"]
    for note in notes:
        log.warning("re-imaging: %s", note)
