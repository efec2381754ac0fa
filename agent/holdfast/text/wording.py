"""Describes what is wrong with a value in the project's own words, wherever it was validated.

The library that validates speaks of strings, patterns and value errors. Everything that reaches a
person passes through `plain`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.text.sizes import parse_size

if TYPE_CHECKING:
    from pydantic import ValidationError

_WORDS: dict[str, str] = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "none_required": "must be null",
    "string_type": "must be a string",
    "string_unicode": "must be valid UTF-8 text",
    "string_sub_type": "must be a string",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "dict_type": "must be an object",
    "mapping_type": "must be an object",
    "model_attributes_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "json_invalid": "is not valid JSON",
    "json_type": "must be JSON",
    "recursion_loop": "must not contain itself",
    "bytes_type": "must be bytes",
    "path_type": "must be a path",
    "url_parsing": "must be a URL",
    "url_type": "must be a URL",
    "uuid_parsing": "must be a UUID",
    "uuid_type": "must be a UUID",
    "date_type": "must be a date",
    "date_parsing": "must be a date, for example 2026-11-23",
    "date_from_datetime_parsing": "must be a date, for example 2026-11-23",
    "time_type": "must be a time of day",
    "time_parsing": "must be a time of day",
    "datetime_type": "must be a time, for example 2026-11-23T01:02:03Z",
    "datetime_parsing": "must be a time, for example 2026-11-23T01:02:03Z",
    "datetime_from_date_parsing": "must be a time, for example 2026-11-23T01:02:03Z",
    "datetime_object_invalid": "must be a time, for example 2026-11-23T01:02:03Z",
    "timezone_aware": "must be a time with its zone, for example 2026-11-23T01:02:03Z",
    "time_delta_type": "must be a span of time",
    "time_delta_parsing": "must be a span of time",
    "byte_size": "must be a number of bytes or a size such as 64MiB",
    "byte_size_unit": "must be a number of bytes or a size such as 64MiB",
}

_LIMITS: dict[str, tuple[str, str]] = {
    "greater_than_equal": ("must be at least {}", "ge"),
    "greater_than": ("must be more than {}", "gt"),
    "less_than_equal": ("must be at most {}", "le"),
    "less_than": ("must be less than {}", "lt"),
    "multiple_of": ("must be a multiple of {}", "multiple_of"),
    "string_too_short": ("must have at least {} characters", "min_length"),
    "string_too_long": ("must have at most {} characters", "max_length"),
    "bytes_too_short": ("must have at least {} bytes", "min_length"),
    "bytes_too_long": ("must have at most {} bytes", "max_length"),
    "too_short": ("must have at least {} entries", "min_length"),
    "too_long": ("must have at most {} entries", "max_length"),
    "literal_error": ("must be {}", "expected"),
    "enum": ("must be {}", "expected"),
}

_ONE = {" 1 entries": " one entry", " 1 characters": " one character", " 1 bytes": " one byte"}

_FORMS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\^\[0-9a-f\]\{(\d+)\}\$"), "must be {} hexadecimal digits, in lower case"),
    (re.compile(r"\^/.*"), "must be an absolute path, which begins with `/`"),
    (
        re.compile(r"\^\[a-z\]\[a-z0-9\+\.-\]\*:"),
        "must be a URL, for example `https://…`",
    ),
    (
        re.compile(r"\^\(?\[A-Za-z0-9\]\[A-Za-z0-9_\.-\]\{0,63\}\)?\??\$"),
        "must be a name of letters, digits, `_`, `.` and `-`, 64 characters at most",
    ),
    (
        re.compile(r"\^\[(?:0-9A-Za-z_-|A-Za-z0-9-)\]\{1,(\d+)\}\$"),
        "must be letters, digits and `-`, {} characters at most",
    ),
)
"""Patterns of this project's fields, and their meaning."""

_SIZES = re.compile(r"(^|_)bytes(_per_second)?$")
_SUBJECTS = re.compile(
    r"^(?:Input|String|List|Set|Tuple|Value|Dictionary|Data|URL|UUID|\w+) should "
)


def plain(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a value: "must be at least 1".

    `error` is one of those that a `ValidationError` of pydantic lists.
    """
    kind, context = str(error["type"]), error.get("ctx") or {}
    if kind in ("int_type", "int_parsing", "int_from_float"):
        return _WORDS[kind] + _in_bytes(error)
    if kind in _WORDS:
        return _WORDS[kind]
    if kind in _LIMITS:
        text, key = _LIMITS[kind]
        text = text.format(_number(context.get(key)))
        for many, one in _ONE.items():
            text = text.replace(many, one)
        return text
    if kind == "string_pattern_mismatch":
        return _form(str(context.get("pattern", "")))
    text = str(error["msg"])
    for prefix in ("Value error, ", "Assertion failed, "):
        if text.startswith(prefix):
            return text.removeprefix(prefix).rstrip(".")
    rewritten = _SUBJECTS.sub("must ", text)
    if rewritten == text:
        rewritten = f"is not valid: {text[:1].lower()}{text[1:]}"
    return rewritten.rstrip(".")


def field(error: Mapping[str, Any]) -> str:
    """Return the dotted path of the value that an error is about; empty for the whole."""
    return ".".join(str(part) for part in error["loc"])


def sentence(error: Mapping[str, Any]) -> str:
    """Return which value is wrong, and what is wrong with it."""
    return f"{field(error)} {plain(error)}".strip()


def first(error: ValidationError) -> str:
    """Return what is wrong with the first of the wrong values."""
    return sentence(error.errors(include_url=False)[0])


def sentence_of(error: BaseException) -> str:
    """Return what went wrong, with a full stop at the end."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}."
    text = str(error) or type(error).__name__
    return text if text.endswith((".", "!")) else f"{text}."


def _in_bytes(error: Mapping[str, Any]) -> str:
    """Return a clause that a number of bytes is wanted, with the number for a size with a unit."""
    given = error.get("input")
    number = None
    if isinstance(given, str):
        try:
            number = parse_size(given)
        except ValueError:
            number = None
    name = next((part for part in reversed(error["loc"]) if isinstance(part, str)), "")
    if number is not None and not str(given).strip().isdigit():
        return f", in bytes: {number} for {str(given).strip()}"
    return ", in bytes" if _SIZES.search(name) else ""


def _form(pattern: str) -> str:
    for known, words in _FORMS:
        if match := known.fullmatch(pattern):
            return words.format(*match.groups())
    return "has characters that it may not have, or is of the wrong length"


def _number(value: Any) -> Any:
    """Write a whole number without the point that a limit of a fraction has."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
