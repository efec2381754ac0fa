"""Bounds how often an address may fail to authenticate.

A token has far too many bits to be guessed, and one that is right is let in however many wrong ones
came from the same address: strangers behind it, or other users of this machine, cannot lock anybody
out. What is bounded is what failures cost: beyond the limit a client gets a time to wait, with no
explanation and no log line of its own.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 100
"""Failures in a row before an address has to wait."""
PER_SECOND = 1.0
_ADDRESSES = 4096


def log_limit() -> FailureLimit:
    """Make the limit of lines that all strangers together may cause in a log."""
    return FailureLimit(burst=1000, per_second=10.0)


class FailureLimit:
    """A token bucket for each address; the least recently used ones are forgotten."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        burst: int = BURST,
        per_second: float = PER_SECOND,
    ) -> None:
        self._clock = clock
        self._burst = float(burst)
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By address: failures left, and when that was so."""

    def __len__(self) -> int:
        """Return how many addresses are remembered."""
        return len(self._buckets)

    def failed(self, address: str) -> int:
        """Count a failure; return how many seconds to wait before the next, 0 for none."""
        key, now = _network(address), self._clock()
        left, since = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - left) / self._per_second))


def network_of(host: str) -> str:
    """Return an IPv4 address unchanged; of IPv6 the network, in which hosts choose their own."""
    try:
        parsed = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _network(address: str) -> str:
    """Return the network of an address with a port."""
    return network_of(address.rpartition(":")[0].strip("[]") or address)
