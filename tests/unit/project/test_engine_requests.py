"""Requests to the engine: their fields are those of the structs that the engine parses."""

import json
import re
import socket
from collections.abc import Callable
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import _engine
from holdfast.engine.image_rules import (
    ImageMachine,
    ImageQuestion,
    ImageTarget,
    ImageWishes,
    judge,
)
from holdfast.engine.pressure import EnginePressure
from holdfast.engine.requests import EngineRequest, call, encode
from holdfast.pagecache.engine_requests import InspectDump
from holdfast.privileged.boot.disk.gpt import NewTable
from holdfast.storage.roots import RootPath
from holdfast.transfer.engine_requests import ManifestToMake, OfferToServe

_PACKAGE = Path(holdfast.__file__).parent
for _file in _PACKAGE.rglob("engine_requests.py"):
    import_module(".".join(("holdfast", *_file.relative_to(_PACKAGE).with_suffix("").parts)))

REQUESTS = sorted(EngineRequest.__subclasses__(), key=lambda request: request.__name__)
IMAGE = {"name": "large", "size_bytes": 1 << 40, "boot_modes": ["bios"]}
NOT_THERE = "no such field"


def serve(offer: str) -> None:
    """Have a listener of transfers take an offer."""
    certificate, key, _ = _engine.transfer_certificate()
    listener = socket.create_server(("127.0.0.1", 0))
    server = _engine.TransferServer(
        listener.detach(), certificate, key, "{}", lambda _offer, _puller: False
    )
    try:
        server.offer(offer)
    finally:
        server.close()


def asked(function: Callable[[str, _engine.Progress], str]) -> Callable[[str], object]:
    return lambda text: function(text, _engine.Progress())


def member(name: str, ask: Callable[[str], object], **others: Any) -> Callable[[str], object]:
    """Ask with a text as one member of a request."""
    return lambda text: ask(json.dumps({name: json.loads(text), **others}))


FORMS: list[tuple[type[Any], Callable[[str], object]]] = [
    *((request, asked(request.function)) for request in REQUESTS),
    (OfferToServe, serve),
    (ManifestToMake, member("manifest", asked(_engine.pull_transfer))),
    (RootPath, member("place", asked(_engine.build_manifest))),
    (EnginePressure, member("pressure", asked(_engine.build_manifest))),
    (NewTable, _engine.build_gpt),
    (ImageQuestion, _engine.apply_image_rules),
    (ImageTarget, member("target", _engine.apply_image_rules, image=IMAGE)),
    (ImageMachine, member("machine", _engine.apply_image_rules, image=IMAGE)),
    (ImageWishes, member("wishes", _engine.apply_image_rules, image=IMAGE)),
]


@pytest.mark.parametrize(("form", "ask"), FORMS, ids=[form.__name__ for form, _ in FORMS])
class TestEachForm:
    def test_its_fields_are_known_to_the_engine(
        self, form: type[Any], ask: Callable[[str], object]
    ) -> None:
        with pytest.raises(ValueError, match="malformed request: unknown field") as refusal:
            ask(json.dumps({NOT_THERE: 1}))

        _, *known = re.findall(r"`([^`]+)`", str(refusal.value))
        assert known
        assert {field.name for field in fields(form)} <= set(known)

    def test_what_the_engine_requires_has_no_default(
        self, form: type[Any], ask: Callable[[str], object]
    ) -> None:
        try:
            ask("{}")
        except ValueError as error:
            missing = re.search(r"missing field `(\w+)`", str(error))
        else:
            missing = None

        if missing is not None:
            assert missing[1] in {field.name for field in fields(form) if field.default is MISSING}


def test_every_request_is_one_of_the_engine() -> None:
    assert len(REQUESTS) >= 24
    assert len({request.function for request in REQUESTS}) == len(REQUESTS)


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'max_bytes'"):
        InspectDump(record=Path("/record"))  # type: ignore[call-arg]


def test_a_field_that_is_misspelt_is_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'most_bytes'"):
        InspectDump(record=Path("/record"), most_bytes=1)  # type: ignore[call-arg]


def test_paths_and_parts_are_written_as_json() -> None:
    request = InspectDump(record=Path("/a/b"), max_bytes=7)

    assert json.loads(encode(request)) == {"record": "/a/b", "max_bytes": 7}
    assert json.loads(encode([RootPath(Path("/a"), "b")])) == [{"root": "/a", "path": "b"}]


def test_what_the_engine_cannot_take_is_refused() -> None:
    with pytest.raises(TypeError, match="the engine takes no set"):
        encode(InspectDump(record=Path("/record"), max_bytes={1}))  # type: ignore[arg-type]


def test_a_call_raises_what_the_engine_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        call(InspectDump(record=tmp_path / "missing", max_bytes=1), _engine.Progress())


def test_a_question_is_answered() -> None:
    target = ImageTarget(path="/dev/small", size_bytes=1 << 30, sector_bytes=512)

    answer = judge(ImageQuestion(image=IMAGE, target=target))

    assert any("/dev/small" in refusal for refusal in answer.refusals)
    assert not judge(ImageQuestion(image=IMAGE)).refusals
