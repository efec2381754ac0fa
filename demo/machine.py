"""`make demo-machine`: a whole emulated machine becomes another image, and keeps its data.

Makes the machine's disks and the image once, below target/vm. Then a controller takes each step
over HTTPS; the data are compared before and after, and every byte of the data disks around the
imager. Ends with 1 if anything fell short, and leaves neither process nor file of this run behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console
from rich.table import Table

from demo.machine_view import MachineView
from demo.requirements import lacking
from tests.vm.guest import GuestError
from tests.vm.image import CACHE
from tests.vm.reimage import story, telling
from tests.vm.reimage.installation import installed_disks, made_systems
from tests.vm.reimage.node import BOOT_SECONDS, Disks, Node, running
from tests.vm.reimage.published import Published, publishing
from tests.vm.service import first_pass

_POLL_TIMEOUT = 8.0
_FACTS = r"""
cd /mnt/data/db && sha256sum ./* | sha256sum | cut -c -16
find . -type f | wc -l
cat /etc/holdfast/image-id
findmnt --noheadings --output UUID /
cat /etc/hostname
cat /etc/machine-id
sha256sum /etc/ssh/ssh_host_ed25519_key.pub | cut -c -16
"""
_NAMES = (
    ("data: digest", True),
    ("data: files", True),
    ("image", False),
    ("root file system", False),
    ("hostname", True),
    ("machine-id", True),
    ("SSH host key", True),
)
"""What is compared, and whether it has to be the same afterwards."""


def facts(node: Node) -> list[str]:
    """Read in the machine what is compared; in the order of `_NAMES`."""
    return node.guest.sh(_FACTS).split("\n")[: len(_NAMES)]


def reimage(node: Node, image: Published, view: MachineView) -> tuple[list[str], list[str]]:
    """Let a machine become the image; return its facts before and after."""
    control = node.control
    view.step("the old system boots")
    control.answers(BOOT_SECONDS)
    node.settled()
    first_pass(node.guest)
    before = facts(node)
    view.step("record which pages are in memory, and every file with its digest")
    manifest = control.succeeded("/v1/manifests", {"root": "/mnt/data"})["manifest"]
    control.succeeded("/v1/pagecache/dumps", {"root": "/mnt/data"})
    request = image.request(mode="staged", manifest=manifest)
    view.step("plan: what would happen, disk by disk")
    plan = control.post("/v1/reimage/plan", request)
    if not plan["ok"]:
        raise RuntimeError(" ".join(plan["blocked"]))
    view.step("stage: fetch the image to the data volume, verify it")
    operation = story.stage(control, request)
    view.step("arm: the boot loader boots the imager once, next time")
    story.arm(control)
    view.step("reboot: into the imager, and into the new system")
    journey = story.travel(node, operation)
    if journey.ended["state"] != "succeeded":
        raise RuntimeError(f"the re-imaging {journey.ended['state']}: {journey.ended['error']}")
    view.step("the new system settles, the datastore starts warm")
    node.settled()
    warm = first_pass(node.guest)
    hot, read = warm["hot_bytes"] >> 20, warm["read_bytes"] >> 20
    view.note(f"the datastore's first pass over {hot} MiB read {read} MiB from the disk")
    return before, facts(node)


def compare(before: list[str], after: list[str], out: Console) -> bool:
    """Print what was compared; return whether all of it is as it has to be."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", "before", "after", ""):
        table.add_column(heading, no_wrap=True)
    good = len(before) == len(after) == len(_NAMES)
    for (name, same), old, new in zip(_NAMES, before, after, strict=True):
        right = (old == new) is same
        good &= right
        verdict = ("same" if old == new else "new") if right else "WRONG"
        table.add_row(name, old, new, verdict)
    out.print(table)
    return good


@contextmanager
def disks_of_this_run(installed: Disks) -> Iterator[tuple[Disks, Path]]:
    """Give a copy of the disks, and a directory for the machine; both are removed."""
    directory = CACHE / f"demo-{os.getpid()}"
    try:
        yield installed.copy(directory / "disks"), directory / "run"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(out: Console) -> bool:
    """Show the story; return whether all of it went as it has to."""
    out.print("making the machine's disks and the image, unless they are there", style="dim")
    made = made_systems()
    installed = installed_disks(made)
    began = time.monotonic()
    with (
        publishing(made.packed) as image,
        disks_of_this_run(installed) as (disks, directory),
        running(made, disks, directory) as node,
        MachineView(
            "node-7",
            lambda: dict(node.control.get("/v1/reimage", seconds=_POLL_TIMEOUT)),
            lambda: node.console,
            terminal=out,
        ) as view,
        telling.to(view.note),
    ):
        before, after = reimage(node, image, view)
    good = compare(before, after, out)
    verdict = "the machine runs another image, and kept its data" if good else "IT FELL SHORT"
    out.print(f"\n{verdict}; {time.monotonic() - began:.0f} s, and nothing is left running")
    return good


def remove_unfinished() -> None:
    """Remove what an interrupted build of disks left in the cache."""
    for path in CACHE.glob("partial*"):
        shutil.rmtree(path, ignore_errors=True)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo and return its exit code."""
    missing = lacking()
    if missing is not None:
        print(f"make demo-machine: {missing}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        return 0 if run(Console(highlight=False)) else 1
    except KeyboardInterrupt:
        remove_unfinished()
        print("\ninterrupted; the machine is off, and its disks are removed", file=sys.stderr)
        return 130
    except (RuntimeError, AssertionError, OSError, GuestError, httpx.HTTPError) as problem:
        print(f"the demo fell short: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
