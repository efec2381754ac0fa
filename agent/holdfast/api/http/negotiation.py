"""Chooses a representation by the Accept header, RFC 9110 section 12.5.1.

Strangers' headers are read here: the time taken is linear in their length, which is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_ACCEPT = 1024
MAX_CONTENT_TYPE = 256
_Range = tuple[str, str, float]


def choose(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the offered media type that `accept` likes best, or None if it takes none of them.

    Among equals the first one offered wins; without a header the first one is meant. A range that
    names a type outweighs a wildcard that covers it, whichever comes first.
    """
    ranges = _parse(accept)
    if not ranges:
        return offered[0]
    best, best_weight = None, 0.0
    for media_type in offered:
        weight = _weight(media_type, ranges)
        if weight > best_weight:
            best, best_weight = media_type, weight
    return best


def media_type_of(content_type: str) -> tuple[str, str | None]:
    """Return the media type of a Content-Type header and its charset, both in lower case.

    The media type is empty where the header has none. Parameters are `name=token` or
    `name="text"`; quoted pairs, which no charset has, are left as they are.
    """
    media_type, _, rest = content_type[:MAX_CONTENT_TYPE].partition(";")
    charset = None
    for parameter in rest.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and charset is None:
            charset = value.strip().strip('"').lower() or None
    main, _, sub = media_type.strip().lower().partition("/")
    return (f"{main}/{sub}" if main and sub else ""), charset


def _parse(accept: str | None) -> list[_Range]:
    ranges: list[_Range] = []
    for item in (accept or "").split(","):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        main, slash, sub = media_range.lower().partition("/")
        if not slash or not main or not sub:
            continue
        ranges.append((main, sub, _quality(parameters)))
    return ranges


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def _weight(media_type: str, ranges: Sequence[_Range]) -> float:
    main, _, sub = media_type.partition("/")
    found = (-1, 0.0)
    for range_main, range_sub, quality in ranges:
        if range_main not in ("*", main) or range_sub not in ("*", sub):
            continue
        found = max(found, ((range_main != "*") + (range_sub != "*"), quality))
    return found[1]
