"""Commands as an ordinary user runs them."""

from __future__ import annotations

import os

import pytest

from tests.support.machine.ground import program


@pytest.fixture
def ordinary() -> list[str]:
    """Give a command line before that of a command, which runs it as an ordinary user."""
    if os.geteuid() != 0:
        return []
    return [program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]
