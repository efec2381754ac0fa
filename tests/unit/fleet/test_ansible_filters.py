"""The filters of the Ansible collection: batches that never span two zones, and TOML."""

from __future__ import annotations

import itertools
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fleet.ansible import plugin

pytest.importorskip("ansible")

ZONES = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=40).map(
    lambda zones: {f"n{number}": zone for number, zone in enumerate(zones)}
)
PER_AZ = st.one_of(
    st.integers(1, 12),
    st.integers(1, 12).map(str),
    st.integers(1, 100).map(lambda share: f"{share}%"),
    st.just("all"),
)


def batches(zones: Any, **options: Any) -> list[list[str]]:
    found: list[list[str]] = plugin("filter.az_batches").az_batches(zones, **options)
    return found


@settings(deadline=None)
@given(ZONES, PER_AZ, st.integers(0, 50), st.none() | st.integers(1, 10))
def test_batches_never_span_two_zones(
    zones: dict[str, str], per_az: int | str, canary: int, most: int | None
) -> None:
    found = batches(zones, per_az=per_az, canary=canary, max_parallel=most)
    sizes = {zone: list(zones.values()).count(zone) for zone in zones.values()}
    # Each host once, and none twice.
    assert sorted(host for batch in found for host in batch) == sorted(zones)
    order = []
    for batch in found:
        (zone,) = {zones[host] for host in batch}
        order.append(zone)
        if per_az == "all":
            limit = sizes[zone]
        elif str(per_az).endswith("%"):
            limit = max(1, sizes[zone] * int(str(per_az)[:-1]) // 100)
        else:
            limit = int(per_az)
        assert 1 <= len(batch) <= min(limit, most or limit)
    # A zone is left once, and not entered again.
    assert len([1 for a, b in itertools.pairwise(order) if a != b]) == max(0, len(sizes) - 1)
    # Canaries end with a batch of their own.
    first = 0
    for batch in found:
        if first >= canary:
            break
        first += len(batch)
    assert first == min(canary, len(zones))


@settings(deadline=None)
@given(ZONES.filter(bool), st.integers(1, 5))
def test_the_canary_comes_first_and_alone(zones: dict[str, str], canary: int) -> None:
    found = batches(zones, per_az="all", canary=canary)
    first_zone = next(iter(zones.values()))
    assert len(found[0]) == min(canary, list(zones.values()).count(first_zone))
    assert {zones[host] for host in found[0]} == {first_zone}


@pytest.mark.parametrize(
    ("zones", "options", "words"),
    [
        (["a", "b"], {}, "a mapping of hosts"),
        ({"n": ""}, {}, "the zone of n is not known"),
        ({"n": None}, {}, "the zone of n is not known"),
        ({"n": "a"}, {"per_az": 0}, "at least 1"),
        ({"n": "a"}, {"per_az": "101%"}, "at most 100%"),
        ({"n": "a"}, {"per_az": "half"}, "is a number, not 'half'"),
        ({"n": "a"}, {"per_az": 1.5}, "is a number, not 1.5"),
        ({"n": "a"}, {"per_az": True}, "is a number, not True"),
        ({"n": "a"}, {"canary": -1}, "at least 0"),
        ({"n": "a"}, {"max_parallel": 0}, "at least 1"),
    ],
)
def test_what_makes_no_batches_is_refused(zones: Any, options: Any, words: str) -> None:
    with pytest.raises(Exception, match=words):
        batches(zones, **options)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3),
)


@settings(deadline=None)
@given(
    st.recursive(
        st.dictionaries(TEXT, VALUES, max_size=4),
        lambda inner: st.dictionaries(
            TEXT, inner | st.lists(inner, min_size=1, max_size=3), max_size=3
        ),
    )
)
def test_settings_are_read_back_from_toml(written: dict[str, Any]) -> None:
    text = plugin("filter.to_toml").to_toml(written)
    assert tomllib.loads(text) == written


def test_what_toml_does_not_have_is_refused_or_left_out() -> None:
    to_toml = plugin("filter.to_toml").to_toml
    assert to_toml({"a": None, "b": 1}) == '"b" = 1\n'
    for wrong in ({"a": float("nan")}, {"a": [{"b": 1}, 2]}, ["a"]):
        with pytest.raises(Exception, match="to_toml"):
            to_toml(wrong)
