"""Loop devices of a test's own: block devices with real queues."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MIB = 1 << 20


class Loop:
    """A loop device over a file."""

    def __init__(self, device: str, image: Path) -> None:
        self.device = device
        self.name = Path(device).name
        self.image = image

    def get(self, attribute: str) -> str:
        """Read an attribute of its queue; of choices, the chosen one."""
        value = (Path("/sys/block") / self.name / "queue" / attribute).read_text().strip()
        return value.partition("[")[2].partition("]")[0] if "[" in value else value

    def set(self, attribute: str, value: str) -> None:
        """Write an attribute of its queue, as another program would."""
        (Path("/sys/block") / self.name / "queue" / attribute).write_text(value)

    def detach(self) -> None:
        """Take the file away from under it."""
        subprocess.run(["losetup", "--detach", self.device], check=True)


def attach(image: Path, size: int = 64 * MIB) -> Loop:
    """Make a file and a loop device over it; skips the test where there are none."""
    with image.open("ab") as file:
        file.truncate(size)
    done = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"there are no loop devices here: {done.stderr.strip()}")
    return Loop(done.stdout.strip(), image)


@contextmanager
def loop(image: Path, size: int = 64 * MIB) -> Iterator[Loop]:
    """Attach a loop device, and detach it at the end."""
    found = attach(image, size)
    keep = {
        name: found.get(name)
        for name in ("scheduler", "nr_requests", "read_ahead_kb", "nomerges", "rq_affinity")
    }
    try:
        yield found
    finally:
        # Another test gets the same device with the same queue.
        for name, value in keep.items():
            with suppress(OSError):
                found.set(name, value)
        with suppress(subprocess.CalledProcessError):
            found.detach()
