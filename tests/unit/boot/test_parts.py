"""The parts of arming that are pure: blocks of bytes in, blocks of bytes out."""

from __future__ import annotations

import shlex
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.loaders.cmdline import grub_quoted, imager_words, kernel_line, split
from holdfast.privileged.boot.loaders.custom_cfg import (
    BEGIN,
    END,
    MarksError,
    block_of,
    has_block,
    with_block,
    without_block,
)
from holdfast.privileged.boot.loaders.grub_environment import (
    SIGNATURE,
    SIZE,
    EnvironmentBlockError,
    variables,
    with_variable,
)
from holdfast.privileged.boot.models import OUTCOME_BYTES
from holdfast.privileged.boot.payload import cpio, modules
from holdfast.privileged.boot.payload.job import blank_outcome, parse_outcome
from holdfast.privileged.boot.payload.network import name_servers
from holdfast.privileged.writes import Refused

NEXT = b"next_entry"


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """Environment blocks as GRUB writes them."""
    names = draw(st.lists(st.from_regex(rb"[a-z_]{1,12}", fullmatch=True), unique=True, max_size=6))
    values = st.binary(max_size=40).map(lambda value: value.replace(b"\\", b"\\\\"))
    lines = [name + b"=" + draw(values).replace(b"\n", b"\\\n") + b"\n" for name in names]
    return (SIGNATURE + b"".join(lines)).ljust(SIZE, b"#")


class TestTheEnvironmentBlock:
    @given(blocks())
    def test_what_is_set_is_there_and_all_else_is_as_before(self, block: bytes) -> None:
        armed = with_variable(block, NEXT, b"holdfast-imager")
        assert len(armed) == SIZE
        assert variables(armed)[NEXT] == b"holdfast-imager"
        before = dict(variables(block))
        after = dict(variables(armed))
        before.pop(NEXT, None)
        after.pop(NEXT)
        assert after == before

    @given(blocks().filter(lambda block: NEXT not in variables(block)))
    def test_setting_and_unsetting_gives_the_same_bytes(self, block: bytes) -> None:
        assert with_variable(with_variable(block, NEXT, b"x"), NEXT, None) == block

    @given(st.binary(max_size=1100))
    def test_anything_else_is_refused(self, content: bytes) -> None:
        for block in (content, (SIGNATURE + content)[:SIZE], content.ljust(SIZE, b"#")[:SIZE]):
            try:
                found = with_variable(block, NEXT, b"x")
            except EnvironmentBlockError:
                continue
            assert len(found) == SIZE

    def test_a_value_of_hashes_is_no_padding(self) -> None:
        block = (SIGNATURE + b"a=##\n").ljust(SIZE, b"#")
        assert variables(with_variable(block, b"b", b"1")) == {b"a": b"##", b"b": b"1"}


class TestCustomCfg:
    @given(st.binary(max_size=300), st.binary(max_size=300))
    def test_with_a_block_and_without_it_the_file_is_as_before(
        self, content: bytes, block: bytes
    ) -> None:
        if BEGIN in content or END in content or BEGIN in block or END in block:
            return
        armed = with_block(content, block)
        assert has_block(armed)
        assert armed.startswith(content)
        left = without_block(armed)
        assert left.rstrip(b"\n") == content.rstrip(b"\n")
        if not content or content.endswith(b"\n"):
            assert left == content
        assert (block_of(armed) or b"").rstrip(b"\n") == block.rstrip(b"\n")

    @pytest.mark.parametrize("content", [BEGIN, END, END + BEGIN, BEGIN + END + BEGIN + END])
    def test_marks_that_do_not_go_together(self, content: bytes) -> None:
        with pytest.raises(MarksError):
            has_block(content)


class TestTheCommandLine:
    def test_what_is_of_the_old_system_is_left_out(self) -> None:
        words = imager_words(
            "BOOT_IMAGE=/vmlinuz root=UUID=1 rootflags=x ro quiet splash init=/x rdinit=/y "
            "resume=/dev/x rd.break systemd.unit=y panic=0 holdfast.nonce=old console=ttyS0,115200 "
            "crashkernel=1G-4G:192M,4G-64G:256M "
            'nvme_core.io_timeout=99 rooted a="b c" -- single\n',
            "n",
        )
        assert list(words) == [
            "console=ttyS0,115200",
            "nvme_core.io_timeout=99",
            "rooted",
            "a=b c",
            "panic=10",
            "holdfast.nonce=n",
        ]

    def test_blanks_in_quotes(self) -> None:
        assert split('a "b c=d e" f="g h"i\n') == ["a", "b c=d e", "f=g hi"]

    @given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1))
    def test_quoting_is_what_a_shell_takes_apart_again(self, word: str) -> None:
        # GRUB's script quotes as a shell does.
        assert shlex.split(grub_quoted(word), comments=True) == [word]

    def test_grub_takes_the_quotes(self, tmp_path: Path) -> None:
        import shutil

        if shutil.which("grub-script-check") is None:
            pytest.skip("GRUB's tools are not installed")
        script = tmp_path / "x.cfg"
        script.write_text(f"echo {grub_quoted('a b; $(x) { ' + chr(39) + chr(34))}\n")
        subprocess.run(["grub-script-check", script], check=True)

    @given(st.lists(st.from_regex(r"[a-z=.,-]+( [a-z]+)?", fullmatch=True), max_size=9))
    def test_the_kernel_takes_apart_what_is_joined_for_it(self, words: list[str]) -> None:
        assert split(kernel_line(words)) == words

    def test_a_line_that_is_too_long_for_the_kernel(self) -> None:
        assert len(kernel_line(["x" * 2047])) == 2047
        with pytest.raises(ValueError, match="more than 2047 bytes"):
            kernel_line(["x" * 2048])

    def test_control_characters_are_refused(self) -> None:
        with pytest.raises(ValueError, match="control characters"):
            grub_quoted("a\nmenuentry")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.binary(max_size=99)))
def test_archives_are_what_cpio_unpacks(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    directory = tmp_path_factory.mktemp("cpio")
    source = directory / "source"
    source.write_bytes(b"from a file")
    entries = [cpio.directory("d"), cpio.file("d/path", source, 0o755)]
    entries += [cpio.file(f"d/f-{name}", content) for name, content in files.items()]
    packed = b"".join(cpio.archive(entries))
    assert len(packed) == cpio.size_of(entries)
    target = directory / "target"
    target.mkdir()
    subprocess.run(["cpio", "-idm", "--quiet"], input=packed, cwd=target, check=True)
    assert (target / "d/path").read_bytes() == b"from a file"
    assert stat.S_IMODE((target / "d/path").stat().st_mode) == 0o755
    assert {path.name: path.read_bytes() for path in (target / "d").glob("f-*")} == {
        f"f-{name}": content for name, content in files.items()
    }


class TestTheOutcomeRecord:
    def test_a_new_one(self) -> None:
        content = blank_outcome("ab" * 16)
        assert len(content) == OUTCOME_BYTES
        found = parse_outcome(content)
        assert (found.nonce, found.started, found.state) == ("ab" * 16, 0, "armed")

    @given(st.binary(max_size=200))
    def test_anything_else_is_an_error_and_nothing_worse(self, content: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
            parse_outcome(content)
        with pytest.raises(ValueError):  # noqa: PT011
            parse_outcome(content.ljust(OUTCOME_BYTES))


class TestModules:
    @pytest.fixture
    def machine(self, tmp_path: Path) -> MachineFiles:
        """A tree of modules, real ones to depmod: one needs another, and another first."""
        where = tmp_path / "lib/modules/1.0/kernel"
        where.mkdir(parents=True)
        sources = {
            "low": "int low_fn(void) { return 1; }"
            'const char t[] __attribute__((section("__ksymtab_strings"),used)) = "low_fn";',
            "high": "int low_fn(void); int high(void) { return low_fn(); }",
            "crc": "int crc;",
        }
        softdep = 'const char s[] __attribute__((section(".modinfo"),used)) = "softdep=pre: crc";'
        for name, source in sources.items():
            file = where / f"{name}.c"
            file.write_text(source + (softdep if name == "high" else ""))
            subprocess.run(["cc", "-c", "-o", where / f"{name}.ko", file], check=True)
        for name in ("modules.order", "modules.builtin"):
            (tmp_path / "lib/modules/1.0" / name).touch()
        (tmp_path / "lib/modules/1.0/modules.builtin").write_text("kernel/fs/ext4.ko\n")
        return MachineFiles(tmp_path, kernel="1.0")

    @pytest.mark.parametrize("packer", [None, "xz", "zstd"])
    def test_what_a_module_needs_comes_before_it_and_is_unpacked(
        self, machine: MachineFiles, packer: str | None
    ) -> None:
        where = machine.path("/lib/modules/1.0/kernel")
        plain = {path.name: path.read_bytes() for path in where.glob("*.ko")}
        if packer is not None:
            options = ["--rm", "-q"] if packer == "zstd" else []
            subprocess.run([packer, *options, *where.glob("*.ko")], check=True)
        subprocess.run(["depmod", "--basedir", machine.root, "1.0"], check=True)
        found = modules.gather(machine, ["high", "ext4", "high"])
        names = [file.name for file in found]
        assert sorted(names) == ["crc.ko", "high.ko", "low.ko"]
        assert names[-1] == "high.ko"
        assert {file.name: file.content for file in found} == plain

    def test_one_that_is_not_there(self, machine: MachineFiles) -> None:
        subprocess.run(["depmod", "--basedir", machine.root, "1.0"], check=True)
        with pytest.raises(Refused, match=r"kernel module nosuch of 1\.0 cannot be found"):
            modules.gather(machine, ["nosuch"])

    def test_a_watchdog_is_found_by_its_device_also_where_nobody_loaded_its_driver(
        self, machine: MachineFiles
    ) -> None:
        where = machine.path("/lib/modules/1.0/kernel/drivers/watchdog")
        where.mkdir(parents=True)
        alias = 'const char s[] __attribute__((section(".modinfo"),used)) = "alias=pci:v1d2*";'
        (where / "dog.c").write_text(alias)
        subprocess.run(["cc", "-c", "-o", where / "dog.ko", where / "dog.c"], check=True)
        subprocess.run(["depmod", "--basedir", machine.root, "1.0"], check=True)
        machine = replace(machine, sys=machine.root / "sys")
        devices = machine.sys / "bus/pci/devices"
        for name, modalias in (("0", "pci:v9d9"), ("1", "pci:v1d2sv3")):
            (devices / name).mkdir(parents=True)
            (devices / name / "modalias").write_text(f"{modalias}\n")
        found = modules.watchdogs(machine)
        assert (found.found, found.modules) == (True, ["dog"])
        (devices / "1/modalias").unlink()
        assert not modules.watchdogs(machine).found

        device = machine.sys / "devices/0000:00:05.0"
        (device / "watchdog/watchdog0").mkdir(parents=True)
        (machine.sys / "bus/dog").mkdir()
        (machine.sys / "module/dog").mkdir(parents=True)
        (machine.sys / "bus/dog/module").symlink_to(machine.sys / "module/dog")
        (device / "driver").symlink_to(machine.sys / "bus/dog")
        (device / "watchdog/watchdog0/device").symlink_to(device)
        links = machine.sys / "class/watchdog"
        links.mkdir(parents=True)
        (links / "watchdog0").symlink_to(device / "watchdog/watchdog0")
        # softdog has no device.
        (machine.sys / "devices/virtual/watchdog1").mkdir(parents=True)
        (links / "watchdog1").symlink_to(machine.sys / "devices/virtual/watchdog1")
        found = modules.watchdogs(machine)
        assert (found.found, found.modules) == (True, ["dog"])

    def test_drivers_are_found_from_the_bus_down(self, tmp_path: Path) -> None:
        """As the kernel lays out a virtio disk and a multipath NVMe disk."""
        sys = tmp_path / "sys"
        for path, driver in (
            ("devices/pci0/0000:00:03.0", "virtio_pci"),
            ("devices/pci0/0000:00:03.0/virtio1", "virtio_blk"),
            ("devices/pci0/0000:00:04.0", "nvme"),
        ):
            at = sys / path
            at.mkdir(parents=True)
            (sys / "module" / driver).mkdir(parents=True)
            bus = sys / "bus" / driver
            bus.mkdir(parents=True)
            (bus / "module").symlink_to(sys / "module" / driver)
            (at / "driver").symlink_to(bus)
        virtio = sys / "devices/pci0/0000:00:03.0/virtio1/block/vda"
        virtio.mkdir(parents=True)
        controller = sys / "devices/pci0/0000:00:04.0/nvme/nvme0"
        controller.mkdir(parents=True)
        subsystem = sys / "devices/virtual/nvme-subsystem/nvme-subsys0"
        (subsystem / "nvme0n1").mkdir(parents=True)
        (subsystem / "nvme0").symlink_to(controller)
        links = sys / "class/block"
        links.mkdir(parents=True)
        (links / "vda").symlink_to(virtio)
        (links / "nvme0n1").symlink_to(subsystem / "nvme0n1")
        machine = MachineFiles(sys=sys)
        assert modules.drivers_of(machine, links / "vda") == ["virtio_pci", "virtio_blk"]
        assert modules.drivers_of(machine, links / "nvme0n1") == ["nvme"]


def test_name_servers_behind_a_stub(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run/systemd/resolve").mkdir(parents=True)
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.53\noptions x\n")
    machine = MachineFiles(tmp_path)
    assert list(name_servers(machine)) == []
    (tmp_path / "run/systemd/resolve/resolv.conf").write_text(
        "nameserver 10.0.0.2\nnameserver fe80::1%eth0\n"
    )
    assert list(name_servers(machine)) == ["10.0.0.2", "fe80::1%eth0"]
