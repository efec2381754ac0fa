"""The state directory: where it is, that it is safe to use, and that only one daemon uses it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.config.settings import Settings
from holdfast.node.paths.beneath import open_directory
from holdfast.node.paths.guarded import why_unguarded
from holdfast.node.storage.volumes import missing, on_missing_volume

LOCK_NAME = "lock"
MARKER = Path("/etc/holdfast/reimaged.json")
"""Left by the imager in the system that it wrote; has what proves that a directory is ours."""


class StateDirError(Exception):
    """The state directory cannot be used; the message states why and what to do."""


class ForeignStateDirError(StateDirError):
    """It may belong to another user: none of its content is trusted."""


@dataclass(frozen=True)
class StateDir:
    """A state directory that exists, is safe, and is locked while the process lives."""

    path: Path
    degraded: str | None
    """Why this is the fallback rather than the place it should be; None when all is well."""
    lock: int
    """The descriptor that holds the lock."""
    directory: int
    """The directory itself, open: its name may be given to another one."""

    def release(self) -> None:
        """Let another daemon have it."""
        os.close(self.lock)
        os.close(self.directory)

    def why_another(self) -> str | None:
        """Return a sentence if the path does not lead to this directory; None if it does."""
        locked = os.fstat(self.directory)
        try:
            found = self.path.lstat()
        except OSError as error:
            what = f"cannot be found any more ({error.strerror})"
        else:
            if (found.st_dev, found.st_ino) == (locked.st_dev, locked.st_ino):
                return None
            what = "is not the directory any more that was there when holdfast started"
        return (
            f"The state directory {self.path} {what}: it was moved or replaced. Nothing in it is "
            "believed; put it back, or restart holdfast."
        )


def locate_state_dir(settings: Settings) -> tuple[Path, str | None]:
    """Return where the state is kept, and why it is the fallback if it is (None otherwise)."""
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
    """Make the fallback for what does not fit in the state directory, check it, and lock it.

    Raises `StateDirError` as `prepare_state_dir` does.
    """
    return _prepare(settings.fallback_state_dir, degraded)


def _prepare(path: Path, degraded: str | None) -> StateDir:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        directory = open_directory(path)
    except OSError as error:
        problem = StateDirError if _trusted(path.parent) else ForeignStateDirError
        raise problem(explain_failure(path, error)) from error
    try:
        _check_owner(path, os.fstat(directory))
        return StateDir(path, degraded, _lock(path, directory), directory)
    except BaseException:
        os.close(directory)
        raise


def why_foreign(path: Path) -> str | None:
    """Return a sentence on why `path` is not this user's; None if it is, or nothing is there."""
    try:
        directory = open_directory(path)
    except FileNotFoundError:
        return None  # it is made at the next start
    except OSError as error:
        return explain_failure(path, error)
    try:
        _check_owner(path, os.fstat(directory))
    except StateDirError as error:
        return str(error)
    finally:
        os.close(directory)
    return None


def why_exposed(path: Path, users: Collection[int]) -> str | None:
    """Return a sentence on who, besides root and `users`, could put another directory at `path`."""
    try:
        return why_unguarded(path.parent, {0, *users})
    except OSError as error:
        return f"{error.filename} cannot be inspected: {error.strerror}."


def _trusted(path: Path) -> bool:
    return why_exposed(path / "any", {os.geteuid()}) is None


def explain_failure(path: Path, error: OSError) -> str:
    """Return a sentence on why a state directory cannot be made or opened."""
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
        raise ForeignStateDirError(
            f"The state directory {path} belongs to user {status.st_uid}, but holdfast runs as "
            f"user {os.geteuid()}. If it is this machine's, run `chown -R {os.geteuid()}: {path}` "
            "and restart holdfast; otherwise move it away, or choose another `state_dir`."
        )
    if stat.S_IMODE(status.st_mode) & 0o022:
        problem = StateDirError if _trusted(path.parent) else ForeignStateDirError
        raise problem(
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
        # On a full volume the lock holds without the name of its owner.
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
