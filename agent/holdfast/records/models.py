"""Pieces of requests and results that capabilities share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Bytes = Annotated[int, Field(ge=0, le=2**63 - 1, description="In bytes.")]
Count = Annotated[int, Field(ge=0, description="How many.")]
PathText = Annotated[str, Field(min_length=1, max_length=4096)]
AbsolutePath = Annotated[PathText, Field(json_schema_extra={"pattern": "^/"})]
"""That it begins with a slash is checked where it is resolved, with a better sentence."""


class Request(BaseModel):
    """A body sent by a client: an unknown field is an error, and so is "yes" for true."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Located(BaseModel, defer_build=True):
    """Something on disk.

    Where its path is not UTF-8, `path` has U+FFFD in place of what cannot be shown, and `path_b64`
    has the bytes.
    """

    path: str
    path_b64: str | None = None


class LeftOut(BaseModel, defer_build=True):
    """What was left out for one reason: names, each with all that is below it."""

    count: Count
    examples: list[Located] = Field(default_factory=list, description="Some of them, at most 20.")


LeftOutByReason = Annotated[
    dict[str, LeftOut],
    Field(
        default_factory=dict,
        description="What of the roots was left out, by reason: `other_filesystem` (something is "
        "mounted there), `excluded` (by a pattern), `permission_denied`, `not_permitted` (its "
        "residency is not reported to this process), `dax`, `uncached`, `not_a_file`, `error`. A "
        "name includes all that is below it. Links, devices and second names of a file hold "
        "nothing of their own, and are not here.",
    ),
]


class ReservedRecord(NamedTuple):
    """Where the engine writes a record that it will make."""

    destination: Path
    journal: Path
    """The checkpoint of the build."""
    max_bytes: int
    """Of a record, to decompress at most."""
