"""Ed25519 keys in the files that openssl writes: PEM of PKCS#8 and of SubjectPublicKeyInfo.

RFC 8410 leaves no choice in how such a key is written down: a fixed beginning and 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from pathlib import Path

from holdfast._engine import ed25519_public
from holdfast.storage.atomic_files import flush_directory

_KEY_BYTES = 32
_PRIVATE = bytes.fromhex("302e020100300506032b657004220420")
"""PKCS#8, version 1, id-Ed25519, and an OCTET STRING within an OCTET STRING (RFC 8410, 7)."""
_PUBLIC = bytes.fromhex("302a300506032b6570032100")
"""SubjectPublicKeyInfo, id-Ed25519, and a BIT STRING (RFC 8410, 4)."""
_LIMIT = 64 << 10
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s(.*?)-----END \1-----", re.DOTALL)


class KeyFileError(Exception):
    """A file does not hold the key that it should. The text is a sentence."""


def make_pair(name: Path) -> tuple[Path, Path]:
    """Make a key pair, in `<name>.key` and `<name>.pem`; the first is readable by its owner only.

    Replaces nothing. Raises `OSError`.
    """
    private, public = name.with_name(f"{name.name}.key"), name.with_name(f"{name.name}.pem")
    seed = secrets.token_bytes(_KEY_BYTES)
    if public.exists():
        raise FileExistsError(17, os.strerror(17), str(public))
    _create(private, _pem("PRIVATE KEY", _PRIVATE + seed), 0o600)
    try:
        _create(public, _pem("PUBLIC KEY", _PUBLIC + ed25519_public(seed)), 0o644)
    except OSError:
        private.unlink()
        raise
    flush_directory(private.parent)
    return private, public


def read_private(path: Path) -> bytes:
    """Return the seed of a private key. Raises `KeyFileError`, `OSError`."""
    return _read(path, "PRIVATE KEY", _PRIVATE)


def read_public(path: Path) -> bytes:
    """Return the 32 bytes of a public key. Raises `KeyFileError`, `OSError`."""
    return _read(path, "PUBLIC KEY", _PUBLIC)


def _read(path: Path, label: str, beginning: bytes) -> bytes:
    with path.open("rb") as file:
        text = file.read(_LIMIT)
    blocks = {match[1].decode(): match[2] for match in _BLOCK.finditer(text)}
    if label not in blocks:
        found = f"has a {', '.join(blocks)}" if blocks else "is no PEM file"
        encrypted = "ENCRYPTED PRIVATE KEY" in blocks
        hint = "; take the passphrase off first: openssl pkey -in FILE" if encrypted else ""
        raise KeyFileError(f"{path} {found} and not a {label}{hint}.")
    try:
        data = base64.b64decode(b"".join(blocks[label].split()), validate=True)
    except binascii.Error as error:
        raise KeyFileError(f"{path} is damaged: {error}.") from None
    if not data.startswith(beginning) or len(data) != len(beginning) + _KEY_BYTES:
        raise KeyFileError(
            f"{path} is not an Ed25519 key, and no others are used; make one with "
            "`holdfast image keygen`."
        )
    return data[len(beginning) :]


def _pem(label: str, data: bytes) -> bytes:
    text = base64.encodebytes(data).decode("ascii")
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


def _create(path: Path, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
