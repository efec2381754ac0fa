"""Chooses a representation by the Accept header, RFC 9110 section 12.5.1."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message

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
    """Return the media type of a Content-Type header and its charset, both in lower case."""
    message = Message()
    message["content-type"] = content_type
    charset = message.get_param("charset")
    return message.get_content_type(), str(charset).lower() if charset else None


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
