"""Paths that clients name, in roots that need no daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.manifests.models import BuildRequest
from holdfast.manifests.service import BUILD, Manifests
from holdfast.operations.kinds import Kind
from holdfast.operations.model import RequestError
from holdfast.pagecache.models import DumpRequest
from holdfast.pagecache.service import DUMP, PageCache
from holdfast.storage.roots import RootPath, Roots


def by_name(capability: Manifests | PageCache, name: str) -> Kind[Any, Any]:
    return next(kind for kind in capability.kinds() if kind.name == name)


@pytest.mark.parametrize("text", ["/", "//", "///"])
def test_the_top_of_all_can_be_named(tmp_path: Path, text: str) -> None:
    assert Roots([Path("/")], tmp_path).root(text, "root") == RootPath(Path("/"))


def test_requests_that_name_the_top_of_all_are_accepted(tmp_path: Path) -> None:
    roots = [Path("/")]
    manifests = Manifests(
        roots=roots, state_dir=tmp_path, kept=1, reader="auto", max_record_bytes=1
    )
    by_name(manifests, BUILD).check(BuildRequest(root="/"))
    pagecache = PageCache(
        roots=roots, state_dir=tmp_path, dumps_kept=1, reserve_bytes=0, max_record_bytes=1
    )
    by_name(pagecache, DUMP).check(DumpRequest(root="/"))


def test_a_slash_at_the_end_changes_nothing(tmp_path: Path) -> None:
    places = Roots([tmp_path], tmp_path / ".holdfast")
    assert places.root(f"{tmp_path}/", "root") == RootPath(tmp_path)
    with pytest.raises(RequestError, match="is not a configured root"):
        places.root("/", "root")
