"""A power cut while the machine is armed, or right after: it boots one of its two systems."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

from tests.oracles.powerloss.writelog import entries
from tests.support.waiting import until
from tests.vm.image import CACHE
from tests.vm.reimage import powercut
from tests.vm.reimage.conftest import Start
from tests.vm.reimage.images import OLD_IMAGE
from tests.vm.reimage.node import BOOT_SECONDS, Disks, Node
from tests.vm.reimage.published import Published
from tests.vm.reimage.story import STARTED, arm, stage
from tests.vm.reimage.telling import tell

CUTS_WITHIN = 2
SEED = 20261124


def _what_boots(node: Node) -> str:
    """Wait until either the imager or the old system is there."""

    def seen() -> str | None:
        if STARTED in node.console:
            return "the imager"
        return "the old system" if "Welcome to" in node.console else None

    found = until(seen, seconds=BOOT_SECONDS, what="a system after the cut", interval=0.2)
    if found == "the old system":
        assert node.control.answers(BOOT_SECONDS)["image_id"] == OLD_IMAGE
    return found


def test_a_cut_while_arming(start: Start, installed: Disks, published: Published) -> None:
    directory = CACHE / "cut"
    shutil.rmtree(directory, ignore_errors=True)
    with start(log_writes=True) as node:
        node.control.answers(BOOT_SECONDS)
        node.settled()
        stage(node.control, published.request())
        began = entries(node.disks.root.with_name(powercut.LOG))
        arm(node.control)
        armed = entries(node.disks.root.with_name(powercut.LOG))
        node.kill()
        log = CACHE / "cut.log"
        shutil.copyfile(node.disks.root.with_name(powercut.LOG), log)
        before = replace(node.disks, root=installed.root)
        assert armed > began, "the arming wrote nothing to the root disk"
        choose = random.Random(SEED)
        cuts = [choose.randrange(began, armed) for _ in range(CUTS_WITHIN)]
        disks = {
            cut: powercut.after_cut(before, log, cut, directory / str(cut), choose)
            for cut in [*cuts, armed]
        }
    for cut, disk in disks.items():
        tell(f"the power is cut after {cut - began} of {armed - began} writes of the arming")
        with start(disks=disk) as node:
            found = _what_boots(node)
            tell(f"{found} boots")
            # What a response reported is on the disk: nothing is lost by any cut after it.
            assert cut < armed or found == "the imager"
    shutil.rmtree(directory)
