"""Whatever is asked, the response is one of the OpenAPI document, and holds nobody up.

schemathesis makes requests from the document, those that fit it and those that do not. Every route
is asked, so a new one is as well.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.process.slow_callbacks import VARIABLE
from tests.support.capabilities.tuning import SYSCTLS, tuned
from tests.support.daemon.harness import Daemon, clean_environment
from tests.support.machine.disk import write_file

HOOKS = Path(__file__).parents[2] / "support/daemon/api_hooks.py"
ENDLESS = "/v1/tuning/events"
"""A stream that ends only with the daemon; `system/api/test_contract.py` checks its start."""
OPTIONS = (
    "--exclude-path", ENDLESS,
    "--phases", "examples,coverage,fuzzing",
    "--max-examples", "80",
    "--generation-deterministic",
    "--no-shrink",
    "--continue-on-failure",
    "--request-timeout", "20",
    "--suppress-health-check", "too_slow,filter_too_much",
    # A path that fits the document may be outside the roots, and is refused with 422.
    "--exclude-checks", "positive_data_acceptance",
    "--no-color",
    "--output-truncate", "false",
)  # fmt: skip
# All of the machine's settings are read-only there, but those of the network namespace. Nothing
# there can reboot it, and what it boots from is read-only too.
PROTECT = """
set -e
mount -t tmpfs none /run
if [ -d /boot ]; then
    mount --bind /boot /boot
    mount -o remount,ro,bind /boot
fi
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,ro,bind /proc/sys
mount -o remount,ro,bind /sys || mount -t sysfs -o ro sysfs /sys
"""
MOST_SECONDS = 0.02
"""Of the processor, for one callback in the event loop."""
CAP_SYS_BOOT = 22
"""As in <linux/capability.h>."""
# Nor can it reboot by itself, or load a kernel to start.
HARMLESS = ("setpriv", "--bounding-set=-sys_boot", "--")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_answers_are_as_documented(start_daemon: Callable[..., Daemon], disk_dir: Path) -> None:
    with tuned(start_daemon, disk_dir) as node:
        node.ns.run("sh", "-c", PROTECT)
        node.profile("mine", SYSCTLS)
        daemon = node.daemon
        daemon.stop()
        daemon.wrapper = (*node.ns.wrapper, *HARMLESS)
        daemon.environment[VARIABLE] = str(MOST_SECONDS)
        daemon.restart()  # in the mounts as they are now
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        bounds = re.search(r"^CapBnd:\s+(\w+)$", status, re.MULTILINE)
        assert bounds is not None
        assert int(bounds[1], 16) >> CAP_SYS_BOOT & 1 == 0
        file = write_file(daemon.root / "d" / "f", 300_000)
        dump = daemon.run("/v1/pagecache/dumps", {})["dump"]
        manifest = daemon.run("/v1/manifests", {})["manifest"]
        verification = daemon.start(f"/v1/manifests/{manifest}/verifications", {})
        daemon.finish(verification)
        known = {
            "dump_id": ["latest", dump],
            "manifest_id": ["latest", manifest],
            "operation_id": [verification["id"]],
            "name": ["mine", "base"],
            "profile": ["mine"],
            "plan": [None],
            "dump": ["latest", dump],
            "left": ["latest"],
            "right": ["latest"],
            "root": [str(daemon.root)],
            "path": [str(daemon.root), str(file.parent)],
            "descriptor": [f"file://{file}", f"file://{file}.absent"],
            "content": [f"file://{file}"],
            "paths": [[str(daemon.root)], [str(file)]],
        }
        command = [
            *node.ns.wrapper, sys.executable, "-m", "schemathesis.cli", "run",
            f"{daemon.url}/openapi.json", *OPTIONS,
            "--header", f"Authorization: Bearer {daemon.tokens.secrets['admin']}",
        ]  # fmt: skip
        done = subprocess.run(
            command,
            env=clean_environment(
                SCHEMATHESIS_HOOKS=str(HOOKS), HOLDFAST_TEST_KNOWN=json.dumps(known)
            ),
            cwd=disk_dir,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        reported = done.stdout + done.stderr
        assert done.returncode == 0, reported
        counted = re.search(r"Selected: (\d+)/(\d+)\n\s+Tested: (\d+)", reported)
        assert counted is not None, reported
        selected, there, tested = map(int, counted.groups())
        assert selected == tested == there - 1, reported
        # It was not all refused, nothing is left running, and the daemon is well.
        operations = daemon.http.get("/v1/operations", params={"limit": 1000}).json()["operations"]
        assert {
            operation["kind"] for operation in operations if operation["state"] == "succeeded"
        } >= {
            "pagecache.dump",
            "pagecache.load",
            "pagecache.evict",
            "manifest.build",
            "manifest.verify",
            "manifest.compare",
            "tuning.apply",
        }
        slow = [line for line in daemon.log.splitlines() if "slow callback" in line]
        assert not slow, "\n".join(slow)
        daemon.http.post("/v1/tuning/rollback", json={"to": "first"})
        assert daemon.http.get("/readyz").status_code == 200
