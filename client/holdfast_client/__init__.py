"""Call holdfast on stateful nodes, and follow an operation through two boots."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast_client.calls import AsyncOperation, Operation
    from holdfast_client.client import AsyncClient, Client
    from holdfast_client.errors import (
        AttemptChanged,
        BadRecord,
        Cancelled,
        Conflict,
        Forbidden,
        HeldBack,
        HoldfastError,
        IdempotencyMismatch,
        InsufficientMemory,
        Internal,
        Interrupted,
        InvalidRequest,
        IoError,
        MethodNotAllowed,
        NodeImaging,
        NoSpace,
        NotAcceptable,
        NotConfirmed,
        NotFound,
        NotPermitted,
        NotReimaged,
        OperationError,
        OperationFailed,
        OperationLost,
        OperationUnfinished,
        OutsideRoots,
        ProblemError,
        QueueFull,
        TooLarge,
        TooManyFailures,
        Unauthenticated,
        Unavailable,
        UnexpectedAnswer,
        UnknownField,
        Unreachable,
        UnsupportedMediaType,
    )
    from holdfast_client.record import OperationRecord
    from holdfast_client.retrying import Retries
    from holdfast_client.version import __version__

__all__ = [
    "AsyncClient",
    "AsyncOperation",
    "AttemptChanged",
    "BadRecord",
    "Cancelled",
    "Client",
    "Conflict",
    "Forbidden",
    "HeldBack",
    "HoldfastError",
    "IdempotencyMismatch",
    "InsufficientMemory",
    "Internal",
    "Interrupted",
    "InvalidRequest",
    "IoError",
    "MethodNotAllowed",
    "NoSpace",
    "NodeImaging",
    "NotAcceptable",
    "NotConfirmed",
    "NotFound",
    "NotPermitted",
    "NotReimaged",
    "Operation",
    "OperationError",
    "OperationFailed",
    "OperationLost",
    "OperationRecord",
    "OperationUnfinished",
    "OutsideRoots",
    "ProblemError",
    "QueueFull",
    "Retries",
    "TooLarge",
    "TooManyFailures",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "UnknownField",
    "Unreachable",
    "UnsupportedMediaType",
    "__version__",
]
_MODULES = {
    "AsyncClient": "client",
    "AsyncOperation": "calls",
    "Client": "client",
    "Operation": "calls",
    "OperationRecord": "record",
    "Retries": "retrying",
    "__version__": "version",
}
"""Where names are from that are not exceptions; each is loaded when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
