"""The drop-in for destinations gives the packaged daemon the rights that it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.capabilities.transfer import fill, make_pair, tree
from tests.support.daemon.harness import Daemon
from tests.support.daemon.service_rights import NOBODY, as_service, rights
from tests.support.machine.disk import write_file


@pytest.mark.skipif(os.geteuid() != 0, reason="changing capabilities takes root")
def test_a_destination_with_the_drop_in_restores_owners_modes_and_capabilities(
    start_daemon: Callable[..., Daemon],
) -> None:
    pair = make_pair(start_daemon, wrapper=as_service("holdfast.service", "transfer.conf"))
    fill(pair.offered)
    for number, path in enumerate(sorted(pair.offered.rglob("*"))):
        os.chown(path, 1000 + number % 3, 2000 + number % 2, follow_symlinks=False)
    program = write_file(pair.offered / "program", 100)
    program.chmod(0o4755)
    if shutil.which("setcap"):
        subprocess.run(["setcap", "cap_net_raw+ep", program], check=True)
    (pair.offered / "closed").mkdir(mode=0o500)
    write_file(pair.offered / "closed" / "inside", 100)
    os.chown(pair.offered / "closed", 1000, 2000)
    status = Path(f"/proc/{pair.destination.pid}/status").read_text()
    assert re.search(rf"^Uid:\s+{NOBODY}\s", status, re.MULTILINE)
    result = pair.pulled(pair.offer()["ticket"], final=True)
    assert result["passes"][-1]["unset"] == {}
    assert tree(pair.fetched) == tree(pair.offered)
    copied = pair.fetched / "program"
    assert {name: os.getxattr(copied, name) for name in os.listxattr(copied)} == {
        name: os.getxattr(program, name) for name in os.listxattr(program)
    }


def test_the_packaged_daemon_alone_may_not_write() -> None:
    assert {"chown", "dac_override"} & set(rights("holdfast.service")) == set()
