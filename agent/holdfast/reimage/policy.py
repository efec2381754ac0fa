"""What the settings allow of re-imaging, for the process that arms."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.config import ConfigError, Settings, load_settings
from holdfast.config.load import DEFAULT_CONFIG_FILE
from holdfast.config.statedir import locate_state_dir
from holdfast.node.paths.guarded import why_unguarded
from holdfast.privileged.boot.policy import Policy
from holdfast.privileged.writes import Refused


def policy_of(settings: Settings, told_by: str = "the settings") -> Policy:
    """Return what these settings allow; `told_by` names them in messages."""
    reimage, tls = settings.reimage, settings.tls
    files = (
        reimage.ca_file,
        tls.certificate,
        tls.key,
        tls.client_ca,
        settings.tokens_file,
    )
    return Policy(
        roots=[str(root) for root in settings.roots],
        state_dir=str(locate_state_dir(settings)[0]),
        trusted_keys=reimage.trusted_keys_dir,
        require_signature=reimage.require_signature,
        allow_kexec=reimage.allow_kexec,
        require_lifeboat=reimage.require_lifeboat,
        free_space_floor=settings.data.free_space_floor,
        files=frozenset(str(file) for file in files if file is not None),
        told_by=told_by,
    )


def policy_of_root(config_file: Path | None) -> Policy:
    """Read the settings file for a process with root's rights, for any caller.

    Raises `Refused` unless nobody but root can have written it.
    """
    path = config_file or DEFAULT_CONFIG_FILE
    try:
        why = why_unguarded(path, {0, os.geteuid()})
    except OSError as error:
        raise Refused(f"The settings file {path} cannot be read: {error.strerror}.") from error
    if why is not None:
        raise Refused(
            f"The settings file {path} is not believed, so nothing is armed: {why} Make it, and "
            "all that it is in, root's, and take the others' right to write away."
        )
    try:
        settings = load_settings(config_file)
    except ConfigError as error:
        raise Refused(f"The settings are wrong, so nothing is armed: {error}") from error
    return policy_of(settings, f"root's settings ({path})")
