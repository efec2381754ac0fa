"""Attempts of re-imaging, and images to keep."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon.harness import run_cli

SHA256 = "00" * 32


IMAGE = {
    "name": "abc",
    "image_version": "2",
    "size_bytes": 2 << 30,
    "mapped_bytes": 1 << 30,
    "content_bytes": 1 << 28,
    "encoding": "zstd",
    "descriptor_sha256": SHA256,
    "boot_modes": ["bios"],
    "root_partition": 1,
    "root_file_system": "ext4",
}


UNCONFIRMED = {
    "version": 1,
    "operation": "01K0",
    "nonce": "ab" * 16,
    "request": {"descriptor": "http://192.0.2.1/abc.json", "descriptor_sha256": SHA256},
    "state": "unconfirmed",
    "reason": "command: /bin/false ended with 1.",
    "image": IMAGE,
    "rebooted_at": "2026-01-01T00:00:00Z",
    "booted_at": "2026-01-01T00:01:00Z",
    "checks": [
        {"name": "data", "passed": True, "detail": "/mnt/data: mounted, on the same disks."},
        {"name": "command", "passed": False, "detail": "/bin/false ended with 1."},
    ],
}


class Unproven:
    """Data that no manifest is named for."""

    def exists(self, manifest: str) -> str:
        raise AssertionError(manifest)

    def verify(self, *_: object) -> tuple[bool, str]:
        raise AssertionError("there is no manifest to verify")


BODY = {"descriptor": "http://192.0.2.1/x.json", "descriptor_sha256": SHA256}


def keep(state_dir: Path) -> Path:
    """Put a system where the imager keeps it."""
    place = state_dir / "previous" / ("cd" * 16)
    place.mkdir(parents=True)
    (place / "image").write_bytes(b"an old system".ljust(1 << 20, b"\0"))
    names = ("--name", "previous-node-7", "--image-version", "01K0")
    output = ("--output", place / "descriptor.json")
    done = run_cli("image", "describe", place / "image", *names, *output)
    assert done.returncode == 0, done.stderr
    return place
