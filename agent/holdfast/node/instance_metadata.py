"""What EC2's metadata service reports of this instance, by version 2 of its protocol (IMDSv2).

These are facts for people and for labels. A machine in between can forge any reply, so nothing is
allowed or refused because of them.
"""

from __future__ import annotations

import http.client
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.node.models import Instance
from holdfast.node.paths.files import read_text

log = logging.getLogger(__name__)

AUTO = "auto"
ADDRESS = "http://169.254.169.254"
_TOKEN_SECONDS = 60
_REQUEST_SECONDS = 2.0
_FIRST_PAUSE, _LAST_PAUSE = 30.0, 3600.0
_MOST_BYTES = 4096
_FACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}")
_OK, _NOT_FOUND = 200, 404
_FACTS = {
    "id": "instance-id",
    "type": "instance-type",
    "zone": "placement/availability-zone",
    "launch_image": "ami-id",
}


class NoMetadataError(Exception):
    """The service does not answer, or not as it should; the message is a clause."""


def address_of(setting: str, sys: Path = Path("/sys")) -> str | None:
    """Return where to ask by the setting `node.metadata`; None for nowhere.

    `auto` asks only where the firmware identifies EC2: other clouds have other services at
    the same address, and other networks have none.
    """
    if setting != AUTO:
        return setting or None
    vendor = read_text(sys / "class/dmi/id/sys_vendor") or ""
    bios = read_text(sys / "class/dmi/id/bios_version") or ""
    return ADDRESS if vendor == "Amazon EC2" or bios.lower().endswith("amazon") else None


def read_instance(address: str, seconds: float = _REQUEST_SECONDS) -> Instance:
    """Ask for all facts; `seconds` bounds each request. Raises `NoMetadataError`.

    A token is asked for first, and there is no way without. Its answer has a hop limit of its own
    (1 unless the instance was started otherwise): behind another hop, as in a container, it does
    not arrive, and the service counts as absent.
    """
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
    token = _ask(address, "PUT", "/latest/api/token", headers, seconds)
    if token is None or not _TOKEN.fullmatch(token):
        raise NoMetadataError("it has no token to give")
    headers = {"X-aws-ec2-metadata-token": token}
    found: dict[str, str | None] = {}
    for name, path in _FACTS.items():
        text = _ask(address, "GET", f"/latest/meta-data/{path}", headers, seconds)
        if text is not None and not _FACT.fullmatch(text):
            raise NoMetadataError(f"its {path} is none")
        found[name] = text
    return Instance(**found)


def _ask(
    address: str, method: str, path: str, headers: dict[str, str], seconds: float
) -> str | None:
    """Return the text of an answer; None if there is no such thing. Follows nothing elsewhere."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    deadline = time.monotonic() + seconds
    try:
        connection.request(method, path, headers={"Accept": "*/*", **headers})
        response = connection.getresponse()
        content = b""
        while chunk := response.read1(_MOST_BYTES):
            content += chunk
            if len(content) > _MOST_BYTES or time.monotonic() > deadline:
                raise NoMetadataError("its answer is too long")
    except (OSError, http.client.HTTPException) as error:
        reason = "it does not answer in time" if isinstance(error, socket.timeout) else str(error)
        raise NoMetadataError(reason or type(error).__name__) from error
    finally:
        connection.close()
    if response.status == _NOT_FOUND and method == "GET":
        return None
    if response.status != _OK:
        raise NoMetadataError(f"it answered {response.status} to {method} {path}")
    return content.decode("ascii", "replace").strip()


class InstanceWatch:
    """Identifies the instance, in the background, once; the daemon waits for nothing."""

    def __init__(self, address: str | None, on_found: Callable[[Instance], None]) -> None:
        self._address = address
        self._on_found = on_found
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="instance", daemon=True)

    def start(self) -> None:
        """Begin, if there is anything to ask."""
        if self._address is not None:
            self._thread.start()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while self._address is not None and not self._stopping.is_set():
            try:
                found = read_instance(self._address)
            except NoMetadataError as error:
                log.info("%s reports nothing of this instance: %s", self._address, error)
            except Exception:
                # It is a stranger, and the rest of the daemon does not depend on it.
                log.exception("%s was not understood", self._address)
            else:
                self._on_found(found)
                return
            self._stopping.wait(pause)
            pause = min(_LAST_PAUSE, 2 * pause)
