"""Types of values that settings have."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"should be an absolute path, not {str(path)!r}")
    if "\0" in str(path):
        raise ValueError("should not contain a NUL character")
    return Path(os.path.normpath(path))


def no_bool(value: Any) -> Any:
    """Refuse a boolean where a number should be."""
    # bool is an int to Python; in a settings file `true` for a number is a mistake.
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


def none_if_empty(value: Any) -> Any:
    """Take an empty text for an option that is not set."""
    return None if value == "" else value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
OptionalPath = Annotated[AbsolutePath | None, BeforeValidator(none_if_empty)]
Number = Annotated[int, BeforeValidator(no_bool)]
Size = Annotated[ByteSize, BeforeValidator(no_bool)]


class Section(BaseModel, defer_build=True):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
