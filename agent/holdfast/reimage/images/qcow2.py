"""Raw images out of qcow2 files, which others made and nobody need trust.

The header is read here before qemu-img is started: it would open whatever other files it names.
docs/interop/qcow2.txt of QEMU describes it.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from holdfast._engine import CancelledError, Progress
from holdfast.engine.requests import call
from holdfast.operations.model import Slug
from holdfast.reimage.images.engine_requests import PackImage
from holdfast.reimage.images.retries import check, failed
from holdfast.storage.atomic_files import flush_directory, linked_file

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQI")
"""Magic, version, offset and length of the backing file's name, cluster bits, size, encryption."""
_INCOMPATIBLE = struct.Struct(">Q")
_INCOMPATIBLE_AT = 72
_CORRUPT, _EXTERNAL_DATA = 1 << 1, 1 << 2
_POLL_SECONDS = 0.1
_SAID_CHARACTERS = 500


def is_one(path: Path) -> bool:
    """Whether a file is one of qcow2, by its first bytes. Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def convert(path: Path, progress: Progress) -> Path:
    """Make `<name>.raw.zst` beside a qcow2 file, and answer its path.

    What is there already is replaced. Raises `OperationFailed`, `CancelledError`, `OSError`.
    """
    _refuse_others(path)
    program = shutil.which("qemu-img")
    if program is None:
        raise failed(
            Slug.UNAVAILABLE,
            f"{path} is a qcow2 file, which qemu-img converts, and that is not installed: on "
            "Debian `apt-get install qemu-utils`, or convert it elsewhere.",
        )
    output = path.with_name(f"{path.name.removesuffix('.qcow2')}.raw.zst")
    target = linked_file(output)
    if target is None:
        raise failed(Slug.INVALID_REQUEST, f"{output} is in the way and is no regular file.")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{path.name}.") as scratch:
        raw, packed = Path(scratch, "disk.raw"), Path(scratch, "disk.raw.zst")
        _run(program, path, raw, progress)
        call(PackImage(file=raw, output=packed), progress)
        packed.chmod(0o644)
        packed.rename(target)
    flush_directory(target.parent)
    return output


def _refuse_others(path: Path) -> None:
    """Refuse a file that needs anything but itself."""
    with path.open("rb") as file:
        head = file.read(_INCOMPATIBLE_AT + _INCOMPATIBLE.size)
    if len(head) < _INCOMPATIBLE_AT:
        raise failed(Slug.BAD_RECORD, f"{path} is not a whole qcow2 file.")
    _, version, backing_at, _, _, _, encryption = _HEADER.unpack_from(head)
    features = 0
    if version == 3 and len(head) == _INCOMPATIBLE_AT + _INCOMPATIBLE.size:
        (features,) = _INCOMPATIBLE.unpack_from(head, _INCOMPATIBLE_AT)
    elif version != 2:
        raise failed(Slug.BAD_RECORD, f"{path} is of qcow2's version {version}, not 2 or 3.")
    for wrong, why in (
        (backing_at != 0, "is based on a backing file"),
        (features & _EXTERNAL_DATA, "keeps its data in another file"),
    ):
        if wrong:
            raise failed(
                Slug.BAD_RECORD,
                f"{path} {why}, and only a file that is complete in itself is taken: flatten it "
                "with `qemu-img convert`, where that file is trusted.",
            )
    if encryption:
        raise failed(Slug.BAD_RECORD, f"{path} is encrypted; decrypt it with `qemu-img convert`.")
    if features & _CORRUPT:
        raise failed(Slug.BAD_RECORD, f"{path} is marked as corrupt; see `qemu-img check`.")


def _run(program: str, path: Path, raw: Path, progress: Progress) -> None:
    progress.enter("converting")
    command = [program, "convert", "-f", "qcow2", "-O", "raw", str(path.absolute()), str(raw)]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(  # noqa: S603 - no shell, and paths that begin with a slash
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        ) as process,
    ):
        try:
            while process.poll() is None:
                check(progress)
                time.sleep(_POLL_SECONDS)
        except CancelledError:
            process.kill()
            raise
        said.seek(0, os.SEEK_SET)
        message = " ".join(said.read().decode(errors="replace").split())[-_SAID_CHARACTERS:]
    if process.returncode != 0:
        raise failed(
            Slug.BAD_RECORD, f"qemu-img could not convert {path}: {message or process.returncode}."
        )
