"""Asks the helper, a process with more rights than this one, for what this one may not do."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from holdfast.privileged.boot.models import (
    ArmReport,
    ArmRequest,
    DisarmReport,
    DisarmRequest,
    ForgetLifeboatRequest,
    ForgottenReport,
    IdentityEvidence,
    IdentityRequest,
    Inhibitor,
    InhibitorsRequest,
    OutcomeReport,
    OutcomeRequest,
    RebootRequest,
    TrialReport,
    TryRequest,
    UnitRequest,
)
from holdfast.privileged.open_files import Writers
from holdfast.privileged.wire import (
    Answer,
    AnyRequest,
    LineError,
    OpenFilesRequest,
    PerformRequest,
    WritersRequest,
    receive_line,
)
from holdfast.privileged.writes import Refused, Write
from holdfast.text.wording import first
from holdfast.tuning.changes.requests import TuneReport, TuneRequest

_Report = TypeVar("_Report")
_SECONDS = 600.0  # turning a swap area off reads all of it back into memory
_TRIAL_SECONDS = 4 * 3600.0  # a trial reads and unpacks all of an image


class Helper:
    """The helper behind a unix socket; a connection for each request, so that it may restart."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def perform(self, write: Write) -> None:
        """Have it done. Raises `OSError` with a number and a reason, or `Refused`.

        An `OSError` about the helper's socket means that it may or may not have been done.
        """
        self._ask(PerformRequest(write=write))

    def tune(self, request: TuneRequest) -> TuneReport:
        """Have settings changed, with a journal. Raises `OSError` or `Refused`.

        After an `OSError` about the helper's socket the journal shows whether it was done.
        """
        return self._present(self._ask(request).tune)

    def open_files(self, mount_point: str) -> Mapping[str, int]:
        """Have regular files counted that are open on a file system. Raises `OSError`."""
        return self._ask(OpenFilesRequest(mount_point=mount_point)).open_files or {}

    def writers(self, directory: str) -> Writers:
        """Have the files found that processes may write to. Raises `OSError`."""
        return self._present(self._ask(WritersRequest(directory=directory)).writers)

    def arm(self, request: ArmRequest) -> ArmReport:
        """Have the next boot write an image. Raises `OSError` or `Refused`.

        After an `OSError` about the helper's socket, ask `boot_outcome` whether it is armed.
        """
        return self._present(self._ask(request, _TRIAL_SECONDS).arm)

    def try_image(self, request: TryRequest) -> TrialReport:
        """Have the new root tried on this machine. Raises `OSError` or `Refused`."""
        return self._present(self._ask(request, _TRIAL_SECONDS).trial)

    def disarm(self) -> DisarmReport:
        """Have an arming reverted. Raises `OSError` or `Refused`."""
        return self._present(self._ask(DisarmRequest()).disarm)

    def forget_lifeboat(self) -> ForgottenReport:
        """Have what is left of the lifeboat wiped in the new system. Raises `OSError`."""
        return self._present(self._ask(ForgetLifeboatRequest()).forgotten)

    def boot_outcome(self) -> OutcomeReport:
        """Have it read what the imager left, and whether it is armed. Raises `OSError`."""
        return self._present(self._ask(OutcomeRequest()).outcome)

    def identity_evidence(self, *, compare: bool = True) -> IdentityEvidence:
        """Have what was carried over compared with what is there. Raises `OSError`."""
        return self._present(self._ask(IdentityRequest(compare=compare)).evidence)

    def reboot(self, nonce: str, *, dry_run: bool = False) -> None:
        """Have the machine rebooted into the imager. Raises `OSError` or `Refused`."""
        self._ask(RebootRequest(nonce=nonce, dry_run=dry_run))

    def inhibitors(self) -> list[Inhibitor]:
        """Have it listed what blocks a shutdown. Raises `OSError` or `Refused`."""
        return self._present(self._ask(InhibitorsRequest()).inhibitors)

    def unit_state(self, unit: str) -> str:
        """Have the state of a unit read. Raises `OSError` or `Refused`."""
        return self._present(self._ask(UnitRequest(unit=unit)).unit_state)

    def _present(self, report: _Report | None) -> _Report:
        if report is None:
            raise self._error(errno.EPROTO, "the privileged helper returned something else")
        return report

    def _ask(self, request: AnyRequest, seconds: float = _SECONDS) -> Answer:
        line = request.model_dump_json().encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(seconds)
                connection.connect(os.fspath(self.path))
                connection.sendall(line)
                reply = receive_line(connection, bytearray())
            if reply is None:
                raise LineError("it ended before it answered")
            answer = Answer.model_validate_json(reply)
        except (LineError, ValidationError) as error:
            wrong = first(error) if isinstance(error, ValidationError) else str(error)
            reason = " ".join(wrong.split())
            raise self._error(errno.EPROTO, f"the privileged helper failed: {reason}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            number = error.errno or errno.ETIMEDOUT
            raise self._error(number, f"the privileged helper cannot be asked: {reason}") from error
        if answer.refused is not None:
            raise Refused(answer.refused)
        if answer.errno is not None:
            raise OSError(answer.errno, answer.reason, answer.file)
        return answer

    def _error(self, number: int, reason: str) -> OSError:
        return OSError(number, reason, str(self.path))
