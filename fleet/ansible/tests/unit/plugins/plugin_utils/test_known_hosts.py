# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that comes back with another host key."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.holdfast.agent.plugins.plugin_utils.known_hosts import (
    KnownHosts,
    is_host_key_fault,
)

OLD = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOldOldOldOldOldOldOldOldOldOldOldOldOldOldOl"
NEW = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINewNewNewNewNewNewNewNewNewNewNewNewNewNewNe"


def make(file: Path, port: int = 22, **options: Any) -> KnownHosts:
    context = SimpleNamespace(remote_addr="node", port=port)
    connection = SimpleNamespace(
        transport="ssh", _play_context=context, get_option={"host": "node", "port": port}.get
    )
    chosen = {"changed_host_key": "fail", "host_keys": [], "known_hosts": str(file)} | options
    return KnownHosts(connection, chosen)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", True),
        ("Host key verification failed.", True),
        ("ssh: connect to host node port 22: Connection refused", False),
    ],
)
def test_the_fault_is_recognised(text: str, fault: bool) -> None:
    assert is_host_key_fault(text) is fault


def test_by_default_it_fails_with_what_to_do(tmp_path: Path) -> None:
    why = make(tmp_path / "known", port=2222).replace(may_have_changed=True)
    assert why is not None
    assert "ssh-keygen -R '[node]:2222'" in why


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen")
def test_only_the_expected_key_replaces_the_known_one(tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(f"node {OLD}\nother {OLD}\n")
    known = make(file, changed_host_key="expected", host_keys=[f"{NEW} comment"])
    # Before the node was ordered to become another system its key has no reason to change.
    assert known.replace(may_have_changed=False) is not None
    assert file.read_text() == f"node {OLD}\nother {OLD}\n"
    assert known.replace(may_have_changed=True) is None
    assert sorted(file.read_text().splitlines()) == [f"node {NEW}", f"other {OLD}"]
    # It is shown yet another one.
    assert known.replace(may_have_changed=True) is not None


@pytest.mark.parametrize("keys", [[], ["nonsense"], [f"{NEW}\nevil {OLD}"]])
def test_what_is_no_key_is_refused(tmp_path: Path, keys: list[str]) -> None:
    file = tmp_path / "known"
    known = make(file, changed_host_key="expected", host_keys=keys)
    assert "host_keys" in str(known.replace(may_have_changed=True))
    assert not file.exists()
