"""Suggests which route was probably meant by a path that has none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from fastapi import Request

from holdfast.api.http.rendering import one_line

_VERSION = "/v1"
_MOST_GUESSED = 64
"""Characters of the longest path that is compared with others: that takes quadratic time."""
_MOST_PARTS = 8


def no_such_path(request: Request) -> str:
    """Return a sentence about a path that no route has."""
    path = request.url.path
    sentence = f"There is nothing at {one_line(path)[:200]}"
    known: Sequence[str] = request.app.state.paths
    for candidate, why in _written_otherwise(path):
        if any(_fits(candidate, template) for template in known):
            return f"{sentence}; {why}: {one_line(candidate)[:200]}."
    meant = _similar(path, known)
    if meant is not None:
        return f"{sentence}; did you mean {one_line(meant)[:200]}?"
    return f"{sentence}; GET / lists what is."


def _written_otherwise(path: str) -> Iterable[tuple[str, str]]:
    """Yield paths that are written a little otherwise, and what the difference is."""
    single = re.sub(r"/{2,}", "/", path)
    if single != path:
        yield single, "write single slashes"
    if len(single) > 1 and single.endswith("/"):
        yield single.rstrip("/"), "write it without the slash at the end"
    plain = single.rstrip("/")
    if not plain.lower().startswith(_VERSION + "/"):
        yield _VERSION + plain, "paths begin with /v1"
    if plain.lower() != plain:
        yield plain.lower(), "write it in lower case"


def _fits(path: str, template: str) -> bool:
    """Whether a path is one of a template such as `/v1/operations/{operation_id}`."""
    parts, wanted = path.split("/"), template.split("/")
    return len(parts) == len(wanted) and all(
        part == want or (want.startswith("{") and part != "")
        for part, want in zip(parts, wanted, strict=True)
    )


def _similar(path: str, known: Iterable[str]) -> str | None:
    """Return the most similar path, with the ids in it left unchanged."""
    parts = path.rstrip("/").split("/")
    if len(path) > _MOST_GUESSED or len(parts) > _MOST_PARTS:
        return None
    filled = {}
    for template in known:
        wanted = template.split("/")
        if len(wanted) == len(parts):
            whole = [
                part if want.startswith("{") and part else want
                for part, want in zip(parts, wanted, strict=True)
            ]
            filled["/".join(whole)] = template
    # Of those that take an id where a word was mistyped, the more special ones come first.
    names = sorted(filled, key=lambda each: filled[each].count("{"))
    close = difflib.get_close_matches("/".join(parts), names, n=1, cutoff=0.75)
    return close[0] if close else None
