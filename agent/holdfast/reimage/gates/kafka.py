"""Whether a Kafka cluster has all replicas of its partitions in sync, as a broker's metadata shows.

The wire format is that of kafka.apache.org/protocol: Metadata, version 5 (Kafka 1.0 and later).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from holdfast.reimage.gates.probes import Connection, NotReadyError, shown

_METADATA, _VERSION, _ID = 3, 5, 1
_ALL_TOPICS = -1
_MOST_BYTES = 64 << 20
"""Of an answer; a partition of three replicas takes about 50."""


@dataclass(frozen=True)
class Metadata:
    """What a broker answers."""

    brokers: int
    partitions: int
    without_leader: list[str]
    under_replicated: list[str]


def kafka(address: str) -> str:
    """Check that no partition of the cluster lacks a leader or a replica in sync."""
    client = b"holdfast"
    body = struct.pack("!hhih", _METADATA, _VERSION, _ID, len(client)) + client
    body += struct.pack("!ib", _ALL_TOPICS, 0)  # and create no topic
    with Connection(address) as connection:
        connection.send(struct.pack("!i", len(body)) + body)
        (length,) = struct.unpack("!i", connection.exactly(4))
        if not 4 <= length <= _MOST_BYTES:
            raise NotReadyError(f"it is no Kafka: an answer of {length} bytes")
        answer = connection.exactly(length)
    found = parse(answer)
    if found.brokers == 0:
        raise NotReadyError("it knows no broker")
    for partitions, what in (
        (found.without_leader, "without a leader"),
        (found.under_replicated, "under-replicated"),
    ):
        if partitions:
            raise NotReadyError(
                f"{len(partitions)} of {found.partitions} partitions are {what}, such as "
                f"{shown(partitions[0])}"
            )
    return f"{found.partitions} partitions on {found.brokers} brokers, all replicas in sync"


class _Reader:
    """Reads the primitive types of the protocol. Raises `NotReadyError` where bytes are missing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, form: str) -> int:
        size = struct.calcsize(form)
        if len(self._data) - self._at < size:
            raise NotReadyError("it is no Kafka: its answer is too short")
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return int(value)

    def text(self) -> str:
        length = max(0, self.take("!h"))
        if len(self._data) - self._at < length:
            raise NotReadyError("it is no Kafka: its answer is too short")
        text = self._data[self._at : self._at + length]
        self._at += length
        return text.decode(errors="replace")

    def count(self) -> int:
        """Return the length of an array, of which each element takes at least four bytes."""
        count = max(0, self.take("!i"))
        if count * 4 > len(self._data) - self._at:
            raise NotReadyError("it is no Kafka: its answer is too short")
        return count

    def numbers(self) -> list[int]:
        return [self.take("!i") for _ in range(self.count())]


def parse(answer: bytes) -> Metadata:
    """Read a Metadata response of version 5, with its header. Raises `NotReadyError`."""
    reader = _Reader(answer)
    if reader.take("!i") != _ID:
        raise NotReadyError("it is no Kafka: the answer is to another request")
    reader.take("!i")  # throttle
    brokers = reader.count()
    for _ in range(brokers):
        reader.take("!i")
        reader.text()
        reader.take("!i")
        reader.text()
    reader.text()  # cluster
    reader.take("!i")  # controller
    partitions = 0
    leaderless, under = [], []
    for _ in range(reader.count()):
        reader.take("!h")
        topic = reader.text()
        reader.take("!b")
        for _ in range(reader.count()):
            reader.take("!h")
            name = f"{topic}-{reader.take('!i')}"
            leader = reader.take("!i")
            replicas, in_sync = reader.numbers(), reader.numbers()
            reader.numbers()  # offline
            partitions += 1
            if leader < 0:
                leaderless.append(name)
            elif not set(replicas) <= set(in_sync):
                under.append(name)
    return Metadata(brokers, partitions, leaderless, under)
