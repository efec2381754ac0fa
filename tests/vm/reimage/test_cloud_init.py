"""Debian's own cloud-init in the new image, to which its first boot is that of a new machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.reimage.conftest import Start
from tests.vm.reimage.debian import ROOT_START_BYTES
from tests.vm.reimage.disks import in_own_mounts
from tests.vm.reimage.images import Systems
from tests.vm.reimage.node import BOOT_SECONDS
from tests.vm.reimage.published import Published, publishing
from tests.vm.reimage.story import arm, identity, stage, travel
from tests.vm.reimage.telling import tell

_METADATA_NAME = "ip-10-0-0-7"

# The archive is reached as this machine reaches it. The seed is what a platform would provide.
_INSTALL = f"""
cp --sparse=always "$1" "$2"
root=$(mktemp -d)
loop=$(losetup --find --show --offset {ROOT_START_BYTES} "$2")
trap 'cd /; umount --lazy --recursive "$root"; rmdir "$root"; losetup --detach "$loop"' EXIT
mount "$loop" "$root"
mount -t proc none "$root/proc"
mount -t tmpfs none "$root/dev"
for path in null zero urandom; do cp -a "/dev/$path" "$root/dev/$path"; done
[[ -e $root/etc/resolv.conf ]] || touch "$root/etc/resolv.conf"
mount --bind "$(realpath /etc/resolv.conf)" "$root/etc/resolv.conf"
chroot "$root" apt-get -qq update
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -qq -y --no-install-recommends \\
    -o Dpkg::Options::=--force-unsafe-io install cloud-init >&2
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt
cd "$root"
cat >etc/cloud/cloud.cfg.d/90-tests.cfg <<'END'
datasource_list: [NoCloud]
network: {{config: disabled}}
END
seed=var/lib/cloud/seed/nocloud
install -d "$seed"
printf 'instance-id: i-1\\nlocal-hostname: {_METADATA_NAME}\\n' >"$seed/meta-data"
echo '#cloud-config' >"$seed/user-data"
fstrim "$root"
"""

_STAYS = "preserve_hostname: false\nssh_deletekeys: true\n"
"""Settings that come after holdfast's, as a person may leave them in an image."""


def _packed(raw: Path) -> Path:
    packed = raw.with_name(f"{raw.name}.zst")
    subprocess.run(["zstd", "-q", "-f", "-T0", "--rm", raw, "-o", packed], check=True)
    return packed


@pytest.fixture
def with_cloud_init(
    made: Systems, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Published]:
    """Image ABC with cloud-init, and the settings that a test gives it last of all."""
    raw = tmp_path / "abc-cloud.raw"
    script = _INSTALL
    if last := getattr(request, "param", ""):
        script += f"printf '{last}' >etc/cloud/cloud.cfg.d/99_last.cfg\n"
    in_own_mounts(script, made.image, raw)
    with publishing(_packed(raw)) as found:
        yield found


def test_cloud_init_leaves_alone_what_was_carried_over(
    start: Start, with_cloud_init: Published
) -> None:
    with start() as node:
        control = node.control
        control.answers(BOOT_SECONDS)
        node.settled()
        kept = identity(node)
        operation = stage(control, with_cloud_init.request())
        arm(control)

        journey = travel(node, operation)

        assert journey.ended["state"] == "succeeded", journey.ended
        found = control.get("/v1/reimage")
        assert found["state"] == "confirmed", found
        detail = next(check["detail"] for check in found["checks"] if check["name"] == "identity")
        tell(detail)
        assert "cloud-init: done" in detail
        assert identity(node) == kept
        assert node.guest.run("/usr/bin/uname", "-n").strip() == "node-7"
        log = node.guest.run("/usr/bin/cat", "/var/log/cloud-init.log")
        assert "'preserve_hostname' is set" in log
        assert "Attempting to remove /etc/ssh/ssh_host" not in log


@pytest.mark.parametrize("with_cloud_init", [_STAYS.replace("\n", "\\n")], indirect=True)
def test_what_cloud_init_replaces_all_the_same_is_not_confirmed(
    start: Start, with_cloud_init: Published
) -> None:
    with start() as node:
        control = node.control
        control.answers(BOOT_SECONDS)
        node.settled()
        operation = stage(control, with_cloud_init.request())
        arm(control)

        journey = travel(node, operation)

        assert journey.ended["state"] == "failed", journey.ended
        found = control.get("/v1/reimage")
        assert found["state"] == "unconfirmed", found
        tell(found["reason"])
        assert "99_last.cfg comes after" in found["reason"]
        key = "/etc/ssh/ssh_host_ed25519_key"
        assert f"{key}: it has another content, by cloud-init (" in found["reason"]
        # The name of holdfast's settings is not overridden, and so it is the carried one again.
        assert node.guest.run("/usr/bin/uname", "-n").strip() == "node-7"
