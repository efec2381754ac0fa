"""Directories for machines whose power is cut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.image import CACHE
from tests.vm.imager.arming import IMAGER


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for the disks of one test; it is removed afterwards."""
    assert IMAGER.exists(), "there is no imager to test: run `make imager`"
    path = CACHE / f"cuts-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path)
