"""The page on the HTTP API names what there is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi.routing import APIRoute

from holdfast.api.app import ROUTERS
from holdfast.api.contract.routing import StrictRoute, spec_of
from holdfast.operations.ids import new_id
from holdfast.operations.model import Slug

PAGE = (Path(__file__).parents[3] / "docs" / "http-api.md").read_text()


def test_every_type_of_problem_is_named_with_its_status() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", PAGE, re.MULTILINE))
    without_status = {
        Slug.CANCELLED,
        Slug.INTERRUPTED,
        Slug.INSUFFICIENT_MEMORY,
        Slug.NOT_REIMAGED,
        Slug.NOT_CONFIRMED,
    }
    assert rows == {slug.value: str(slug.status) for slug in Slug if slug not in without_status}
    assert all(f"`{slug.value}`" in PAGE for slug in without_status)


def test_every_route_is_named() -> None:
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            method = min(route.methods or {"none"})
            shown = re.sub(r"{\w+}", "{id}", route.path)
            assert f"`{method} {shown}`" in PAGE, shown


def test_every_route_is_strict_and_says_what_it_needs() -> None:
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, StrictRoute)
            assert spec_of(route.endpoint).scope


def test_the_ids_shown_are_ids() -> None:
    ids = re.findall(r"\b01[0-9A-Z]{20,}\b", PAGE)
    assert ids
    assert all(len(id_) == len(new_id()) for id_ in ids)


def test_the_model_of_a_body_is_built_at_the_start() -> None:
    """A request would build it in the event loop, and the framework's adapter with a warning."""
    for router in ROUTERS:
        for route in router.routes:
            if route.body_field is not None:
                model = route.body_field.field_info.annotation
                assert not getattr(model, "model_config", {}).get("defer_build"), model
