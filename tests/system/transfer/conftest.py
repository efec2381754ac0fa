"""Two nodes that the tests of a module share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.capabilities.transfer import Pair, make_pair
from tests.support.daemon.harness import Tokens, daemons
from tests.support.machine.disk import real_directory


@pytest.fixture(scope="module")
def nodes(tokens: Tokens) -> Iterator[Pair]:
    """Give a source and a destination that all tests of a module share."""
    base = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=real_directory()))
    try:
        with daemons(base, tokens) as start:
            yield make_pair(start)
    finally:
        shutil.rmtree(base)
