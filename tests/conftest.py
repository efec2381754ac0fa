"""Fixtures for every test."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk import real_directory

# What a shell starts in the background has it ignored, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def disk_dir() -> Iterator[Path]:
    """Give an empty directory on a disk file system, removed afterwards.

    `tmp_path` may be on tmpfs, where pages cannot be evicted and read back.
    """
    directory = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=real_directory()))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
