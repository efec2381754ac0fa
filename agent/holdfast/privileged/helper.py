"""The helper: a small process with rights, which does what `writes.py` lists and nothing else.

Each connection has a thread and a deadline, so that none keeps another waiting; changes are made
one at a time. It ends when there was no request for a while (systemd starts it again with the next
one), and keeps nothing from one request to the next but the record of settings
(`tuning/changes/store.py`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
import selectors
import signal
import socket
import stat
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from holdfast.operations.model import RequestError
from holdfast.privileged.allowed import AllowList
from holdfast.privileged.boot.models import (
    ArmRequest,
    DisarmRequest,
    ForgetLifeboatRequest,
    IdentityRequest,
    InhibitorsRequest,
    OutcomeRequest,
    RebootRequest,
    TryRequest,
    UnitRequest,
)
from holdfast.privileged.executor import Privileged
from holdfast.privileged.wire import (
    Answer,
    AnyRequest,
    LineError,
    OpenFilesRequest,
    PerformRequest,
    WritersRequest,
    receive_line,
    request_adapter,
)
from holdfast.privileged.writes import Refused
from holdfast.text.wording import first
from holdfast.tuning.changes.ledger import Changes
from holdfast.tuning.changes.requests import TuneChange, TuneEnforce, TuneRecover, TuneRollback

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")

_LISTEN_FDS_START = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_REQUEST_SECONDS = 10.0
"""A request has to be there within this time, and its answer to be taken."""
_COUNT_SECONDS = 15.0
_MOST_CONNECTIONS = 64
_MOST_COUNTS = 4


class HelperError(Exception):
    """The helper cannot start; the message is a sentence."""


def listener_of_systemd() -> socket.socket | None:
    """Return the socket that systemd listens on for this process; None if there is none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if os.environ.get("LISTEN_FDS") != "1":
        raise HelperError("The unit should hand over one socket.")
    listener = socket.socket(fileno=_LISTEN_FDS_START)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
        raise HelperError("The socket handed over should be a unix stream socket.")
    return listener


def listen(path: Path, user: str) -> socket.socket:
    """Make the socket, which only `user` may connect to. Raises `HelperError`, `OSError`."""
    try:
        owner = pwd.getpwnam(user)
    except KeyError:
        raise HelperError(f"There is no user {user!r}.") from None
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise HelperError(f"{path} exists and is not a socket; move it away.")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o777)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(previous)
    os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    path.chmod(0o600)
    listener.listen(16)
    return listener


class HelperServer:
    """Serves requests until SIGTERM, or until there was none for `idle_seconds`."""

    def __init__(
        self,
        listener: socket.socket,
        uids: frozenset[int],
        idle_seconds: float,
        *,
        executor: Privileged,
        changes: Changes,
        allowed: AllowList,
    ) -> None:
        self._listener = listener
        self._uids = uids
        self._idle_seconds = idle_seconds
        self._executor = executor
        self._changes = changes
        self._allowed = allowed
        self._settings = threading.Lock()
        self._boot = threading.Lock()
        self._trial = threading.Lock()
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._counts = threading.BoundedSemaphore(_MOST_COUNTS)
        self._state = threading.Condition()
        self._changing = 0
        self._busy = 0

    def run(self) -> None:
        """Serve. Changes under way at SIGTERM are finished first."""
        ending, wake = socket.socketpair()
        wake.setblocking(False)
        self._listener.setblocking(False)
        previous = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        handlers = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                selector.register(ending, selectors.EVENT_READ)
                while True:
                    ready = selector.select(self._idle_seconds or None)
                    if any(key.fileobj is ending for key, _ in ready):
                        return
                    if ready:
                        self._accept()
                    elif not self._busy:
                        return
        finally:
            with self._state:
                self._state.wait_for(lambda: not self._changing)
            signal.set_wakeup_fd(previous)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            ending.close()
            wake.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if not self._places.acquire(blocking=False):
            log.warning("more than %d connections at a time: one is refused", _MOST_CONNECTIONS)
            connection.close()
            return
        with self._state:
            self._busy += 1
        threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._serve(connection)
        except Exception:
            log.exception("a request met an error that was not expected")
        finally:
            with self._state:
                self._busy -= 1
            self._places.release()

    def _serve(self, connection: socket.socket) -> None:
        """Serve the request of a connection."""
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("iii", credentials)
        try:
            line = receive_line(connection, bytearray(), _REQUEST_SECONDS)
            if line is None:
                return
            with self._state:
                self._changing += 1
            try:
                if uid not in self._uids:
                    log.warning("user %d (process %d) is refused", uid, pid)
                    answer = Answer(refused=f"User {uid} may not ask the privileged helper.")
                else:
                    answer = self._answer(line)
                connection.settimeout(_REQUEST_SECONDS)
                connection.sendall(answer.model_dump_json(exclude_defaults=True).encode() + b"\n")
            finally:
                with self._state:
                    self._changing -= 1
                    self._state.notify_all()
        except (LineError, OSError) as error:
            log.warning("process %d: %s", pid, error)

    def _answer(self, line: bytes) -> Answer:
        try:
            request = request_adapter().validate_json(line)
        except ValidationError as error:
            wrong = first(error)
            log.warning("malformed request: %s", wrong)
            return Answer(refused=f"The request is malformed: {wrong}.")
        try:
            return self._do(request)
        except (Refused, RequestError) as error:
            log.warning("refused: %s", error)
            return Answer(refused=str(error))
        except (OSError, ValueError) as error:
            # A ValueError is a path with NUL in it or the like: nothing was written.
            number = getattr(error, "errno", None) or errno.EINVAL
            reason = getattr(error, "strerror", None) or str(error)
            file = getattr(error, "filename", None)
            log.warning("failed: %s", error)
            return Answer(errno=number, reason=reason, file=None if file is None else str(file))

    def _do(self, request: AnyRequest) -> Answer:
        """Do it. The journal has the outcome of each change, who asked for it and why."""
        match request:
            case PerformRequest():
                self._allowed.check(request.write)
                with self._settings:
                    self._executor.perform(request.write)
                log.info("written: %s", request.write.model_dump_json())
                return Answer()
            case TuneChange() | TuneRollback() | TuneRecover() | TuneEnforce():
                with self._settings:
                    report = self._changes.tune(request)
                log.info("%s: %d settings written", request.do, len(report.written))
                return Answer(tune=report)
            case OpenFilesRequest() | WritersRequest():
                return self._open_files(request)
            case IdentityRequest() | InhibitorsRequest() | TryRequest() | UnitRequest():
                return self._inspect(request)
        with self._boot:
            return self._do_boot(request)

    def _inspect(
        self, request: IdentityRequest | InhibitorsRequest | TryRequest | UnitRequest
    ) -> Answer:
        """Find something out that only root can; nothing is changed."""
        match request:
            case IdentityRequest():
                return Answer(evidence=self._executor.identity_evidence(compare=request.compare))
            case InhibitorsRequest():
                return Answer(inhibitors=self._executor.inhibitors())
            case UnitRequest():
                return Answer(unit_state=self._executor.unit_state(request.unit))
            case TryRequest():
                with self._trial:  # it may take long
                    return Answer(trial=self._executor.try_image(request))

    def _do_boot(
        self,
        request: ArmRequest
        | DisarmRequest
        | ForgetLifeboatRequest
        | OutcomeRequest
        | RebootRequest,
    ) -> Answer:
        match request:
            case ArmRequest():
                armed = self._executor.arm(request)
                if not request.dry_run:
                    log.warning("armed: %s, next boot writes to %s", armed.nonce, armed.target.path)
                return Answer(arm=armed)
            case DisarmRequest():
                disarmed = self._executor.disarm()
                log.info("disarmed: %s", disarmed.model_dump_json())
                return Answer(disarm=disarmed)
            case ForgetLifeboatRequest():
                return Answer(forgotten=self._executor.forget_lifeboat())
            case OutcomeRequest():
                return Answer(outcome=self._executor.boot_outcome())
            case RebootRequest():
                self._executor.reboot(request.nonce, dry_run=request.dry_run)
                if not request.dry_run:
                    log.warning("rebooting into the imager: %s", request.nonce)
                return Answer()

    def _open_files(self, request: OpenFilesRequest | WritersRequest) -> Answer:
        if isinstance(request, WritersRequest):
            find = partial(self._executor.writers, request.directory)
            return Answer(writers=self._inspected(find, request.directory))
        count = partial(self._executor.open_files, request.mount_point)
        return Answer(open_files=dict(self._inspected(count, request.mount_point)))

    def _inspected(self, find: Callable[[], _Found], place: str) -> _Found:
        """Inspect open files, for so long: a file system may have ceased to answer."""
        if not self._counts.acquire(blocking=False):
            raise OSError(errno.EBUSY, "earlier counts of open files have not come to an end")
        outcome: list[_Found | OSError | ValueError] = []

        def inspect() -> None:
            try:
                outcome.append(find())
            except (OSError, ValueError) as error:
                outcome.append(error)
            finally:
                self._counts.release()

        thread = threading.Thread(target=inspect, daemon=True)
        thread.start()
        thread.join(_COUNT_SECONDS)
        if not outcome:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), place)
        if isinstance(outcome[0], OSError | ValueError):
            raise outcome[0]
        return outcome[0]
