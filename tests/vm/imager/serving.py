"""Serves an image to the imager over the network."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.servers.fileserver import Behaviour, serving
from tests.vm.imager.arming import DHCP
from tests.vm.imager.images import Image
from tests.vm.imager.machine import HOST
from tests.vm.imager.rig import Rig


def behaviour(image: Image, **how: Any) -> Behaviour:
    """A server of an image that does something wrong."""
    return Behaviour({"/image": image.content.read_bytes()}, {"/image": '"1"'}, **how)


@contextmanager
def served(
    machine: Rig, does: Behaviour, tls: ssl.SSLContext | None = None
) -> Iterator[dict[str, Any]]:
    """Serve the image; give what a machine is armed with."""
    with serving(does, tls=tls) as url:
        seen = url.replace("127.0.0.1", HOST)
        yield {"source": {"kind": "network", "url": f"{seen}/image"}, "network": DHCP}
