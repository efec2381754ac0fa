"""From firmware to init: a disk of 4096-byte sectors with its root on LVM, written and booted."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.vm.imager.conftest import NewRig
from tests.vm.imager.images import describe
from tests.vm.imager.kernel import kernel
from tests.vm.imager.layouts import LVM, Layout, make
from tests.vm.imager.machine import PROCESSORS, Drive, firmware_options, running
from tests.vm.imager.writing import (
    IDENTITY,
    armed,
    boot_initramfs,
    booted_as,
    check_file_systems,
    inspect,
    write,
)
from tests.vm.reimage.firmware import OVMF
from tests.vm.reimage.telling import tell

ESP_MIB = 120
_SECONDS = 420.0
_GRUB = """\
search --file --set=root /vmlinuz
linux /vmlinuz console=ttyS0 quiet panic=1
initrd /initrd
boot
"""
# GRUB is on the system partition, with the kernel and its initramfs.
_SCRIPT = f"""
    table <<'END'
label: gpt
start=1MiB, size={ESP_MIB}MiB, type=uefi
start={ESP_MIB + 2}MiB, size=110MiB, type=lvm
END
    mkdir -p "$tree.lock"
    attach 1 {ESP_MIB}; mkfs.vfat -F 16 -S 4096 "$loop" >/dev/null
    mmd -i "$loop" ::/EFI ::/EFI/BOOT
    mcopy -i "$loop" "$tree.esp/BOOTX64.EFI" ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$loop" "$tree.esp/vmlinuz" "$tree.esp/initrd" ::/
    attach {ESP_MIB + 2} 110
    run_lvm pvcreate "$loop"; run_lvm vgcreate --setautoactivation n rl "$loop"
    run_lvm lvcreate -an -Zn -Wn -L 80m -n root rl
    attach {ESP_MIB + 2 + 1} 80; mkfs.ext4 -q -b 4096 "$loop"; fill
"""
LAYOUT = Layout(
    "uefi-lvm-4096", ESP_MIB + 120, _SCRIPT, LVM.mount, sector_bytes=4096, modules=LVM.modules
)


def system_partition(directory: Path, layout: Layout) -> None:
    """Put what its firmware loads into a directory."""
    directory.mkdir()
    debian = kernel(layout.modules)
    plain = boot_initramfs(debian, layout, directory / "plain")
    with (directory / "initrd").open("wb") as file:
        subprocess.run(("gzip", "-1", "--stdout", plain), stdout=file, check=True)
    plain.unlink()
    shutil.copy(debian.path, directory / "vmlinuz")
    config = directory / "grub.cfg"
    config.write_text(_GRUB)
    modules = "part_gpt fat linux normal search search_fs_file"
    output = directory / "BOOTX64.EFI"
    command = ["grub-mkstandalone", "--format=x86_64-efi", f"--output={output}", "--locales="]
    command += ["--fonts=", "--themes=", f"--install-modules={modules}", f"--modules={modules}"]
    subprocess.run([*command, f"boot/grub/grub.cfg={config}"], check=True)


def test_firmware_boots_the_written_disk_where_nothing_is_wrong(
    rig: NewRig, tree: Path, tmp_path: Path, old_of_4096: Path
) -> None:
    system_partition(tree.with_name(f"{tree.name}.esp"), LAYOUT)
    raw = tmp_path / "image.raw"
    make(LAYOUT, raw, tree)
    image = describe(raw, raw)
    described = json.loads(image.descriptor)
    assert (described["boot_modes"], described["sector_bytes"]) == (["uefi"], 4096)
    assert described["root"]["volume"] == "rl/root"
    machine = armed(rig, image, LAYOUT, old_of_4096)
    said = write(machine, LAYOUT, identity=IDENTITY)
    assert any("rl/root was extended to" in line for line in said), said
    assert check_file_systems(machine.target, inspect(machine.target)) >= 2

    variables = machine.directory / "variables.fd"
    shutil.copy(OVMF.variables, variables)
    drives = [Drive(machine.target, "root-0001", sector_bytes=4096)]
    options = (*PROCESSORS, *firmware_options(variables))
    directory = machine.directory / "firmware"
    with running(None, None, drives, directory, memory_mib=512, options=options) as booted:
        booted.rebooted(_SECONDS)
    tell(f"{LAYOUT.name}: {booted_as(booted)}")
    assert booted_as(booted) == "node-7 marker=yes var=roots"
