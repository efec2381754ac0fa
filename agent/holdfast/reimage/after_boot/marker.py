"""What the imager leaves in the system that it wrote: how that system knows where it is from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from holdfast.reimage.models import ImagerReport
from holdfast.text.wording import first

MARKER = Path("/etc/holdfast/reimaged.json")
_MOST_BYTES = 1 << 20


class MarkerImage(BaseModel, defer_build=True):
    """The image that was written."""

    name: str
    image_version: str
    descriptor_sha256: str


class MarkerIdentity(BaseModel, defer_build=True):
    """What was carried over. The digests of it are for root's helper, which compares."""

    carried: list[str] = Field(default_factory=list)
    problems: list[str] = Field(default_factory=list)


class Marker(ImagerReport):
    """The file."""

    format: Literal["holdfast-reimaged"]
    version: Literal[1]
    nonce: str
    secret: str | None = None
    """Proves that it is of the job that has the same one; only root and the agent may know it."""
    operation: str
    image: MarkerImage
    identity: MarkerIdentity


def read_marker(path: Path = MARKER) -> Marker | None:
    """Read it; None if this system was not written by the imager. Raises `OSError`, `ValueError`.

    A file that cannot be read or understood is an error: it would be wrong to report that there is
    none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Marker.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"{path} cannot be understood: {first(error)}") from None
