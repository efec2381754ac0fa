"""Whether Kafka has all replicas in sync: answers by its protocol's tables, and real brokers."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from pathlib import Path

import confluent_kafka
import pytest

from holdfast.reimage.gates.kafka import kafka
from holdfast.reimage.gates.probes import NotReadyError
from tests.support.fleet.gates import answering, wait


def _number(*values: int) -> bytes:
    return struct.pack(f"!{len(values)}i", *values)


def _text(text: str) -> bytes:
    return struct.pack("!h", len(text)) + text.encode()


def _partition(index: int, leader: int, in_sync: Sequence[int]) -> bytes:
    replicas = _number(3, 1, 2, 3)
    said = _number(len(in_sync), *in_sync)
    return struct.pack("!h", 0) + _number(index, leader) + replicas + said + _number(0)


def _metadata(*partitions: bytes, brokers: int = 3) -> bytes:
    """Build a Metadata response of version 5, by the tables of kafka.apache.org/protocol."""
    body = _number(1, 0, brokers)
    for node in range(1, brokers + 1):
        body += _number(node) + _text("kafka") + _number(9092) + struct.pack("!h", -1)
    body += _text("cluster") + _number(1, 1) + struct.pack("!h", 0) + _text("orders") + b"\0"
    body += _number(len(partitions)) + b"".join(partitions)
    return _number(len(body)) + body


WHOLE = _partition(0, 1, (3, 1, 2))


@pytest.mark.parametrize(
    ("answer", "good", "said"),
    [
        (_metadata(WHOLE, WHOLE), True, "2 partitions on 3 brokers, all replicas in sync"),
        (_metadata(WHOLE, _partition(7, 1, (1, 2))), False, "1 of 2 partitions are under-"),
        (_metadata(_partition(7, -1, ())), False, "1 of 1 partitions are without a leader"),
        (_metadata(brokers=0), False, "it knows no broker"),
        (_metadata(WHOLE)[:-9], False, "its answer is incomplete"),
        (_number(4, 2), False, "the answer is to another request"),
        (_number(12, 1, 0, 1 << 30), False, "its answer is too short"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "it is no Kafka"),
        (_number(-1), False, "it is no Kafka"),
        (b"", False, "its answer is incomplete"),
    ],
)
def test_a_kafka_has_all_replicas_in_sync(answer: bytes, good: bool, said: str) -> None:
    asked: list[bytes] = []

    def reply(request: bytes) -> bytes:
        asked.append(request)
        return answer

    with answering(reply) as address:
        if good:
            found = wait(check="kafka", address=address, within_seconds=60)
            assert (found.passed, found.name) == (True, "kafka")
            assert said in found.detail
        else:
            with pytest.raises(NotReadyError, match=said):
                kafka(address)
    # Length, Metadata, version 5, an id, the client; all topics, and none is created.
    expected = struct.pack("!hhih", 3, 5, 1, 8) + b"holdfast" + struct.pack("!ib", -1, 0)
    assert asked[0] == _number(len(expected)) + expected


class Brokers:
    """Three brokers of a Kafka cluster, as librdkafka simulates them: real sockets, and C code."""

    def __init__(self) -> None:
        (library,) = (
            Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka-*")
        )
        self._kafka = ctypes.CDLL(str(library))
        for name in ("conf_new", "new", "mock_cluster_new"):
            getattr(self._kafka, f"rd_kafka_{name}").restype = ctypes.c_void_p
        self._kafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        conf = ctypes.c_void_p(self._kafka.rd_kafka_conf_new())
        self._client = ctypes.c_void_p(
            self._kafka.rd_kafka_new(0, conf, ctypes.create_string_buffer(256), 256)
        )
        self._cluster = ctypes.c_void_p(self._kafka.rd_kafka_mock_cluster_new(self._client, 3))
        found: bytes = self._kafka.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.addresses = found.decode().split(",")

    def create(self, topic: str, partitions: int) -> None:
        done = self._kafka.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 3)
        assert done == 0

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Make a broker the leader of a partition; -1 for none."""
        done = self._kafka.rd_kafka_mock_partition_set_leader(
            self._cluster, topic.encode(), partition, broker
        )
        assert done == 0

    def stop(self, broker: int) -> None:
        assert self._kafka.rd_kafka_mock_broker_set_down(self._cluster, broker) == 0

    def close(self) -> None:
        self._kafka.rd_kafka_mock_cluster_destroy(self._cluster)
        self._kafka.rd_kafka_destroy(self._client)


def test_the_brokers_of_librdkafka_are_understood() -> None:
    brokers = Brokers()
    try:
        first = brokers.addresses[0]
        assert kafka(first) == "0 partitions on 3 brokers, all replicas in sync"
        brokers.create("orders", 4)
        for address in brokers.addresses:
            assert kafka(address) == "4 partitions on 3 brokers, all replicas in sync"
        brokers.lead("orders", 2, -1)
        with pytest.raises(NotReadyError, match=r"1 of 4 .* without a leader, such as orders-2"):
            kafka(first)
        brokers.lead("orders", 2, 1)
        assert kafka(first) == "4 partitions on 3 brokers, all replicas in sync"
        brokers.stop(1)
        with pytest.raises(NotReadyError, match="does not answer"):
            kafka(first)
    finally:
        brokers.close()
