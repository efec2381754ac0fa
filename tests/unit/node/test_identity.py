from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.node.identity import identify, os_release
from holdfast.node.service import Node


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "etc/holdfast").mkdir(parents=True)
    return tmp_path


def test_the_image_named_by_its_builder_comes_first(system: Path) -> None:
    (system / "etc/os-release").write_text("IMAGE_ID=base\nIMAGE_VERSION='42'\n")
    assert identify(system).image_id == "base-42"
    (system / "etc/holdfast/image-id").write_text("cassandra-2026.11\n")
    assert identify(system).image_id == "cassandra-2026.11"


def test_os_release_in_all_its_quoting(system: Path) -> None:
    (system / "etc/os-release").write_text(
        '# comment\nPRETTY_NAME="Debian \\"12\\""\n\nID=debian\nBROKEN=\'x\nIMAGE_ID=\n'
    )
    assert os_release(system) == {"PRETTY_NAME": 'Debian "12"', "ID": "debian", "IMAGE_ID": ""}
    assert identify(system).os_name == 'Debian "12"'
    assert identify(system).image_id is None


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    found = identify(tmp_path)
    assert (found.machine_id, found.boot_id, found.image_id, found.os_name) == (None,) * 4
    assert found.kernel == platform.release()


def test_this_machine(tmp_path: Path) -> None:
    report = Node(roots=[tmp_path, tmp_path / "missing"]).report()
    assert report.hostname == platform.node()
    assert report.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert report.booted_at < datetime.now(UTC)
    assert [root.exists for root in report.roots] == [True, False]
    assert report.memory.total_bytes > 0
