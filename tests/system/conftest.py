"""Fixtures that run the real daemon.

`daemon` is one with the usual settings, for one test. `start_daemon(**settings)` starts as many as
a test needs, with any settings. `shared_daemon` serves a whole module, for tests that leave no
mark. All of them listen on a unix socket and on a free TCP port, and are ended with their files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon.harness import Daemon, Tokens, create_tokens, daemons
from tests.support.machine.disk import real_directory


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Give a token file with one token of each scope."""
    return create_tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture
def start_daemon(disk_dir: Path, tokens: Tokens) -> Iterator[Callable[..., Daemon]]:
    """Give a function that starts a daemon: `start_daemon(operations={"max_running": 1})`."""
    with daemons(disk_dir, tokens) as start:
        yield start


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a running daemon of this test's own."""
    return start_daemon()


@pytest.fixture(scope="module")
def shared_daemon(tokens: Tokens) -> Iterator[Daemon]:
    """Give a running daemon that all tests of a module share."""
    base = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=real_directory()))
    try:
        with daemons(base, tokens) as start:
            yield start()
    finally:
        shutil.rmtree(base)
