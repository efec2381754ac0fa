"""Holds a request to arm against what root allows.

Root's settings, root's keys and what the imager left for root decide. What a request names is read
only where the daemon keeps its state.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from holdfast.node.paths.beneath import (
    open_directory,
    open_file_beneath,
    read_file,
    read_file_beneath,
)
from holdfast.node.paths.directories import DirectoryIdentity, identify_directory
from holdfast.node.paths.guarded import why_unguarded
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.after_boot.evidence import MARKER
from holdfast.privileged.boot.models import ArmRequest
from holdfast.privileged.boot.payload.job import MAX_DESCRIPTOR, Descriptor, parse_descriptor
from holdfast.privileged.boot.policy import Policy
from holdfast.privileged.writes import Refused
from holdfast.signing.trust import TrustedKeys, UntrustedError

_MARKER_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Approved:
    """What was found to be allowed, as it was read for that."""

    content: bytes
    """The descriptor's; what is armed is this and nothing that is read later."""
    descriptor: Descriptor
    state_dir: DirectoryIdentity
    """By which the imager and the new system know the state directory again."""


def approve(machine: MachineFiles, policy: Policy, request: ArmRequest) -> Approved:
    """Check what a request names against what root allows. Raises `Refused`, `OSError`."""
    _check_files(policy, request)
    if request.save_previous is not None:
        place = _below(policy, request.save_previous, "The place for the old system")
        if place.count("/") != 1:
            raise Refused(
                "The place for the old system is not a directory's in the state directory."
            )
    named = _below(policy, request.descriptor_path, "The descriptor")
    image = None
    if request.source.kind == "staged":
        image = _below(policy, request.source.path, "The staged image")
    try:
        state = open_directory(machine.path(policy.state_dir))
    except OSError as error:
        raise Refused(
            f"The state directory {policy.state_dir} of {policy.told_by} cannot be opened: "
            f"{error.strerror}."
        ) from error
    try:
        content = read_file_beneath(state, named, MAX_DESCRIPTOR)
        if image is not None:
            os.close(open_file_beneath(state, image))
        identity = identify_directory(state, Path(policy.state_dir), machine)
    except FileNotFoundError as error:
        raise Refused(
            f"{policy.state_dir}/{error.filename} is not there any more: stage the image again."
        ) from error
    finally:
        os.close(state)
    descriptor = parse_descriptor(content, request.descriptor_sha256)
    if request.descriptor_sha256 != _previous_sha256(machine):
        _check_signature(policy, content, bytes.fromhex(request.signatures))
    return Approved(content, descriptor, identity)


def _check_signature(policy: Policy, content: bytes, signatures: bytes) -> None:
    """Raise `Refused` unless a trusted key has signed, where a signature is required or claimed."""
    if not signatures and not policy.require_signature:
        return
    if not signatures:
        raise Refused(
            f"The descriptor has no signature, and {policy.told_by} demand one "
            "(`reimage.require_signature`): sign it, and stage it again."
        )
    try:
        TrustedKeys(policy.trusted_keys, guarded=True).check(content, signatures)
    except UntrustedError as error:
        raise Refused(f"The descriptor is not trusted: {error}") from error


def _check_files(policy: Policy, request: ArmRequest) -> None:
    """Raise `Refused` for a file of root's that root has not meant for the imager."""
    named = [request.ca]
    if request.status is not None:
        status = request.status.model_dump(exclude={"listen"})
        named += [value for value in status.values() if isinstance(value, str)]
    for path in named:
        if path is not None and path not in policy.files:
            raise Refused(
                f"{path} is none of the files that {policy.told_by} name for TLS and tokens, so it "
                "is not packed for the imager."
            )


def _below(policy: Policy, path: str, what: str) -> str:
    """Return a path relative to the state directory. Raises `Refused` if it is not below it."""
    inner = PurePosixPath(path)
    if ".." in inner.parts or not inner.is_relative_to(policy.state_dir):
        raise Refused(
            f"{what} is not below {policy.state_dir}, the state directory of {policy.told_by}. "
            "If the daemon's is another one, set it there, not in the daemon's environment."
        )
    relative = str(inner.relative_to(policy.state_dir))
    if relative == ".":
        raise Refused(f"{what} is not a file below {policy.state_dir}.")
    return relative


def _previous_sha256(machine: MachineFiles) -> str | None:
    """Return the digest in root's own file of the system that was kept; None if it has none.

    Only the imager writes it, into the system that it puts in place. Raises `Refused` if others
    than root could have written it.
    """
    path = machine.path(MARKER)
    try:
        content = read_file(path, _MARKER_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Refused(f"{MARKER} cannot be read: {error.strerror}.") from error
    why = why_unguarded(path, {0, os.geteuid()})
    if why is not None:
        raise Refused(f"{MARKER} is not believed: {why}")
    try:
        found = json.loads(content)["previous"]["descriptor_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) and _SHA256.fullmatch(found) else None
