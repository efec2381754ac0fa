"""Real daemons, each in namespaces of its own; their boots are a kill and a restart.

Between those, each finds what the imager would have left: another boot id and its marker, or the
old system with the imager's outcome in /boot.
"""

from __future__ import annotations

import json
import os
import re
import string
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from demo.fleet.network import connect, make_bridge, name_hosts
from holdfast.operations.model import now
from tests.support.daemon.boots import OLD, BootedNode, nodes_of
from tests.support.daemon.harness import Daemon, create_tokens, daemons
from tests.support.daemon.recorded_helper import RecordedHelper
from tests.support.machine.ground import CHECKOUT
from tests.support.machine.namespaces import Namespaces, made_namespaces
from tests.support.servers.certificates import Authority

PORT = 9918
_PROGRAM = (sys.executable, "-m", "demo.fleet.machine")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_REQUESTS = re.compile(
    r'holdfast_http_requests_total\{code="[^"]*",method="(?P<method>[^"]*)",'
    r'route="(?P<route>[^"]*)"\} (?P<count>\S+)'
)
REFUSAL = "The disk vda was not found: its controller did not answer within 30 s."
"""Why the imager of the node that comes back as the old system wrote nothing."""


@dataclass(frozen=True)
class Address:
    """A node's name, and where it is."""

    name: str
    zone: str
    ip: str


class FleetNode(BootedNode):
    """A node of the fleet."""

    def __init__(
        self,
        directory: Path,
        helper: RecordedHelper,
        start_daemon: Callable[..., Daemon],
        *,
        address: Address,
        place: Namespaces,
        **options: Any,
    ) -> None:
        super().__init__(
            directory,
            helper,
            partial(start_daemon, wrapper=place.wrapper, program=_PROGRAM, wait=False),
            **options,
        )
        self.address = address
        self.served: Counter[str] = Counter()
        self._place = place
        self._boot_id = directory / "boot_id"
        self._another_boot(None, [])
        place.run("mount", "--bind", self._boot_id, _BOOT_ID)
        place.write("/etc/holdfast/image-id", "web-1\n")

    @property
    def name(self) -> str:
        """Its name."""
        return self.address.name

    @property
    def image_id(self) -> str:
        """Of the system that runs."""
        return self._place.read("/etc/holdfast/image-id")

    @property
    def status(self) -> dict[str, Any]:
        """What its daemon answers about its re-imaging."""
        assert self.daemon is not None
        status: dict[str, Any] = self.daemon.http.get("/v1/reimage").json()
        return status

    def come_up(self, job: dict[str, Any]) -> None:
        """Leave what the imager would have left."""
        image = job["image"]
        if self.end == "failed":
            refused = {"state": "refused", "started": 1, "phase": "finding the disk"}
            record = {"nonce": job["nonce"], "reason": REFUSAL, **refused}
            self._another_boot(record, [job["nonce"]])
            return
        self._another_boot(None, [])
        marker = {
            "format": "holdfast-reimaged",
            "version": 1,
            "finished": now().isoformat(),
            "bytes_written": image["size_bytes"],
            "bytes_mapped": image["mapped_bytes"],
            "identity": {},
            "image": {key: image[key] for key in ("name", "image_version", "descriptor_sha256")},
            **{key: job[key] for key in ("nonce", "secret", "operation")},
        }
        self._place.write("/etc/holdfast/reimaged.json", json.dumps(marker))
        self._place.write("/etc/holdfast/image-id", f"{image['name']}-{image['image_version']}\n")

    def before_down(self) -> None:
        """Keep what its daemon counted in the boot that ends."""
        self.served.update(self._served_since_boot())

    @property
    def requests(self) -> Counter[str]:
        """How many requests it served in all its boots, by route."""
        return self.served + self._served_since_boot()

    def _served_since_boot(self) -> Counter[str]:
        assert self.daemon is not None
        served: Counter[str] = Counter()
        for line in self.daemon.http.get("/metrics").text.splitlines():
            counted = _REQUESTS.fullmatch(line)
            if counted is not None:
                served[f"{counted['method']} {counted['route']}"] += int(float(counted["count"]))
        return served

    def _another_boot(self, record: Mapping[str, Any] | None, entries: Sequence[str]) -> None:
        boot_id = str(uuid.uuid4())
        self._boot_id.write_text(f"{boot_id}\n")
        self.helper.answers["boot_outcome"] = {
            "outcome": {
                "record": record,
                "armed": False,
                "entry": bool(entries),
                "entry_nonces": entries,
                "system": OLD | {"boot_id": boot_id},
            }
        }


@dataclass(frozen=True)
class Fleet:
    """All nodes in the order of their zones, and how to call them."""

    nodes: Sequence[FleetNode]
    token: str
    """Of the scope `admin`."""
    authority: Path
    """What their certificates chain to."""

    def zone(self, name: str) -> list[FleetNode]:
        """Return the nodes of a zone."""
        return [node for node in self.nodes if node.address.zone == name]


def addresses(zones: int, per_zone: int) -> list[Address]:
    """Name nodes: `a-1`, `a-2`, …, `b-1`, …."""
    return [
        Address(f"{zone}-{node}", zone, f"10.77.{number}.{node}")
        for number, zone in enumerate(string.ascii_lowercase[:zones], 1)
        for node in range(1, per_zone + 1)
    ]


_STARTING = 12
"""How many daemons start at the same time: each takes a second of a processor, or more."""


@contextmanager
def running_fleet(work: Path, places: Sequence[Address], down: float) -> Iterator[Fleet]:
    """Start all daemons, and wait until each answers; nothing of them is left at the end.

    `down` is how many seconds pass between the end of the old system and the start of the new one.
    """
    make_bridge()
    name_hosts({each.name: each.ip for each in places}, work / "hosts")
    authority = Authority(work, "fleet-ca")
    tokens = create_tokens(work)
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with ExitStack() as stack:
        # The namespaces last, since the daemons are ended in them.
        namespaces = {
            each.name: stack.enter_context(made_namespaces(work / "namespaces" / each.name))
            for each in places
        }
        start = stack.enter_context(daemons(work, tokens))
        directory = work / "nodes"
        directory.mkdir()
        make = stack.enter_context(nodes_of(directory, start, FleetNode))
        nodes: list[FleetNode] = []
        started: list[Daemon] = []
        for each in places:
            place = namespaces[each.name]
            connect(each.name, each.ip, place)
            issued = authority.issue(each.name, hosts=[each.name])
            node = make(
                each.name,
                address=each,
                place=place,
                down=down,
                environment={"PYTHONPATH": path},
                listen=f"{each.ip}:{PORT}",
                tls={"certificate": str(issued.certificate), "key": str(issued.key)},
            )
            if len(started) >= _STARTING:
                started[-_STARTING].wait_ready()
            started.append(node.start())
            nodes.append(node)
        for daemon in started:
            daemon.wait_ready()
        yield Fleet(nodes, tokens.secrets["admin"], authority.file)
