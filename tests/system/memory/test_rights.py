"""The drop-in for caches in memory gives the packaged daemon the rights that a restore needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.capabilities.memory import fill, memory_node, tree
from tests.support.daemon.harness import Daemon
from tests.support.daemon.service_rights import NOBODY, as_service, rights

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing capabilities takes root")


def test_the_drop_in_restores_owners_and_modes(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    wrapper = as_service("holdfast.service", "memory.conf")
    with memory_node(start_daemon, disk_dir, wrapper=wrapper) as node:
        fill(node.root)
        before = tree(node.root)
        node.save()
        node.lose()
        node.root.chmod(0o700)
        assert node.restore()["restored"]
        assert tree(node.root) == before


def test_without_it_nothing_is_restored(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    assert {"chown", "dac_override"} & set(rights("holdfast.service")) == set()
    disk_dir.chmod(0o755)
    with memory_node(start_daemon, disk_dir, user=NOBODY) as node:
        (node.root / "file").touch()
        os.chown(node.root / "file", 1000, 1000)
        node.save()
        node.lose()
        node.root.chmod(0o755)
        assert node.refused("restores")["type"] == "/problems/not-permitted"
        # Also where the daemon may write, but not give files away.
        node.root.chmod(0o777)
        assert node.refused("restores")["type"] == "/problems/not-permitted"
        assert list(node.root.iterdir()) == []
