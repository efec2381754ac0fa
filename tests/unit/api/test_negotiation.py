from __future__ import annotations

import pytest

from holdfast.api.http.negotiation import choose, media_type_of

EVENTS = ("text/event-stream", "application/x-ndjson", "text/plain")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "text/event-stream"),
        ("", "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("text/plain", "text/plain"),
        ("TEXT/Plain; charset=utf-8", "text/plain"),
        ("text/*", "text/event-stream"),
        ("application/*", "application/x-ndjson"),
        ("text/plain;q=0.5, application/x-ndjson;q=0.9", "application/x-ndjson"),
        ("text/plain;q=0.5, */*;q=0.1", "text/plain"),
        ("*/*, text/event-stream;q=0", "application/x-ndjson"),
        ("text/*;q=0.2, text/plain;q=0.9, */*;q=0.3", "text/plain"),
        ("text/event-stream;q=0.1, application/x-ndjson; q=0.1", "text/event-stream"),
        ("image/png", None),
        ("text/plain;q=0", None),
        ("text/plain;q=nonsense", None),
        ("image/png, ,;, text/plain", "text/plain"),
    ],
)
def test_choice(accept: str | None, expected: str | None) -> None:
    assert choose(accept, EVENTS) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("application/json", ("application/json", None)),
        ("Application/JSON; Charset=UTF-8", ("application/json", "utf-8")),
        ('application/json; charset="utf-16"', ("application/json", "utf-16")),
    ],
)
def test_content_type(given: str, expected: tuple[str, str | None]) -> None:
    assert media_type_of(given) == expected
