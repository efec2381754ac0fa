"""An image that is fetched from other nodes, which are strangers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import Progress
from holdfast.config import load_settings
from holdfast.reimage.images import peers as asking
from holdfast.reimage.images.fetch import fetch
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.images.settings import access_of
from holdfast.reimage.images.sources import Reach
from holdfast.reimage.images.suppliers import Least, Received
from tests.support.disks.image_herd import (
    MIB,
    PATIENT,
    SIZE,
    Member,
    alone,
    described,
    member,
    peer,
    ranges,
)
from tests.support.servers.certificates import Authority
from tests.support.servers.fileserver import Behaviour, serving

__all__ = ["alone", "described"]


@pytest.mark.parametrize(("count", "zones"), [(6, 2)])
def test_a_herd_costs_the_origin_about_one_image_for_each_zone(
    described: tuple[bytes, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    zones: int,
) -> None:
    # However slow this machine is, nobody is given up.
    monkeypatch.setattr(asking, "_ANSWER_SECONDS", 600.0)
    monkeypatch.setattr(Least, "SECONDS", 600.0)
    content, descriptor = described
    origin = Behaviour({"/disk.raw": content}, {"/disk.raw": '"one"'})
    with ExitStack() as stack:
        url = f"{stack.enter_context(serving(origin))}/disk.raw"
        herd = [
            stack.enter_context(
                member(tmp_path / f"{number}", f"node-{number}", f"zone-{number % zones}")
            )
            for number in range(count)
        ]
        # Every server has its own tokens: one for all, as a fleet has it.
        for node in herd:
            file = node.token.parent / "tokens.json"
            file.write_bytes((herd[0].token.parent / "tokens.json").read_bytes())
            node.token.write_bytes(herd[0].token.read_bytes())
        peers = [node.url for node in herd]
        patient = {"stalled_seconds": 600.0}
        with ThreadPoolExecutor(len(herd)) as threads:
            fetched = list(
                threads.map(lambda node: node.fetch(url, descriptor, peers, **patient), herd)
            )
        assert all(data == content for data in fetched)
    cost = sum(node.gave().get("origin", 0) for node in herd)
    assert zones * SIZE <= cost <= 2 * zones * SIZE, [node.gave() for node in herd]
    assert sum(node.gave().get("peer", 0) for node in herd) == count * SIZE - cost
    assert sum(node.sharing.figures()[1] for node in herd) == count * SIZE - cost
    assert {asked.authorization for asked in origin.asked} == {None}
    copied = next(node for node in herd if node.gave() == {"peer": SIZE})
    assert all(
        each["address"] in {f"the peer {p}" for p in peers} for each in copied.received.listed()
    )


@pytest.mark.parametrize("trusted", [True, False])
def test_peers_are_reached_by_tls_as_the_settings_have_it(
    described: tuple[bytes, bytes], alone: Member, tmp_path: Path, *, trusted: bool
) -> None:
    content, descriptor = described
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    issued = authority.issue("node")
    tls = {
        "certificate": str(issued.certificate),
        "key": str(issued.key),
        "client_ca": str(authority.file),
    }
    origin = Behaviour({"/disk.raw": content})
    with (
        serving(origin) as url,
        member(tmp_path / "peer", "peer", "a", tls=tls) as near,
    ):
        assert near.url.startswith("https://")
        near.fetch(f"{url}/disk.raw", descriptor, [])
        ca_file = authority.file if trusted else other.file
        peers = {"urls": [near.url], "token_file": str(near.token), "ca_file": str(ca_file)}
        access = access_of(load_settings(None, {"tls": tls, "reimage": {"peers": peers}}))
        assert access is not None
        bounds: dict[str, Any] = {"token_file": access.token_file, "ca_file": access.ca_file}
        bounds |= {"certificate": access.certificate}
        found = alone.fetch(f"{url}/disk.raw", descriptor, access.urls, **bounds)
    assert found == content
    assert alone.gave() == ({"peer": SIZE} if trusted else {"origin": SIZE})


def test_the_next_source_resumes_where_a_peer_ended(
    described: tuple[bytes, bytes], alone: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Least, "SECONDS", 600.0)
    content, descriptor = described
    other = peer(content, descriptor)
    other.cut_after = MIB + 5
    origin = Behaviour({"/disk.raw": content}, {"/disk.raw": '"one"'})
    with serving(origin) as url, serving(other) as near:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near]) == content
    assert ranges(origin) == [f"bytes={MIB + 5}-"]
    assert alone.gave() == {"peer": MIB + 5, "origin": SIZE - MIB - 5}
    assert [each["source"] for each in alone.received.listed()] == ["peer", "origin"]
    assert all(request.authorization is None for request in origin.asked)
    assert all(request.authorization for request in other.asked)


def test_a_peer_that_falls_silent_is_left(
    described: tuple[bytes, bytes], alone: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Least, "SECONDS", 0.5)
    content, descriptor = described
    other = peer(content, descriptor)
    other.hang_after = MIB + 5
    origin = Behaviour({"/disk.raw": content}, {"/disk.raw": '"one"'})
    with serving(origin) as url, serving(other) as near:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near]) == content
    came = alone.gave().get("peer", 0)
    assert came <= MIB + 5
    assert ranges(origin) == [f"bytes={came}-" if came else None]
    assert alone.gave()["origin"] == SIZE - came


def test_a_peer_that_lies_costs_one_download_and_is_not_asked_again(
    described: tuple[bytes, bytes], alone: Member
) -> None:
    content, descriptor = described
    liar = peer(random.Random(2).randbytes(SIZE), descriptor)
    origin = Behaviour({"/disk.raw": content})
    with serving(origin) as url, serving(liar) as near:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near]) == content
    assert ranges(origin) == [None]
    assert [request.path.endswith("/content") for request in liar.asked].count(True) == 1
    assert alone.gave() == {"peer": SIZE, "origin": SIZE}


def _no_json(does: Behaviour) -> None:
    does.files = dict.fromkeys(does.files, b"<html>")


def _endless(does: Behaviour) -> None:
    does.files = dict.fromkeys(does.files, b" " * MIB)


def _elsewhere(does: Behaviour) -> None:
    does.redirects = dict.fromkeys(does.files, "http://127.0.0.1:1/secret")


def _refusing(does: Behaviour) -> None:
    does.statuses = [403] * 100


def _other_size(does: Behaviour) -> None:
    does.files = {
        path: data[:-1] if path.endswith("/content") else data for path, data in does.files.items()
    }


def _without_ranges(does: Behaviour) -> None:
    does.cut_after, does.no_ranges = MIB, True


@pytest.mark.parametrize(
    "fault", [_no_json, _endless, _elsewhere, _refusing, _other_size, _without_ranges]
)
def test_what_a_peer_answers_does_not_keep_the_image_away(
    described: tuple[bytes, bytes], alone: Member, fault: Callable[[Behaviour], None]
) -> None:
    content, descriptor = described
    odd = peer(content, descriptor)
    fault(odd)
    origin = Behaviour({"/disk.raw": content})
    with serving(origin) as url, serving(odd) as near:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near, "http://127.0.0.1:1"]) == content
    assert len(ranges(origin)) == 1


@pytest.mark.parametrize("state", ["waiting", "fetching", "copying"])
def test_a_peer_that_is_ahead_and_does_not_come_on_is_not_waited_for(
    described: tuple[bytes, bytes], alone: Member, state: str
) -> None:
    content, descriptor = described
    stuck = peer(content, descriptor, state=state, present_bytes=5, node_id="a")
    origin = Behaviour({"/disk.raw": content})
    with serving(origin) as url, serving(stuck) as near:
        bounds = {"poll_seconds": 0.05, "stalled_seconds": 0.3}
        assert alone.fetch(f"{url}/disk.raw", descriptor, [near], **bounds) == content
    assert alone.gave() == {"origin": SIZE}
    assert len(stuck.asked) > 2


def test_a_peer_of_another_zone_is_for_when_the_origin_fails(
    described: tuple[bytes, bytes], alone: Member
) -> None:
    content, descriptor = described
    far = peer(content, descriptor, zone="b")
    origin = Behaviour({"/disk.raw": content})
    with serving(origin) as url, serving(far) as other:
        assert alone.fetch(f"{url}/disk.raw", descriptor, [other]) == content
        assert alone.gave() == {"origin": SIZE}
        (alone.directory / "image").unlink()
        origin.cut_after = MIB
        assert alone.fetch(f"{url}/disk.raw", descriptor, [other]) == content
    assert alone.gave() == {"origin": SIZE + MIB, "peer": SIZE - MIB}


def test_mirrors_are_asked_when_the_origin_fails_and_resume(
    described: tuple[bytes, bytes], tmp_path: Path
) -> None:
    content, descriptor = described
    kept = tmp_path / "descriptor.json"
    kept.write_bytes(descriptor)
    received = Received()
    origin = Behaviour({"/disk.raw": content}, {"/disk.raw": '"one"'}, cut_after=MIB)
    mirror = Behaviour({"/disk.raw": content}, {"/disk.raw": '"two"'})
    gone = Behaviour({})
    with serving(origin) as url, serving(mirror) as other, serving(gone) as nothing:
        done = fetch(
            f"{url}/disk.raw",
            tmp_path,
            content=Descriptor.parse(descriptor).content,
            descriptor=kept,
            descriptor_sha256=hashlib.sha256(descriptor).hexdigest(),
            reach=Reach(),
            progress=Progress(),
            patience=PATIENT,
            mirrors=(f"{nothing}/disk.raw", f"{other}/disk.raw"),
            received=received,
        )
    assert done.read_bytes() == content
    assert [(request.range, request.if_range) for request in mirror.asked] == [
        (f"bytes={MIB}-", None)
    ]
    assert [(each["source"], each["bytes"]) for each in received.listed()] == [
        ("origin", MIB),
        ("mirror", SIZE - MIB),
    ]
