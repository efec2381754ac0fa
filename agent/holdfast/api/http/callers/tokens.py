"""Bearer tokens: a file of their hashes, made and revoked by the command line, read by the daemon.

A token is 256 random bits, so one round of SHA-256 keeps it as safe as a slow hash would.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from holdfast.scopes import Scope as Scope  # noqa: PLC0414 - it is a token's scope
from holdfast.storage.atomic_files import linked_file
from holdfast.text.wording import first

PREFIX = "hf_"
MAX_NAME_LENGTH = 64


class TokenError(Exception):
    """The token file cannot be used, or the request makes no sense; the message states why."""


class Token(BaseModel, defer_build=True):
    """What is known of a token; the token itself is shown once and never stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    scope: Scope
    sha256: str = Field(pattern="^[0-9a-f]{64}$", repr=False)
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None

    def expired(self, moment: datetime | None = None) -> bool:
        """Whether the token no longer counts at `moment` (now by default)."""
        return self.expires_at is not None and self.expires_at <= (moment or datetime.now(UTC))


class _File(BaseModel, defer_build=True):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    tokens: list[Token] = Field(default_factory=list)


def create(file: Path, name: str, scope: Scope, expires: datetime | None = None) -> str:
    """Add a token to `file`, which is made if there is none, and return the token.

    Raises `TokenError` for a name that is taken or unfit, or an `expires` in the past (one without
    a time zone is UTC), and `OSError` when the file cannot be written.
    """
    if not (0 < len(name) <= MAX_NAME_LENGTH and name.isprintable() and name.strip() == name):
        raise TokenError(
            f"A token's name is 1 to {MAX_NAME_LENGTH} printable characters without space around "
            f"them, not {name!r}."
        )
    now = datetime.now(UTC).replace(microsecond=0)
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    if expires is not None and expires <= now:
        raise TokenError(f"The token would have expired already, at {expires.isoformat()}.")
    secret = PREFIX + secrets.token_urlsafe(32)
    with _locked(file):
        tokens = _read(file) if file.exists() else []
        if any(token.name == name for token in tokens):
            raise TokenError(f"There is already a token named {name!r}; revoke it first.")
        made = Token(
            name=name, scope=scope, sha256=_digest(secret), created_at=now, expires_at=expires
        )
        _write(file, [*tokens, made])
    return secret


def list_tokens(file: Path) -> list[Token]:
    """Return the tokens in `file`, oldest first; none if there is no such file.

    Raises `TokenError` when the file is damaged or unsafe, `OSError` when it cannot be read.
    """
    return _read(file) if file.exists() else []


def revoke(file: Path, name: str) -> Token:
    """Remove the token of this name and return it; a running daemon refuses it from then on.

    Raises `TokenError` if there is none, and as `create` does.
    """
    with _locked(file):
        tokens = _read(file) if file.exists() else []
        left = [token for token in tokens if token.name != name]
        if len(left) == len(tokens):
            known = ", ".join(repr(token.name) for token in tokens) or "none at all"
            raise TokenError(f"There is no token named {name!r}; there is {known}.")
        _write(file, left)
    return next(token for token in tokens if token.name == name)


class TokenStore:
    """The tokens as the daemon sees them: read again whenever the file has changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, ...] | None = None
        self._tokens: Sequence[Token] = ()
        self._error: TokenError | None = None

    def find(self, secret: str) -> Token | None:
        """Return the token that `secret` is, also when it has expired, or None.

        Costs one stat(2) while the file is unchanged. Raises `TokenError` when it cannot be used.
        """
        self._refresh()
        digest = _digest(secret)
        found = None
        # All are compared, each in constant time: the time taken reveals nothing.
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._seen, self._tokens, self._error = None, (), None
            return
        except OSError as error:
            raise TokenError(
                f"The token file {self._file} cannot be read: {error.strerror}."
            ) from error
        seen = (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        if seen != self._seen:
            self._tokens, self._error = (), None
            try:
                self._tokens = _read(self._file)
            except TokenError as error:
                self._error = error
            except OSError as error:
                self._error = TokenError(
                    f"The token file {self._file} cannot be read: {error.strerror}."
                )
            self._seen = seen
        if self._error is not None:
            raise self._error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _read(file: Path) -> list[Token]:
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        if stat.S_IMODE(status.st_mode) & 0o022:
            raise TokenError(
                f"The token file {file} is writable by other users (mode "
                f"{stat.S_IMODE(status.st_mode):04o}); check what is in it, then run "
                f"`chmod 0600 {file}`."
            )
        text = opened.read()
    try:
        return _File.model_validate_json(text).tokens
    except ValidationError as error:
        raise TokenError(
            f"The token file {file} is damaged ({first(error)}); restore it, or remove it and make "
            "new tokens."
        ) from None


def _write(file: Path, tokens: Sequence[Token]) -> None:
    target = linked_file(file)
    if target is None:
        raise TokenError(f"{file} is no regular file; set `tokens_file` to one.")
    file = target
    content = _File(tokens=list(tokens)).model_dump(mode="json")
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        # mkstemp makes it 0600.
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump(content, opened, indent=2, ensure_ascii=False)
            opened.write("\n")
            opened.flush()
            if file.exists():
                # The daemon may run as another user than the operator who makes tokens.
                owner = file.stat()
                with suppress(PermissionError):
                    os.fchown(opened.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(opened.fileno())
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep others from changing the file, by a lock on its directory: it leaves nothing behind."""
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
