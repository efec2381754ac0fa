"""`holdfast image`: descriptors of real images, judged by sha256sum, sfdisk and blkid."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon.harness import HOLDFAST, clean_environment, run_cli
from tests.support.disks.images import MIB, FileSystem, make_disk, probe, run

EXT4 = ("mkfs.ext4", "-q", "-L", "system")
XFS = ("mkfs.xfs", "-q", "-L", "data")
BTRFS = ("mkfs.btrfs", "-q", "-L", "pool")
VFAT = ("mkfs.vfat", "-F", "32", "-n", "ESP")
ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"


@pytest.fixture
def gpt(disk_dir: Path) -> Path:
    """Give a disk with a GPT, an ESP, a large data partition and a typed root."""
    table = f"""label: gpt
start=1MiB, size=40MiB, type=uefi, name=esp
start=48MiB, size=400MiB, type=linux, name=data
start=500MiB, size=64MiB, type={ROOT_TYPE}, name=root
start=600MiB, size=120MiB, type=linux, name=pool
"""
    systems = [
        FileSystem(1, 40, VFAT),
        FileSystem(48, 400, XFS),
        FileSystem(500, 64, EXT4),
        FileSystem(600, 120, BTRFS),
    ]
    return make_disk(disk_dir / "disk.raw", 730, table, systems)


def describe(file: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe an image; return the command's output, and the descriptor."""
    done = run_cli("image", "describe", file, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    data = Path(said["descriptor"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == said["descriptor_sha256"]
    return said, json.loads(data)


def expected_chunks(file: Path, size: int) -> tuple[list[list[int]], list[str]]:
    mapped: list[list[int]] = []
    digests = []
    with file.open("rb") as stream:
        offset = 0
        while chunk := stream.read(size):
            if chunk.count(0) != len(chunk):
                digests.append(hashlib.sha256(chunk).hexdigest())
                if mapped and sum(mapped[-1]) == offset:
                    mapped[-1][1] += len(chunk)
                else:
                    mapped.append([offset, len(chunk)])
            offset += len(chunk)
    return mapped, digests


def judge_partitions(file: Path, found: dict[str, Any]) -> None:
    reported = json.loads(run("sfdisk", "--json", file))["partitiontable"]
    assert found["kind"] == {"gpt": "gpt", "dos": "mbr"}[reported["label"]]
    assert found["id"].lower() == reported["id"].lower().removeprefix("0x")
    assert len(found["partitions"]) == len(reported["partitions"])
    for ours, theirs in zip(found["partitions"], reported["partitions"], strict=True):
        assert ours["start_bytes"] == theirs["start"] * 512
        assert ours["size_bytes"] == theirs["size"] * 512
        kind = theirs["type"].lower()
        assert ours["type"] == (kind if reported["label"] == "gpt" else kind.zfill(2))
        assert ours["name"] == theirs.get("name", "")
        assert theirs["node"].endswith(f".raw{ours['number']}")
        if ours["type"] in ("05", "0f"):
            continue
        seen = probe(file, ours["start_bytes"], ours["size_bytes"])
        assert (ours["file_system"], ours["uuid"]) == (seen.get("TYPE"), seen.get("UUID"))
        assert ours["label"] == seen.get("LABEL")


def test_a_gpt_image_is_described_as_other_tools_see_it(gpt: Path) -> None:
    said, found = describe(gpt, "--name", "web", "--image-version", "7")
    assert (found["format"], found["version"]) == ("holdfast-image", 1)
    assert (found["name"], found["image_version"]) == ("web", "7")
    assert said["descriptor"] == f"{gpt}.json"
    assert found["size_bytes"] == gpt.stat().st_size
    assert (found["mapped"], found["chunks"]) == expected_chunks(gpt, found["chunk_bytes"])
    assert found["content"]["sha256"] == run("sha256sum", gpt).split()[0]
    judge_partitions(gpt, found["partition_table"])
    # The partition of that type, and not the largest; nothing in it starts.
    assert found["root_partition"] == 3
    assert found["boot_modes"] == []


def test_an_mbr_image_with_logical_partitions(disk_dir: Path) -> None:
    table = """label: dos
start=1MiB, size=32MiB, type=83, bootable
start=40MiB, size=500MiB, type=5
start=41MiB, size=40MiB, type=c
start=100MiB, size=400MiB, type=83
"""
    systems = [FileSystem(1, 32, EXT4), FileSystem(41, 40, VFAT), FileSystem(100, 400, XFS)]
    disk = make_disk(disk_dir / "disk.raw", 600, table, systems)
    with disk.open("r+b") as file:
        file.write(b"\xeb\x63\x90")
    _, found = describe(disk)
    numbers = [partition["number"] for partition in found["partition_table"]["partitions"]]
    assert numbers == [1, 2, 5, 6]
    judge_partitions(disk, found["partition_table"])
    # Empty file systems: nothing shows where a root is, and nothing is behind the code.
    assert found["root_partition"] is None
    assert found["boot_modes"] == []


@pytest.mark.parametrize(
    ("suffix", "encoding", "program"),
    [("zst", "zstd", "zstd -q -k"), ("gz", "gzip", "gzip -k -1"), ("xz", "xz", "xz -k -0 -T1")],
)
def test_a_packed_image_says_the_same_of_its_content(
    gpt: Path, suffix: str, encoding: str, program: str
) -> None:
    _, raw = describe(gpt)
    packed = gpt.with_name(f"disk.raw.{suffix}")
    run(*program.split(), gpt)
    _, found = describe(packed)
    same: tuple[str, ...] = ("size_bytes", "partition_table", "root_partition", "boot_modes")
    if encoding == "zstd":  # else its size is not known at first, and chunks are larger
        same = (*same, "mapped", "chunks")
    assert {key: found[key] for key in same} == {key: raw[key] for key in same}
    assert (found["mapped"], found["chunks"]) == expected_chunks(gpt, found["chunk_bytes"])
    content = found["content"]
    assert (content["file"], content["encoding"]) == (packed.name, encoding)
    assert found["name"] == "disk"
    assert content["sha256"] == run("sha256sum", packed).split()[0]
    for file in (gpt, packed):
        done = run_cli("image", "verify", file, f"{packed}.json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("whole and as described")


def test_packed_in_several_parts_or_cut_off(disk_dir: Path) -> None:
    for suffix, program in (("gz", "gzip"), ("xz", "xz")):
        packed = disk_dir / f"disk.raw.{suffix}"
        parts = [os.urandom(512 << 10), bytes(3 * MIB), os.urandom(MIB)]
        packed.write_bytes(
            b"".join(subprocess.run([program], input=part, stdout=-1, check=True).stdout
                     for part in parts)
        )  # fmt: skip
        _, found = describe(packed)
        assert found["size_bytes"] == sum(map(len, parts))
        whole = packed.read_bytes()
        for cut in (whole[:-1], whole[: len(whole) // 2]):
            packed.write_bytes(cut)
            done = run_cli("image", "verify", packed, f"{packed}.json")
            assert done.returncode == 3, done.stderr
            assert "cannot be unpacked: its end is missing" in done.stdout
        done = run_cli("image", "describe", packed)
        assert (done.returncode, "its end is missing" in done.stderr) == (1, True), done.stderr
        damaged = bytearray(whole)
        damaged[1000] ^= 1
        packed.write_bytes(damaged)
        assert run_cli("image", "verify", packed, f"{packed}.json").returncode == 3


def test_a_qcow2_file_becomes_a_packed_image(gpt: Path) -> None:
    _, raw = describe(gpt)
    disk = gpt.with_name("web.qcow2")
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", gpt, disk)
    _, found = describe(disk)
    same = ("size_bytes", "mapped", "chunks", "partition_table", "root_partition", "boot_modes")
    assert {key: found[key] for key in same} == {key: raw[key] for key in same}
    assert found["content"]["file"] == "web.raw.zst"
    assert found["name"] == "web"
    packed = gpt.with_name("web.raw.zst")
    assert run("sha256sum", packed).split()[0] == found["content"]["sha256"]
    run("zstd", "-q", "-t", packed)
    assert run_cli("image", "verify", packed, f"{packed}.json").returncode == 0
    assert not [path.name for path in gpt.parent.iterdir() if path.name.startswith(".")]


def test_a_qcow2_file_that_names_others_is_refused_before_they_are_opened(disk_dir: Path) -> None:
    secret = disk_dir / "secret.raw"
    secret.write_bytes(b"x" * MIB)
    based, outside, locked = (disk_dir / f"{name}.qcow2" for name in ("based", "data", "luks"))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", based)
    option = f"data_file={secret},data_file_raw=on"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", option, outside, "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o",
        "encrypt.format=aes,encrypt.key-secret=s", locked, "1M")  # fmt: skip
    for file, why in (
        (based, "is based on a backing file"),
        (outside, "keeps its data in another file"),
        (locked, "is encrypted"),
    ):
        done = run_cli("image", "describe", file)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    short = disk_dir / "short.qcow2"
    short.write_bytes(based.read_bytes()[:50])
    assert "not a whole qcow2 file" in run_cli("image", "describe", short).stderr
    assert not list(disk_dir.glob("*.zst*"))


def test_without_qemu_img_a_qcow2_file_is_told_what_to_do_about(disk_dir: Path) -> None:
    disk = disk_dir / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", disk, "1M")
    done = run_cli("image", "describe", disk, PATH=str(disk_dir))
    assert done.returncode == 1
    assert "`apt-get install qemu-utils`" in done.stderr


def test_a_difference_is_found_and_exits_with_3(gpt: Path) -> None:
    describe(gpt)
    with gpt.open("r+b") as file:
        file.seek(45 * MIB + 5)
        file.write(b"x")
    done = run_cli("image", "verify", gpt, f"{gpt}.json")
    assert done.returncode == 3, done.stderr
    assert f"{45 * MIB}+{MIB} should be zeros" in done.stdout
    done = run_cli("image", "verify", gpt, f"{gpt}.json", "--json")
    assert done.returncode == 3
    (difference,) = json.loads(done.stdout)["differences"]
    assert difference == {"offset": 45 * MIB, "length": MIB, "kind": "not_zeros"}
    with gpt.open("r+b") as file:
        file.truncate(gpt.stat().st_size - 512)
    done = run_cli("image", "verify", gpt, f"{gpt}.json")
    assert done.returncode == 3
    assert "not as described: it has" in done.stdout


def test_what_cannot_be_described_or_trusted_is_an_error(disk_dir: Path) -> None:
    odd = disk_dir / "odd.raw"
    odd.write_bytes(b"x" * 700)
    done = run_cli("image", "describe", odd)
    assert (done.returncode, "sectors of 512 bytes" in done.stderr) == (1, True), done.stderr
    assert not (disk_dir / "odd.raw.json").exists()
    done = run_cli("image", "describe", disk_dir / "missing.raw")
    assert done.returncode == 1
    assert "No such file" in done.stderr
    disk = disk_dir / "disk.raw"
    disk.write_bytes(b"x" * 4096)
    describe(disk)
    descriptor = Path(f"{disk}.json")
    done = run_cli("image", "verify", disk, descriptor, "--sha256", "0" * 64)
    assert done.returncode == 1
    assert f"and not {'0' * 64}" in done.stderr
    descriptor.write_text(descriptor.read_text().replace('"version":1', '"version":2'))
    done = run_cli("image", "verify", disk, descriptor)
    assert done.returncode == 1
    assert "version 2 cannot be read" in done.stderr


def test_sigterm_ends_it_and_leaves_no_descriptor(disk_dir: Path) -> None:
    disk = disk_dir / "large.raw"
    with disk.open("wb") as file:
        file.truncate(1 << 40)
    process = subprocess.Popen(
        [*HOLDFAST, "image", "describe", disk],
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert process.stderr is not None
    assert "describing" in process.stderr.readline()
    os.kill(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cancelled" in error
    assert [path.name for path in disk_dir.iterdir()] == ["large.raw"]
