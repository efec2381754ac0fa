"""`holdfast` on a machine with a disk and a boot loader, whatever this one has.

The daemon of the demo is the real one, but for this: what it would find out about the disk of the
running system is answered here, since a namespace has no disk of its own to boot from.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

from holdfast.cli import main
from holdfast.node.models import Disk
from holdfast.privileged.boot.models import BootReport, ExplainRequest
from holdfast.reimage.planning import preflight

_DISK = Disk(
    name="vda",
    path="/dev/vda",
    model="demo",
    serial=None,
    wwid=None,
    size_bytes=1 << 30,
    target=True,
    data=False,
    excluded=[],
)


def explain(request: ExplainRequest, imager: Path) -> BootReport:
    """Return what arming would do on a machine in whose way nothing is."""
    del request, imager
    return BootReport(
        mode="bios",
        loader="grub2-bios",
        kernel=os.uname().release,
        entry=None,
        files=[],
        disks=[_DISK],
        loses=[],
        refusals=[],
        unknown=[],
    )


if __name__ == "__main__":
    with patch.object(preflight, preflight.explain.__name__, explain):
        main()
