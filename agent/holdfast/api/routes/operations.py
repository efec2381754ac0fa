"""Routes of operations, and what all routes that start one share."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, BinaryIO

from anyio import to_thread
from fastapi import Header, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from holdfast.api.contract.documents import accepted, events, problems_of
from holdfast.api.contract.routing import (
    CallerDep,
    MediaType,
    Router,
    ServicesDep,
    audited,
    spec,
)
from holdfast.api.http.callers.auth import Caller, require
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.problems import refuse
from holdfast.api.http.rendering import JSON, large_json, to_json
from holdfast.api.http.streams import EVENT_STREAM, EVENT_TYPES, EventStream, while_wanted
from holdfast.api.http.work import Pool, act
from holdfast.api.services import Services
from holdfast.operations.model import Operation, OperationSummary, Slug, State
from holdfast.operations.results import Outcome
from holdfast.operations.store import Selection

MAX_WAIT_SECONDS = 300
RETRY_AFTER = "1"
_MAX_KEY_LENGTH = 255
_MAX_PLACE_DIGITS = 18
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt]")
_CHUNK = 256 << 10


router = Router(
    prefix="/v1/operations",
    tag="operations",
    about="Work under way and done.",
    features=("idempotency-key",),
)

OperationName = Annotated[
    str,
    Path(
        max_length=64,
        description="An operation's id; the beginning of one, of at least 4 characters, that no "
        "other has; or `latest`.",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description=(
            "Makes it safe to send the request again: what was done under the same key with the "
            "same body is not done again, also after a restart or a boot. An operation is returned "
            "with 200 instead of 202. The same key with another body is refused with 409. 1 to 255 "
            "visible ASCII characters."
        ),
    ),
]


def _written(value: Any) -> Any:
    """Refuse what else is taken for a time, such as the seconds of Unix."""
    if isinstance(value, str) and not _DATE.match(value):
        raise ValueError("must be a time as RFC 3339 has it, for example 2026-11-23T01:02:03Z")
    return value


class NoParameters(BaseModel):
    """An empty object: there is nothing to choose here."""

    model_config = ConfigDict(extra="forbid")


_NOTHING = NoParameters()


class OperationList(BaseModel, defer_build=True):
    """Operations without their results, newest first; a part of at most 1 MiB."""

    operations: list[OperationSummary]
    next: str | None = Field(
        default=None,
        description="What to send as `cursor` for those that come after these; null at the end.",
    )


async def start(
    request: Request,
    caller: Caller,
    kind: str,
    params: BaseModel,
    key: str | None,
    *,
    asked: BaseModel | None = None,
) -> Response:
    """Start an operation and answer it: 202, or 200 for one that this key had started before.

    `asked` is the caller's request where `params` were made from it.
    """
    operation, created = await start_operation(request, caller, kind, params, key, asked=asked)
    return await answer(operation, 202 if created else 200)


async def start_operation(
    request: Request,
    caller: Caller,
    kind: str,
    params: BaseModel,
    key: str | None,
    *,
    asked: BaseModel | None = None,
) -> tuple[Operation, bool]:
    """Start an operation; return it, and whether it is new to this idempotency key."""
    audited(request, params=params.model_dump(mode="json", exclude_defaults=True))
    check_key(request, key)
    services: Services = request.app.state.services
    for capability in services.capabilities:
        capability.check_unused(key)
    call = partial(
        services.operations.start,
        kind,
        params,
        actor=caller.name,
        idempotency_key=key,
        asked=asked,
    )
    operation, created = await act(request, call, Pool.STARTS)
    audited(request, operation=operation.id)
    return operation, created


async def answer(operation: Operation, status: int) -> Response:
    """Return an operation, with where to look and when while it has not ended."""
    headers = {} if status == 200 and operation.state.final else {"Retry-After": RETRY_AFTER}
    headers["Location"] = f"/v1/operations/{operation.id}"
    return await large_json(operation, headers, status=status)


@router.get(
    "",
    operation_id="listOperations",
    summary="List operations, newest first",
    response_model=OperationList,
    responses=problems_of(),
)
@spec(Scope.READ)
async def list_operations(
    *,
    services: ServicesDep,
    kind: Annotated[
        str | None,
        Query(max_length=64, description="Only of this kind, for example `pagecache.load`."),
    ] = None,
    state: Annotated[State | None, Query(description="Only in this state.")] = None,
    outcome: Annotated[
        Outcome | None, Query(description="Only those that succeeded with this outcome.")
    ] = None,
    not_ok: Annotated[
        bool,
        Query(
            description="Only those that ended otherwise than well: in another state than "
            "`succeeded`, or with another outcome than `ok`."
        ),
    ] = False,
    since: Annotated[
        Annotated[AwareDatetime, BeforeValidator(_written)] | None,
        Query(description="Only those created then or later (RFC 3339)."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most this many.")] = 50,
    cursor: Annotated[
        str | None,
        Query(max_length=64, description="`next` of the list that this one continues."),
    ] = None,
) -> Response:
    """List operations, queued and running ones among them.

    Results are not in lists, and `params` of more than 4 KiB are null: `GET /v1/operations/{id}`
    has both.
    """
    selection = Selection(kind=kind, state=state, outcome=outcome, not_ok=not_ok, since=since)
    part = await to_thread.run_sync(services.operations.page, selection, limit, _place(cursor))
    following = None if part.next is None else _cursor(part.next)
    return await large_json(OperationList(operations=part.operations, next=following))


@router.get(
    "/{operation_id}",
    operation_id="getOperation",
    summary="Show an operation, or wait for its end",
    response_model=Operation,
    responses=problems_of(404, 409),
)
@spec(Scope.READ)
async def get_operation(
    services: ServicesDep,
    request: Request,
    operation_id: OperationName,
    wait: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            allow_inf_nan=False,
            description="Answer when the operation ends, or after this many seconds.",
        ),
    ] = None,
) -> Response:
    """Return the current state of the operation.

    What went wrong while it ran is its `error`; the status is 200 all the same.
    """
    operation_id = await to_thread.run_sync(services.operations.resolve, operation_id)
    if wait:
        await while_wanted(request, services.operations.wait(operation_id, wait))
    operation, result = await to_thread.run_sync(services.operations.open, operation_id)
    headers = {} if operation.state.final else {"Retry-After": RETRY_AFTER}
    if result is not None:
        return _spliced(operation, result, headers)
    return await large_json(operation, headers=headers)


@router.get(
    "/{operation_id}/events",
    operation_id="watchOperation",
    summary="Follow an operation live",
    response_class=Response,
    responses={
        200: {
            "description": (
                "The operation now, at each change of state, and each second while it runs; the "
                "stream ends after its final state. `text/event-stream`: events `state`, "
                "`progress` and `end`, whose data is the operation. `application/x-ndjson`: an "
                "operation a line. `text/plain`: a line for a person."
            ),
            "content": events(),
        },
        204: {"description": "The client has seen the end (`Last-Event-ID`): do not reconnect."},
        **problems_of(404, 409),
    },
)
@spec(Scope.READ, produces=EVENT_TYPES)
async def watch_operation(
    services: ServicesDep,
    request: Request,
    operation_id: OperationName,
    media_type: MediaType,
    last_event_id: Annotated[
        str | None, Header(description="Sent by browsers that reconnect.", max_length=64)
    ] = None,
) -> Response:
    """Stream progress in the format that `Accept` asks for."""
    # Before the answer begins, so that an unknown id is a 404 and not an empty stream.
    operation_id = await to_thread.run_sync(services.operations.resolve, operation_id)
    await to_thread.run_sync(services.operations.get, operation_id)
    if media_type == EVENT_STREAM and _saw_the_end(last_event_id):
        return Response(status_code=204)
    return EventStream(
        services.operations.events(operation_id), media_type, request.app.state.stopping
    )


@router.post(
    "/{operation_id}/cancel",
    operation_id="cancelOperation",
    summary="Cancel an operation",
    status_code=202,
    response_model=Operation,
    responses={**accepted(), **problems_of(404, 409, 413, 415)},
)
@spec(Scope.OPERATE)
async def cancel_operation(
    services: ServicesDep,
    request: Request,
    caller: CallerDep,
    operation_id: OperationName,
    _nothing: NoParameters = _NOTHING,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Ask an operation to end; it does within a second. Harmless for one that has ended.

    Needs the scope that starting it needs: `admin` for settings and re-imaging.
    """
    check_key(request, idempotency_key)
    operations = services.operations
    operation_id = await act(request, partial(operations.resolve, operation_id))
    audited(request, operation=operation_id)
    require(request.scope, await act(request, partial(operations.scope, operation_id)))
    cancel = partial(operations.cancel, operation_id, actor=caller.name)
    operation = await act(request, cancel)
    return await answer(operation, 202)


def _spliced(operation: Operation, result: BinaryIO, headers: dict[str, str]) -> Response:
    """Return an operation whose result is in a file, without reading all of it at once."""
    # Of the members of the outermost object alone, lines begin with two spaces.
    head, member, tail = to_json(operation).rpartition(b'\n  "result": null')
    head += member.removesuffix(b"null")

    def parts() -> Iterator[bytes]:
        with result:
            yield head
            while chunk := result.read(_CHUNK):
                yield chunk
            yield tail

    length = len(head) + os.fstat(result.fileno()).st_size + len(tail)
    return StreamingResponse(
        parts(), media_type=JSON, headers={**headers, "Content-Length": str(length)}
    )


def _cursor(place: int) -> str:
    return base64.urlsafe_b64encode(str(place).encode()).decode().rstrip("=")


def _place(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        if not (text.isdigit() and len(text) <= _MAX_PLACE_DIGITS):
            raise ValueError(text)
        return int(text)
    except ValueError:
        raise refuse(
            Slug.INVALID_REQUEST,
            "The cursor is not one of this daemon; send the `next` of the list before as it was.",
            field="cursor",
        ) from None


def _saw_the_end(last_event_id: str | None) -> bool:
    state = (last_event_id or "").rpartition(".")[2]
    return state in {each.value for each in State if each.final}


def check_key(request: Request, key: str | None) -> None:
    """Raise a problem unless the request has one idempotency key of a valid form, or none."""
    if key is None:
        return
    given = request.headers.getlist("idempotency-key")
    fits = 0 < len(key) <= _MAX_KEY_LENGTH and all("!" <= char <= "~" for char in key)
    if not fits or len(given) != 1:
        raise refuse(
            Slug.INVALID_REQUEST,
            f"An Idempotency-Key is 1 to {_MAX_KEY_LENGTH} visible ASCII characters, without "
            "spaces, and is sent once.",
            field="Idempotency-Key",
        )
