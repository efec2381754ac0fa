"""Addresses in settings."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress


def split_address(text: str) -> tuple[str, int]:
    """Split `ADDRESS:PORT` (`[::1]:80` for IPv6). Raises `ValueError` with a clear sentence."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(
            f"should be ADDRESS:PORT with a port up to 65535, for example 127.0.0.1:9918, "
            f"not {text!r}"
        )
    if host == "localhost":
        return host, int(port)
    with suppress(ValueError):
        if bracketed == (ipaddress.ip_address(host).version == 6):
            return host, int(port)
    raise ValueError(
        f"should begin with an IPv4 address, an IPv6 address in brackets or localhost, not {text!r}"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
