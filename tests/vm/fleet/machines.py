"""Six machines in three zones, each of them another node, and what has to be true of them."""

from __future__ import annotations

import itertools
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.vm.diagnosis import diagnosis
from tests.vm.reimage.authority import make_ssh_keys
from tests.vm.reimage.images import NEW_IMAGE, Systems
from tests.vm.reimage.node import BOOT_SECONDS, Disks, Node, running
from tests.vm.reimage.published import Published
from tests.vm.reimage.story import identity, prepared, started_warm
from tests.vm.reimage.telling import tell

ZONES: Mapping[str, tuple[str, ...]] = {
    "a": ("a-1", "a-2"),
    "b": ("b-1", "b-2"),
    "c": ("c-1", "c-2"),
}
FAILING = "b-2"
"""The node whose new system does not pass its check until an operator has fixed it."""

T = TypeVar("T")

# All are copies of one machine. $hostname, $machine_id and $keys make it another one.
_ANOTHER_NODE = r"""
set -e
systemctl stop holdfast
echo "$hostname" >/etc/hostname
hostname "$hostname"
echo "$machine_id" >/etc/machine-id
rm -f /etc/ssh/ssh_host_* /mnt/data/.holdfast/node-id
printf '%s' "$private" >/etc/ssh/ssh_host_ed25519_key
printf '%s' "$public" >/etc/ssh/ssh_host_ed25519_key.pub
chmod 0600 /etc/ssh/ssh_host_ed25519_key
head -c 1M /dev/urandom >/mnt/data/db/own
cat >>/etc/holdfast/holdfast.toml <<END
$settings
END
systemctl start holdfast
sync
"""
_CHECK = """\
[reimage]
check_command = ["/usr/bin/test", "-e", "/etc/holdfast/fixed"]
"""
_DATA = "cd /mnt/data/db && sha256sum -- *"


@dataclass
class Member:
    """One machine of the fleet."""

    name: str
    zone: str
    node: Node
    host_key: str = ""
    """The line by which SSH knows it."""
    kept: dict[str, str] = field(default_factory=dict)
    """What has to be the same in the new system."""
    node_id: str = ""
    data: str = ""

    def prepare(self, published: Published, directory: Path) -> None:
        """Make it a node of its own, with data of its own, and record what has to stay."""
        control, guest = self.node.control, self.node.guest
        self.node.settled()
        control.answers(BOOT_SECONDS)
        key = directory / f"host-key-{self.name}"
        make_ssh_keys(key)
        public = key.with_suffix(".pub").read_text()
        self.host_key = f"[127.0.0.1]:{self.node.ports.ssh} {public}"
        given = {
            "hostname": self.name,
            "machine_id": f"{int.from_bytes(self.name.encode()):032x}",
            "private": key.read_text(),
            "public": public,
            "settings": _CHECK if self.name == FAILING else "",
        }
        assigned = "".join(f"{name}={shlex.quote(value)}\n" for name, value in given.items())
        guest.sh(assigned + _ANOTHER_NODE)
        control.answers(BOOT_SECONDS)
        prepared(self.node, published, "staged")
        self.kept = identity(self.node)
        self.node_id = control.get("/v1/node")["node_id"]
        self.data = guest.sh(_DATA)
        self.node.qmp.forget("RESET")

    def fix(self) -> None:
        """Do what its check waits for, and have it checked and confirmed."""
        self.node.guest.close()
        self.node.settled()
        self.node.guest.sh("touch /etc/holdfast/fixed")
        control = self.node.control
        done = control.finished(control.post("/v1/reimage/confirm", code=202)["id"])
        assert done["state"] == "succeeded", done

    def has_become_the_image(self) -> None:
        """Check that it is confirmed, is the same node, and has its data, which are warm."""
        found = self.node.control.get("/v1/reimage")
        assert found["state"] == "confirmed", (self.name, found)
        assert all(check["passed"] for check in found["checks"]), (self.name, found["checks"])
        assert "manifest" in {check["name"] for check in found["checks"]}
        seen = self.node.control.get("/v1/node")
        assert (seen["image_id"], seen["hostname"]) == (NEW_IMAGE, self.name)
        assert seen["node_id"] == self.node_id
        started_warm(self.node)
        assert identity(self.node) == self.kept, self.name
        assert self.node.guest.sh(_DATA) == self.data, self.name

    def is_undisturbed(self) -> bool:
        """Whether it was never reset since it was prepared."""
        return not self.node.qmp.times("RESET")


class Fleet:
    """The machines, by name."""

    def __init__(self, members: Iterable[Member], systems: Systems, published: Published) -> None:
        self.members = {member.name: member for member in members}
        self.systems = systems
        self.published = published

    def each(self, call: Callable[[Member], T]) -> dict[str, T]:
        """Call for all at a time; raises what the first in order raised."""
        with ThreadPoolExecutor(len(self.members)) as pool:
            calls = {name: pool.submit(call, member) for name, member in self.members.items()}
        return {name: done.result() for name, done in calls.items()}

    def states(self) -> dict[str, str]:
        """Return the state of a re-imaging that each reports."""
        return self.each(lambda member: str(member.node.control.get("/v1/reimage")["state"]))

    def check_zones(self) -> None:
        """Check that no zone went down before all nodes of the one before it were up again."""
        disturbed = {
            zone: [moment for name in names for moment in self._moments(name)]
            for zone, names in ZONES.items()
        }
        spans = [(min(moments), max(moments)) for moments in disturbed.values()]
        for (_, end), (begin, _) in itertools.pairwise(spans):
            assert end < begin, disturbed

    def check_canary(self) -> None:
        """Check that the first node was up again before the second went down."""
        first, second = ZONES["a"]
        assert max(self._moments(first)) < min(self._moments(second))

    def _moments(self, name: str) -> list[float]:
        moments = self.members[name].node.qmp.times("RESET")
        assert moments, f"{name} was not reset"
        return moments


@contextmanager
def fleet_of(
    systems: Systems, installed: Disks, published: Published, directory: Path
) -> Iterator[Fleet]:
    """Switch six machines on and make each a node of its own; they are gone at the end."""
    shutil.rmtree(directory, ignore_errors=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        members = []
        for zone, names in ZONES.items():
            for name in names:
                disks = installed.copy(directory / name / "disks")
                run = running(systems, disks, directory / name / "run", processors=1)
                members.append(Member(name, zone, stack.enter_context(run)))
        fleet = Fleet(members, systems, published)
        try:
            keys = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            fleet.each(lambda member: member.prepare(published, keys))
            assert len({member.node_id for member in members}) == len(members)
            tell("six machines are nodes of their own, with data of their own")
            yield fleet
        except BaseException:
            _explain(fleet)
            raise


def _explain(fleet: Fleet) -> None:
    for name, member in fleet.members.items():
        tell(f"{name}: {member.node.console[-600:]}\n{diagnosis(member.node.guest)}")


def image_of(fleet: Fleet) -> dict[str, Any]:
    """Return the image as a controller names it, with the data's newest manifest to check."""
    return fleet.published.request(manifest="latest")
