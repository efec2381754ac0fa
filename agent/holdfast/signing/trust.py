"""Whom descriptors are taken from: signatures, and the keys that this node trusts.

What is signed is `PREFIX` and then the descriptor, byte for byte, so that a signature made for
something else is never one of a descriptor. A file of signatures has one or several, of 64 bytes
each, one after the other; one good one is enough.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from holdfast._engine import ed25519_sign, ed25519_verify
from holdfast.node.paths.guarded import why_unguarded
from holdfast.signing.keys import KeyFileError, read_public

log = logging.getLogger(__name__)

PREFIX = b"holdfast image descriptor v1\n"
SIGNATURE_BYTES = 64
SIGNATURES_LIMIT = 16 * SIGNATURE_BYTES
"""The largest file of signatures, in bytes."""


class UntrustedError(Exception):
    """A descriptor is not to be trusted. The text is a sentence."""


def sign(seed: bytes, descriptor: bytes) -> bytes:
    """Sign a descriptor with a private key."""
    return ed25519_sign(seed, PREFIX + descriptor)


@dataclass(frozen=True)
class Key:
    """A public key that is trusted."""

    name: str
    """Of its file, without `.pem`."""
    public: bytes


class TrustedKeys:
    """The public keys in a directory, or in one file, read anew each time that they are needed.

    With `guarded`, only keys count that nobody but root and this process's user can exchange.
    """

    def __init__(self, place: Path, *, guarded: bool = False) -> None:
        self._place = place
        self._guarded = guarded

    def why_none(self) -> str | None:
        """Return a sentence on why there is no key to trust; None if there is one."""
        keys, problems = self._load()
        return None if keys else self._none(problems)

    def check(self, descriptor: bytes, signatures: bytes) -> str:
        """Return the name of the key that signed a descriptor. Raises `UntrustedError`."""
        if not signatures or len(signatures) % SIGNATURE_BYTES:
            raise UntrustedError(
                f"A signature has {SIGNATURE_BYTES} bytes, and this has {len(signatures)}."
            )
        keys, problems = self._load()
        for problem in problems:
            log.warning("a key is not trusted: %s", problem)
        for key in keys:
            for start in range(0, len(signatures), SIGNATURE_BYTES):
                signature = signatures[start : start + SIGNATURE_BYTES]
                if ed25519_verify(key.public, PREFIX + descriptor, signature):
                    return key.name
        if not keys:
            raise UntrustedError(self._none(problems))
        names = ", ".join(key.name for key in keys)
        raise UntrustedError(
            " ".join([f"It is signed by none of the trusted keys ({names}).", *problems])
        )

    def _none(self, problems: list[str]) -> str:
        return " ".join([f"There is no trusted key in {self._place}.", *problems])

    def _load(self) -> tuple[list[Key], list[str]]:
        """Read the keys by their names, and report what is wrong with the others."""
        keys, problems = [], []
        try:
            self._check(self._place)
            paths = [self._place]
            if self._place.is_dir():
                paths = sorted(path for path in self._place.iterdir() if path.suffix == ".pem")
        except FileNotFoundError:
            return [], []
        except (KeyFileError, OSError) as error:
            return [], [_sentence(error)]
        for path in paths:
            try:
                self._check(path)
                keys.append(Key(path.name.removesuffix(".pem"), read_public(path)))
            except (KeyFileError, OSError) as error:
                problems.append(_sentence(error))
        return keys, problems

    def _check(self, path: Path) -> None:
        _only_owner_writes(path)
        why = why_unguarded(path, {0, os.geteuid()}) if self._guarded else None
        if why is not None:
            raise KeyFileError(f"{path} is not trusted: {why}")


def _only_owner_writes(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyFileError(
            f"{path} can be written by others than its owner, so it is not trusted; "
            f"`chmod go-w {path}` fixes it."
        )


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename} cannot be read: {error.strerror}."
    return str(error)
