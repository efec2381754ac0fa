"""Pieces of requests and results that capabilities share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Bytes = Annotated[int, Field(ge=0, le=2**63 - 1, description="In bytes.")]
Count = Annotated[int, Field(ge=0, description="How many.")]
PathText = Annotated[str, Field(min_length=1, max_length=4096)]
AbsolutePath = Annotated[PathText, Field(json_schema_extra={"pattern": "^/"})]
"""That it begins with a slash is checked where it is resolved, with a better sentence."""


class Request(BaseModel):
    """A body sent by a client: an unknown field is an error, and so is "yes" for true."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Located(BaseModel):
    """Something on disk.

    Where its path is not UTF-8, `path` has U+FFFD in place of what cannot be shown, and `path_b64`
    has the bytes.
    """

    path: str
    path_b64: str | None = None
