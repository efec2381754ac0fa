"""Patterns in requests: which names are meant, and which are left out."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast import _engine
from holdfast.operations.model import RequestError, Slug


def check_patterns(include: Sequence[str], exclude: Sequence[str]) -> None:
    """Check patterns as the engine will read them. Raises `RequestError` with the field at fault.

    Each list is checked on its own first, then both together.
    """
    for field, included, excluded in (
        ("include", include, []),
        ("exclude", [], exclude),
        ("exclude", include, exclude),
    ):
        try:
            _engine.check_patterns(list(included), list(excluded))
        except ValueError as error:
            reason = str(error)
            raise RequestError(
                Slug.INVALID_REQUEST, f"{reason[0].upper()}{reason[1:]}.", field
            ) from None
