"""Where the daemon's state is while a volume is missing or full, and what it lacks for that."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel

from holdfast.config import Settings, StateDir, prepare_state_dir
from holdfast.config.statedir import (
    ForeignStateDirError,
    locate_state_dir,
    prepare_fallback,
    why_foreign,
)
from holdfast.node.storage.volumes import missing
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import RequestError, Slug
from holdfast.operations.store import Store, StoreError

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

log = logging.getLogger(__name__)

_STORE_BYTES = 1 << 20
"""A volume with less free is too full for a record of operations, which keeps a log beside it."""


def open_state(settings: Settings) -> StateDir:
    """Make, check and lock the state directory; the fallback where it may belong to another user.

    Raises `StateDirError` where neither can be used.
    """
    try:
        return prepare_state_dir(settings)
    except ForeignStateDirError as error:
        log.error("%s", error)
        return prepare_fallback(settings, _minimal(settings, str(error)))


def _minimal(settings: Settings, why: str) -> str:
    return f"{why} Until then a minimal state is kept in {settings.fallback_state_dir}."


def believing(state: StateDir, kind: Kind[P, R]) -> Kind[P, R]:
    """Return a kind of operation that refuses to run once the state directory was exchanged."""

    def run(context: Context[P]) -> R:
        another = state.why_another()
        if another is not None:
            raise RequestError(Slug.UNAVAILABLE, another)
        return kind.run(context)

    return replace(kind, run=run)


def open_store(
    settings: Settings, state: StateDir, stack: ExitStack
) -> tuple[Store, Sequence[str]]:
    """Open the record of operations: elsewhere if the volume is full, and then report it.

    What is on a full volume can still be read and loaded, and that has to be recorded somewhere.
    `stack` closes what was opened. Raises `StoreError` and `StateDirError`.
    """
    no_room = []
    try:
        store = Store(state.path)
    except StoreError as error:
        space = os.statvfs(state.path)
        free = space.f_bavail * space.f_frsize
        if state.path == settings.fallback_state_dir or free > _STORE_BYTES:
            raise
        why = (
            f"The volume of {state.path} is full ({free} bytes are free), so operations are "
            f"recorded in {settings.fallback_state_dir}; free space and restart holdfast."
        )
        log.error("%s", error)
        fallback = prepare_fallback(settings, why)
        stack.callback(fallback.release)
        store, no_room = Store(fallback.path), [why]
    stack.callback(store.close)
    return store, no_room


def lacking(settings: Settings, state: StateDir) -> Sequence[str]:
    """Return what currently keeps the daemon from doing all of its work."""
    reasons = []
    if state.degraded is not None:
        still = locate_state_dir(settings)[1]
        reasons.append(
            still
            or _still_foreign(settings)
            or f"The data volume is there now, and the state is still kept in {state.path}; "
            "restart holdfast."
        )
    elif locate_state_dir(settings)[1] is None and (another := state.why_another()) is not None:
        reasons.append(another)
    for number, root in enumerate(settings.roots):
        reason = missing(root)
        reported = number == 0 and state.degraded is not None
        if reason is not None and not reported:
            reasons.append(f"Root {root} {reason}; mount the volume.")
    return reasons


def _still_foreign(settings: Settings) -> str | None:
    why = why_foreign(locate_state_dir(settings)[0])
    return None if why is None else _minimal(settings, why)
