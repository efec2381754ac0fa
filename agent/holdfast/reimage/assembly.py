"""Re-imaging as the settings want it, put together from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.config.journaldir import journal_dir_of
from holdfast.privileged import privileged
from holdfast.reimage.after_boot.checks import PostBootChecks
from holdfast.reimage.gates.stable import Gates
from holdfast.reimage.imager_status import imager_status
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.serving import ServingPace
from holdfast.reimage.images.settings import access_of
from holdfast.reimage.images.sharing import ImageSharing
from holdfast.reimage.interlock.settings import fleet_lock_of, rules_of
from holdfast.reimage.policy import policy_of
from holdfast.reimage.service import Reimage

if TYPE_CHECKING:
    from holdfast.capability import Surroundings
    from holdfast.config import Settings
    from holdfast.reimage.after_boot.checks import Proof


def reimage_of(surroundings: Surroundings, proof: Proof) -> Reimage:
    """Make the capability; `proof` compares the data with a manifest.

    Raises `ValueError` where everybody could ask the imager.
    """
    settings, state_dir = surroundings.settings, surroundings.state_dir
    node, wanted = surroundings.node, settings.reimage
    sharing = ImageSharing(
        enabled=wanted.serve_images, here=node.here, pace=serving_pace_of(settings)
    )
    return Reimage(
        roots=settings.roots,
        state_dir=state_dir,
        privileged=privileged(
            settings.helper,
            wanted.imager,
            lambda: policy_of(settings),
            settings.tuning.journal_dir or journal_dir_of(state_dir, settings.helper),
        ),
        imager=wanted.imager,
        ca_file=wanted.ca_file,
        images=ImageLibrary(
            settings.roots,
            state_dir,
            wanted.ca_file,
            trusted_keys=wanted.trusted_keys_dir,
            require_signature=wanted.require_signature,
            sources=wanted.sources,
            peers=access_of(settings),
            sharing=sharing,
        ),
        sharing=sharing,
        examiner=PostBootChecks(
            roots=settings.roots,
            proof=proof,
            command=wanted.check_command,
            command_seconds=wanted.check_seconds,
            gates=Gates(wanted.confirm_when, wanted.ca_file),
        ),
        status_server=imager_status(settings),
        degraded=surroundings.degraded,
        notes=surroundings.notes,
        allow_kexec=wanted.allow_kexec,
        require_lifeboat=wanted.require_lifeboat,
        lock=fleet_lock_of(settings, node.place),
        rules=rules_of(settings, node.place),
        record=surroundings.record,
    )


def serving_pace_of(settings: Settings) -> ServingPace:
    """Return how fast images are given away."""
    return ServingPace(
        settings.reimage.serve_bytes_per_second, settings.reimage.serve_pressure_percent
    )
