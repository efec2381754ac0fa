"""The old system runs from LVM: its volume group goes with its disk, and no other group does."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.privileged.boot.payload.job import blank_outcome
from tests.vm.imager.conftest import MakeData, NewRig
from tests.vm.imager.images import MIB, NONCE, TARGET_BYTES
from tests.vm.imager.layouts import COMMON
from tests.vm.imager.rig import Rig
from tests.vm.reimage.disks import in_own_mounts

# A /boot with the record of the arming, and the group `old` with a root and a swap area. With
# another file it has a physical volume there as well. Prints the group's UUID.
_OLD = (
    COMMON
    + r"""
other=$4
table <<<'label: gpt
start=1MiB, size=40MiB, type=linux
start=42MiB, size=50MiB, type=lvm'
attach 1 40; mkfs.ext4 -q -d "$tree" "$loop"
mkdir -p "$tree.lock"
attach 42 50; devices=("$loop")
if [[ -n $other ]]; then
    truncate --size=48M "$other"
    loop=$(losetup --find --show "$other"); loops+=("$loop"); devices+=("$loop")
fi
run_lvm() {
    local command=$1 seen
    seen=$(printf '"a|^%s$|",' "${devices[@]}")
    shift
    lvm "$command" --driverloaded n --yes --quiet --config "devices{filter=[$seen\"r|.*|\"]
        use_devicesfile=0 scan_lvs=0 obtain_device_list_from_udev=0
        external_device_info_source=\"none\"} activation{udev_sync=0 udev_rules=0}
        backup{backup=0 archive=0} global{use_lvmpolld=0 locking_dir=\"$tree.lock\"}" "$@"
}
{
    run_lvm pvcreate "${devices[@]}"; run_lvm vgcreate --setautoactivation n old "${devices[@]}"
    run_lvm lvcreate -an -Zn -Wn -L 24m -n root old; run_lvm lvcreate -an -Zn -Wn -L 8m -n swap old
} >&2
run_lvm vgs --noheadings -o vg_uuid old
"""
)


def on_lvm(machine: Rig, directory: Path, *, other: str = "") -> str:
    """Give the machine a disk whose system is on LVM; return the UUID of its group."""
    tree = directory / "boot"
    (tree / "holdfast").mkdir(parents=True)
    (tree / "holdfast/outcome").write_bytes(blank_outcome(NONCE))
    disk = directory / "old-on-lvm.raw"
    with disk.open("wb") as file:
        file.truncate(TARGET_BYTES)
    printed = in_own_mounts(_OLD, disk, tree, "512", other)
    machine.replace_target(disk)
    return printed.strip()


@pytest.fixture
def machine(rig: NewRig, staged: MakeData) -> Rig:
    machine = rig()
    machine.put_data(staged())
    return machine


def arm(machine: Rig, *groups: str) -> Path:
    def name_groups(job: dict[str, dict[str, object]]) -> None:
        job["target"]["volume_groups"] = list(groups)

    return machine.arm(change=name_groups)


def test_the_group_of_the_old_system_goes_with_its_disk(machine: Rig, tmp_path: Path) -> None:
    group = on_lvm(machine, tmp_path)
    machine.written(machine.run(arm(machine, group)))
    assert b"LABELONE" not in machine.target.read_bytes()[42 * MIB : 43 * MIB]


def test_a_group_that_is_not_the_old_systems_is_kept(machine: Rig, tmp_path: Path) -> None:
    group = on_lvm(machine, tmp_path)
    other = group.translate(str.maketrans(group[:3], group[1:3] + group[0]))
    machine.refused(machine.run(arm(machine, other)), "/dev/vda2 is an LVM physical volume")


def test_a_group_with_a_volume_elsewhere_is_kept(machine: Rig, tmp_path: Path) -> None:
    group = on_lvm(machine, tmp_path, other=str(tmp_path / "other.raw"))
    done = machine.run(arm(machine, group))
    machine.refused(done, "old of the running system, which also has the physical volume")
