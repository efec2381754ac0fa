"""Fixtures for every test."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.machine import ground
from tests.support.machine.disk import real_directory

ground.extend_path()
ground.own_mounts()
# What a shell starts in the background has it ignored, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The hundreds of daemons and commands that tests start would each compile every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_report_header() -> list[str]:
    """Show what the tests stand on, before the first of them."""
    return ground.report()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, and those that run alone behind all others: none waits then."""
    items.sort(key=lambda item: (_runs_alone(item), item.get_closest_marker("long") is None))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run tests marked `alone` while no other process runs one; outside of their time limit."""
    with ground.LOCK.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if _runs_alone(item) else fcntl.LOCK_SH)
        return (yield)


def _runs_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """Skip a test whose fixtures need a command of a Debian package that is missing."""
    try:
        yield
    except Exception as error:
        ground.skip_without_package(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Skip a test that needs a command of a Debian package that is missing."""
    try:
        yield
    except Exception as error:
        ground.skip_without_package(error)
        raise


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
