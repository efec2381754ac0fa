"""Names what went wrong when a run function raised."""

from __future__ import annotations

import errno
import logging

from pydantic import ValidationError

from holdfast._engine import NotPermittedError, RecordError
from holdfast.operations.model import OperationFailed, Problem, RequestError, Slug
from holdfast.text.wording import sentence_of

log = logging.getLogger(__name__)

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_PERMITTED = frozenset({errno.EPERM, errno.EACCES, errno.EROFS})


# In this order, and after the more special cases in `problem_of`.
_BY_TYPE: tuple[tuple[type[BaseException], Slug], ...] = (
    (RecordError, Slug.BAD_RECORD),
    (NotPermittedError, Slug.NOT_PERMITTED),
    (MemoryError, Slug.INSUFFICIENT_MEMORY),
    (ValueError, Slug.INVALID_REQUEST),
)


def problem_of(error: BaseException, operation_id: str) -> Problem:
    """Return the problem that explains `error` to a person; unexpected ones are logged."""
    if isinstance(error, OperationFailed):
        return error.problem
    if isinstance(error, RequestError):
        return error.problem
    if isinstance(error, OSError):
        return _os_problem(error)
    # A model that does not fit the engine's reply is a bug, not a bad request.
    slug = next((slug for kind, slug in _BY_TYPE if isinstance(error, kind)), None)
    if slug is None or isinstance(error, ValidationError):
        log.error("operation %s: unexpected error", operation_id, exc_info=error)
        return Problem.of(
            Slug.INTERNAL,
            f"holdfast met an error it did not expect ({type(error).__name__}); its log has the "
            f"details under operation {operation_id}.",
        )
    if isinstance(error, MemoryError):
        return Problem.of(slug, "The daemon ran out of memory.")
    return Problem.of(slug, sentence_of(error))


def _os_problem(error: OSError) -> Problem:
    where = f"{error.filename!r}: " if error.filename is not None else ""
    reason = error.strerror or str(error)
    if error.errno in _NO_SPACE:
        slug, advice = Slug.NO_SPACE, "; free space and start it again"
    elif error.errno in _NOT_PERMITTED:
        slug, advice = Slug.NOT_PERMITTED, ""
    else:
        slug, advice = Slug.IO_ERROR, ""
    return Problem.of(slug, f"{where}{reason}{advice}.")
