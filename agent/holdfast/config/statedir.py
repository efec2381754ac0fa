"""The state directory: where it is, that it is safe to use, and that only one daemon uses it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.config.settings import Settings
from holdfast.node.volumes import missing, on_missing_volume

LOCK_NAME = "lock"
MARKER = Path("/etc/holdfast/reimaged.json")
"""Left by the imager in the system that it wrote."""
_MOST_BYTES = 1 << 20


class StateDirError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class StateDir:
    """A state directory that exists, is safe, and is locked while the process lives."""

    path: Path
    degraded: str | None
    """Why this is the fallback rather than the place it should be; None when all is well."""
    lock: int
    """The descriptor that holds the lock."""

    def release(self) -> None:
        """Let another daemon have it."""
        os.close(self.lock)


def locate_state_dir(settings: Settings) -> tuple[Path, str | None]:
    """Say where the state is kept, and why it is the fallback if it is (None otherwise)."""
    wanted = settings.state_dir or settings.roots[0] / ".holdfast"
    root = next((root for root in settings.roots if wanted.is_relative_to(root)), None)
    # Making the directory of a volume that is not mounted would put the state on the wrong disk.
    if root is not None:
        what, reason = f"Root {root}", missing(root)
    else:
        what, reason = f"State directory {wanted}", on_missing_volume(wanted)
    if reason is None:
        return wanted, None
    return settings.fallback_state_dir, (
        f"{what} {reason}, so a minimal state is kept in {settings.fallback_state_dir}; mount "
        "the volume and restart holdfast."
    )


def prepare_state_dir(settings: Settings) -> StateDir:
    """Make the state directory (mode 0700) where needed, check it, and lock it.

    Raises `StateDirError` when it is not safe, cannot be made, or another daemon holds it.
    """
    return _prepare(*locate_state_dir(settings))


def prepare_fallback(settings: Settings, degraded: str) -> StateDir:
    """Make the fallback for what the state directory has no room for, check it, and lock it.

    Raises `StateDirError` as `prepare_state_dir` does.
    """
    return _prepare(settings.fallback_state_dir, degraded)


def _prepare(path: Path, degraded: str | None) -> StateDir:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StateDirError(_explain(path, error)) from error
    try:
        _check_owner(path, os.fstat(directory))
        return StateDir(path, degraded, _lock(path, directory))
    finally:
        os.close(directory)


def give_state_dir(settings: Settings, uid: int, gid: int, marker: Path = MARKER) -> str:
    """Make the state directory and give it to a user, unless it is theirs; say what was done.

    Only what is root's is given away, so that nobody can have another user's files made theirs by
    naming them as the state directory; or what is of the system that this one was written over,
    where the daemon's user may have had another number: `marker`, which the imager left, names the
    attempt that the directory has on record. Raises `StateDirError`.
    """
    path, degraded = locate_state_dir(settings)
    if degraded is not None:
        return degraded
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(path, flags)
    except OSError as error:
        raise StateDirError(_explain(path, error)) from error
    try:
        owner = os.fstat(directory).st_uid
        if owner == uid:
            return f"{path} is there."
        if owner != 0 and not _of_the_old_system(directory, marker):
            raise StateDirError(
                f"The state directory {path} belongs to user {owner}, which is neither root nor "
                "the daemon's user; look at what it is and move it away."
            )
        # From the inside out, by descriptors: at the end it is theirs, and until then only root
        # can change what is in it.
        for _, names, files, where in os.fwalk(dir_fd=directory, topdown=False):
            for name in (*names, *files):
                os.chown(name, uid, gid, dir_fd=where, follow_symlinks=False)
        os.fchown(directory, uid, gid)
        os.fchmod(directory, 0o700)
        return f"{path} is user {uid}'s now."
    except OSError as error:
        raise StateDirError(
            f"The state directory {path} cannot be given to user {uid}: {error.strerror}."
        ) from error
    finally:
        os.close(directory)


def _of_the_old_system(directory: int, marker: Path) -> bool:
    """Whether this system was written by the re-imaging that a state directory tells of."""
    try:
        written = _nonce(os.open(marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        inner = os.open("reimage", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            remembered = _nonce(os.open("job.json", flags, dir_fd=inner))
        finally:
            os.close(inner)
    except (OSError, ValueError):
        return False
    return remembered == written


def _nonce(file: int) -> str:
    """Read the number of an attempt, and close the file. Raises `OSError`, `ValueError`."""
    with os.fdopen(file, "rb") as stream:
        content = json.loads(stream.read(_MOST_BYTES))
    nonce = content.get("nonce") if isinstance(content, dict) else None
    if not isinstance(nonce, str) or not re.fullmatch(r"[0-9a-f]{32}", nonce):
        raise ValueError("there is no number")
    return nonce


def _explain(path: Path, error: OSError) -> str:
    # O_NOFOLLOW with O_DIRECTORY answers ENOTDIR for a symbolic link, ELOOP elsewhere.
    if path.is_symlink():
        return (
            f"The state directory {path} is a symbolic link; name the directory itself, so that "
            "nobody can point it elsewhere."
        )
    if error.errno == errno.ENOTDIR:
        return f"The state directory {path} is not a directory; move what is there away."
    return f"The state directory {path} cannot be made or opened: {error.strerror}."


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise StateDirError(
            f"The state directory {path} belongs to user {status.st_uid}, but holdfast runs as "
            f"user {os.geteuid()}; run `chown` on it or choose another `state_dir`."
        )
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise StateDirError(
            f"The state directory {path} is writable by other users (mode "
            f"{stat.S_IMODE(status.st_mode):04o}); check what is in it, then run "
            f"`chmod 0700 {path}`."
        )


def _lock(path: Path, directory: int) -> int:
    """Take the lock, which the kernel lets go of when the process ends, however it ends."""
    try:
        lock = os.open(
            LOCK_NAME,
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=directory,
        )
    except OSError as error:
        raise StateDirError(
            f"The lock file {path / LOCK_NAME} cannot be opened: {error.strerror}."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        # On a full volume it holds without saying whose it is.
        with suppress(OSError):
            os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise StateDirError(
            f"Another holdfast (process {holder or 'unknown'}) uses the state directory {path}; "
            "stop it, or give this one another `state_dir`."
        ) from None
    except OSError as error:
        os.close(lock)
        raise StateDirError(
            f"The lock file {path / LOCK_NAME} cannot be used: {error.strerror}."
        ) from error
    return lock
