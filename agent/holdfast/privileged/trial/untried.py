"""What is known of an image that is not here to be tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.privileged.trial.features import features_row
from holdfast.privileged.trial.models import TrialRow


def untried_rows(
    image: Mapping[str, Any], kernel: str, mode: str, sys: Path = Path("/sys")
) -> list[TrialRow]:
    """Return what the descriptor has about an image that is not here, and what is not known."""
    network = mode == "network"
    judged = features_row(image, kernel, sys, decides=network)
    if network:
        detail = (
            "The imager fetches this image, so its root is mounted for the first time once the "
            "disk is written. Whether identity can be carried into it, its users, labels, free "
            "space and inodes are not known before."
        )
        advice = "Stage the image (mode `staged`) to have it tried."
    else:
        detail = (
            "The image is not staged yet. Once it is, its root is mounted, and identity is carried "
            "into a copy of it."
        )
        advice = "Stage it, and ask for the plan again."
    row = TrialRow(check="mount", outcome="not_tried", detail=detail, advice=advice)
    return [row] if judged is None else [judged, row]
