"""Servers and images that are worse than clumsy, while an image is staged."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast._engine import Progress
from holdfast.operations.model import OperationFailed
from holdfast.reimage.images.fetch import fetch
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.images.retries import Patience
from holdfast.reimage.images.sources import Reach
from tests.support.daemon.harness import run_cli
from tests.support.servers.fileserver import Behaviour, serving
from tests.vm.reimage.authority import make_certificates

MIB = 1 << 20
IMPATIENT = Patience(first_seconds=0.01, most_seconds=0.02, give_up_seconds=0.2)


class Packed:
    """An image packed with zstd, and its descriptor."""

    def __init__(self, directory: Path) -> None:
        self.raw = random.Random(1).randbytes(3000) + bytes(3 * MIB - 3000)
        file, packed = directory / "disk.raw", directory / "disk.raw.zst"
        file.write_bytes(self.raw)
        subprocess.run(("zstd", "-q", file, "-o", packed), check=True)
        assert run_cli("image", "describe", packed).returncode == 0
        self.content = packed.read_bytes()
        self.descriptor = Path(f"{packed}.json").read_bytes()
        self._directory = directory / "fetched"
        self._directory.mkdir()

    def become(self, content: bytes) -> None:
        """Have other bytes for the same image: the descriptor describes them, and its chunks."""
        document = json.loads(self.descriptor)
        document["content"]["size_bytes"] = len(content)
        if "sha256" in document["content"]:
            document["content"]["sha256"] = hashlib.sha256(content).hexdigest()
        self.content, self.descriptor = content, json.dumps(document).encode()

    def fetch(self, url: str, ca: Path | None = None) -> bytes:
        kept = self._directory / "descriptor.json"
        kept.write_bytes(self.descriptor)
        path = fetch(
            f"{url}/image",
            self._directory,
            content=Descriptor.parse(self.descriptor).content,
            descriptor=kept,
            descriptor_sha256=hashlib.sha256(self.descriptor).hexdigest(),
            reach=Reach(ca_file=ca),
            progress=Progress(),
            patience=IMPATIENT,
        )
        return path.read_bytes()

    def failure(self, url: str, ca: Path | None = None) -> str:
        with pytest.raises(OperationFailed) as caught:
            self.fetch(url, ca)
        assert not (self._directory / "image").exists()
        return str(caught.value)

    @property
    def behaviour(self) -> Behaviour:
        return Behaviour({"/image": self.content}, {"/image": '"1"'})


@pytest.fixture
def packed(disk_dir: Path) -> Packed:
    return Packed(disk_dir)


def test_one_kib_a_second_is_waited_for(packed: Packed) -> None:
    does = packed.behaviour
    does.bytes_per_second = 1 << 10
    with serving(does) as url:
        assert packed.fetch(url) == packed.content
    assert len(does.asked) == 1


def test_nobody_is_there(packed: Packed) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        reported = packed.failure(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert "Connection refused" in reported, reported


@pytest.mark.parametrize(
    ("address", "ca", "reason"),
    [
        ("127.0.0.1", "ca.pem", None),
        ("127.0.0.2", "ca.pem", "mismatch"),
        ("127.0.0.1", "other/ca.pem", "certificate verify failed"),
    ],
    ids=["right", "another name", "another authority"],
)
def test_the_certificate(
    packed: Packed, tmp_path: Path, address: str, ca: str, reason: str | None
) -> None:
    make_certificates(tmp_path, address)
    make_certificates(tmp_path / "other", address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with serving(packed.behaviour, tls=context) as url:
        if reason is None:
            assert packed.fetch(url, tmp_path / ca) == packed.content
        else:
            reported = packed.failure(url, tmp_path / ca)
            assert reason in reported, reported


def _bomb(content: bytes) -> bytes:
    """Continue with 64 GiB of zeros, in 2 MiB."""
    command = "head -c 1G /dev/zero | zstd -q"
    zeros = subprocess.run(command, shell=True, capture_output=True, check=True).stdout
    return content + zeros * 64


def _wide(content: bytes) -> bytes:
    """Pack it for a window of 256 MiB."""
    command = "zstd -qdc | zstd -q --long=28"
    done = subprocess.run(command, shell=True, input=content, capture_output=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_bomb, "it continues after 3145728 bytes"), (_wide, "too much memory")],
    ids=["bomb", "window"],
)
def test_what_would_need_too_much_is_not_unpacked(
    packed: Packed, change: Callable[[bytes], bytes], reason: str
) -> None:
    packed.become(change(packed.content))
    with serving(packed.behaviour) as url:
        reported = packed.failure(url)
    assert reason in reported, reported
