"""The layout of the data, compared before and after, on file systems of a test's own."""

from __future__ import annotations

from pathlib import Path

from holdfast.reimage.planning.layout import differences, layout_of
from tests.support.machine.mounts import ext4

MIB = 1 << 20


def test_data_on_another_file_system_or_mounted_nowhere_are_noticed(disk_dir: Path) -> None:
    root = disk_dir / "data"
    with ext4(root, 32 * MIB):
        before = layout_of([root])
        assert differences(before, layout_of([root])) == []
        assert differences(before, []) == [f"{root} is no root of the new system's settings."]
    reported = differences(before, layout_of([root]))
    assert len(reported) == 1
    assert reported[0].startswith(f"{root} was on what is mounted at {root}, now at ")
    with ext4(root, 48 * MIB):
        reported = differences(before, layout_of([root]))
    assert any(f"{root} was ext4 of " in reason for reason in reported), reported
