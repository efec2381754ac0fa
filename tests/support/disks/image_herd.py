"""Nodes that fetch an image from each other, and servers that are one of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import Progress
from holdfast.api.services import Services
from holdfast.reimage.images.fetch import fetch
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.images.peers import PeerAccess
from holdfast.reimage.images.retries import Patience
from holdfast.reimage.images.sharing import ImageSharing
from holdfast.reimage.images.sources import Reach
from holdfast.reimage.images.suppliers import Received
from holdfast.reimage.service import Reimage
from tests.support.daemon.api import served
from tests.support.daemon.harness import run_cli
from tests.support.servers.fileserver import Behaviour

MIB = 1 << 20
SIZE = 3 * MIB
PATIENT = Patience(first_seconds=0.01, most_seconds=0.02, give_up_seconds=60)
OPEN = {"serve_images": True, "serve_pressure_percent": 100}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Give an image and its descriptor."""
    file = tmp_path_factory.mktemp("image") / "disk.raw"
    file.write_bytes(random.Random(1).randbytes(2 * MIB) + bytes(MIB))
    assert run_cli("image", "describe", file).returncode == 0
    return file.read_bytes(), Path(f"{file}.json").read_bytes()


@dataclass
class Member:
    """A node of a herd: the daemon's HTTP server, and the code that stages."""

    url: str
    token: Path
    sharing: ImageSharing
    directory: Path
    received: Received

    def fetch(self, origin: str, descriptor: bytes, peers: Sequence[str], **access: Any) -> bytes:
        kept = self.directory / "descriptor.json"
        kept.write_bytes(descriptor)
        access = {"poll_seconds": 0.5, "token_file": self.token, **access}
        done = fetch(
            origin,
            self.directory,
            content=Descriptor.parse(descriptor).content,
            descriptor=kept,
            descriptor_sha256=hashlib.sha256(descriptor).hexdigest(),
            reach=Reach(),
            progress=Progress(),
            patience=PATIENT,
            access=PeerAccess(urls=peers, **access) if peers else None,
            sharing=self.sharing,
            received=self.received,
        )
        return done.read_bytes()

    def gave(self) -> dict[str, int]:
        """Return the bytes that came from each kind of source."""
        return dict(self.sharing.figures()[0])


@contextmanager
def member(base: Path, name: str, zone: str, **settings: Any) -> Iterator[Member]:
    base.mkdir()
    directory = base / "image-of-it"
    directory.mkdir()
    sharing = ImageSharing(enabled=True, here=lambda: (name, zone))
    sharing.offered = lambda: (directory, False)
    token = base / "images-token"

    def share(services: Services) -> Services:
        reimage = services.capability(Reimage)
        sharing.pace = reimage.sharing.pace
        reimage.sharing = sharing
        return services

    with served(base, change=share, reimage=OPEN, **settings) as server:
        token.write_text(server.secrets["images"])
        yield Member(server.url, token, sharing, directory, Received())


def peer(content: bytes, descriptor: bytes, **facts: Any) -> Behaviour:
    """Make what looks like a peer that has the image."""
    sha256 = Descriptor.parse(descriptor).content.sha256
    known = {
        "sha256": sha256,
        "size_bytes": len(content),
        "state": "staged",
        "present_bytes": len(content),
        "proven_bytes": len(content),
        "node_id": "another",
        "zone": "a",
        **facts,
    }
    path = f"/v1/images/{sha256}"
    return Behaviour({path: json.dumps(known).encode(), f"{path}/content": content})


def ranges(server: Behaviour) -> list[str | None]:
    return [request.range for request in server.asked if not request.path.startswith("/v1/images/")]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Member]:
    with member(tmp_path / "me", "me", "a") as me:
        yield me
