"""An image as the fleet's server has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.vm.reimage.server import ImageServer


@dataclass(frozen=True)
class Published:
    """An image that a server has."""

    server: ImageServer
    name: str
    """Of the descriptor's file."""
    sha256: str

    def request(self, **more: Any) -> dict[str, Any]:
        """The body that asks a machine to become this image."""
        url = self.server.url(self.name)
        return {"descriptor": url, "descriptor_sha256": self.sha256} | more
