"""What is wrong with a value is reported in this project's words, not the library's."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core._pydantic_core import list_all_errors

import holdfast
from holdfast.reimage.models import StageRequest
from holdfast.text.wording import first, plain

_LIBRARY = re.compile(
    r"Input|String should|List should|Value error|Assertion|Field required|pydantic|valid string|"
    r"valid integer|unable to parse|Extra inputs|should match",
)


@pytest.mark.parametrize("error", list_all_errors(), ids=lambda error: error["type"])
def test_no_words_of_the_library(error: dict[str, Any]) -> None:
    context = dict(error.get("example_context") or {})
    message = error["example_message_python"]
    reported = plain({"type": error["type"], "msg": message, "loc": ("x",), "ctx": context})
    assert not _LIBRARY.search(reported), reported
    assert reported.split()[0] in {"must", "is", "has", "needs"} or "error" in error["type"], (
        reported
    )


def models() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."):
        if module.name.rpartition(".")[2] in {"models", "requests", "writes", "wire", "tokens"}:
            members = vars(importlib.import_module(module.name)).values()
            found += [
                member
                for member in members
                if isinstance(member, type) and issubclass(member, BaseModel)
            ]
    return list(dict.fromkeys(model for model in found if model is not BaseModel))


def test_each_pattern_of_a_field_has_words_of_its_own() -> None:
    patterns: set[str] = set()
    for model in models():
        schema = str(model.model_json_schema())
        patterns |= set(re.findall(r"'pattern': '([^']*)'", schema))
    for pattern in patterns:
        reported = plain(
            {"type": "string_pattern_mismatch", "msg": "", "ctx": {"pattern": pattern}}
        )
        assert "[" not in reported, reported


@pytest.mark.parametrize(
    ("field", "value", "reported"),
    [
        ("descriptor_sha256", "bogus", "descriptor_sha256 must be 64 hexadecimal digits"),
        ("descriptor", "nowhere", "descriptor must be a URL"),
        ("sample_percent", 101, "sample_percent must be at most 100"),
        ("identity", "hostname", "identity must be a list"),
    ],
)
def test_a_field_is_named_with_what_it_must_be(field: str, value: object, reported: str) -> None:
    good = {"descriptor": "https://images.example/a.json", "descriptor_sha256": "0" * 64}
    with pytest.raises(ValidationError) as caught:
        StageRequest.model_validate({**good, field: value})
    assert first(caught.value).startswith(reported)
