"""Routes of tuning: plan, apply and roll back a profile, and see what has drifted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import Body, Depends, Path, Request
from starlette.responses import Response

from holdfast.api.contract.documents import accepted, events, problems_of
from holdfast.api.contract.routing import CallerDep, MediaType, Router, ServicesDep, provided, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.problems import problem_response
from holdfast.api.http.rendering import JsonResponse, to_json
from holdfast.api.http.streams import (
    EVENT_STREAM,
    EVENT_TYPES,
    NDJSON,
    TEXT,
    EventStream,
    while_wanted,
)
from holdfast.api.http.work import Pool, act
from holdfast.api.routes.operations import IdempotencyKey, check_key, start_operation
from holdfast.api.routes.operations import answer as answer_operation
from holdfast.api.services import Services
from holdfast.operations.model import Operation, State
from holdfast.tuning.models import (
    Applied,
    ApplyRequest,
    Event,
    Plan,
    PlanRequest,
    ProfileDetails,
    ProfileList,
    RollbackRequest,
    RolledBack,
    TuningState,
)
from holdfast.tuning.service import Tuning

router = Router(
    prefix="/v1/tuning",
    tag="tuning",
    about="Kernel settings by profile: plan, apply, watch, roll back.",
    shown=(
        ("GET", "", "kernel settings in force, and what has drifted"),
        ("GET", "/profiles", "what can be applied"),
        ("POST", "/plan", 'what would change: {"profile": "…"}'),
        ("POST", "/apply", "change it, all or nothing"),
        ("POST", "/rollback", "restore the previous settings"),
    ),
)

TuningDep = Annotated[Tuning, Depends(provided(Tuning))]

# Settings are written in milliseconds; a device that does not answer may take longer.
WAIT_SECONDS = 20.0
_LAST = RollbackRequest()
_CURRENT = PlanRequest()

ProfileName = Annotated[str, Path(max_length=64, description="A profile's name.")]


@router.get(
    "",
    operation_id="getTuning",
    summary="Show what is in force and what has drifted",
    response_model=TuningState,
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_tuning(tuning: TuningDep, request: Request) -> Response:
    """Return the profile that is applied, drift as of the last check, and recent events."""
    return JsonResponse(await act(request, tuning.state, Pool.READS))


@router.get(
    "/profiles",
    operation_id="listProfiles",
    summary="List profiles",
    response_model=ProfileList,
    responses=problems_of(),
)
@spec(Scope.READ)
async def list_profiles(tuning: TuningDep, request: Request) -> Response:
    """List the profiles that come with holdfast and those of this machine."""
    return JsonResponse(await act(request, tuning.profiles, Pool.READS))


@router.get(
    "/profiles/{name}",
    operation_id="getProfile",
    summary="Show a profile",
    response_model=ProfileDetails,
    responses=problems_of(404),
)
@spec(Scope.READ)
async def get_profile(tuning: TuningDep, request: Request, name: ProfileName) -> Response:
    """Return all that a profile sets, inherited values included, each with its source."""
    found = partial(tuning.profile, name)
    return JsonResponse(await act(request, found, Pool.READS))


@router.get(
    "/events",
    operation_id="watchTuning",
    summary="Follow what happens to the settings",
    response_class=Response,
    responses={
        200: {
            "description": (
                "Each event as it happens, until the client hangs up. `text/event-stream`: the "
                "event's kind, with the event as data. `application/x-ndjson`: an event a line. "
                "`text/plain`: a line for a person."
            ),
            "content": events(),
        },
        **problems_of(),
    },
)
@spec(Scope.READ, produces=EVENT_TYPES)
async def watch_tuning(tuning: TuningDep, request: Request, media_type: MediaType) -> Response:
    """Stream drift, corrections, devices that appear, applies and rollbacks."""
    events = tuning.events.listen()
    return EventStream(events, media_type, request.app.state.stopping, _WRITERS)


@router.post(
    "/plan",
    operation_id="planTuning",
    summary="Plan the apply of a profile",
    response_model=Plan,
    responses=problems_of(404, 409, 413, 415),
)
@spec(Scope.READ)
async def plan_tuning(
    tuning: TuningDep,
    request: Request,
    params: Annotated[PlanRequest, Body()] = _CURRENT,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Compare a profile with the machine. Changes nothing."""
    check_key(request, idempotency_key)
    plan = partial(tuning.plan, params)
    return JsonResponse(await act(request, plan, Pool.READS))


_OUTCOME = {
    **accepted(),
    **problems_of(404, 409, 413, 415, 507),
}


@router.post(
    "/apply",
    operation_id="applyTuning",
    summary="Apply a profile: all of it, or nothing",
    response_model=Applied,
    responses=_OUTCOME,
)
@spec(Scope.ADMIN)
async def apply_tuning(
    services: ServicesDep,
    request: Request,
    caller: CallerDep,
    params: ApplyRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Write every setting and read it back; on a failure revert what was written.

    The work is an operation of kind `tuning.apply` (`Location`), whose result is returned. If it
    takes long the answer is 202 and the operation.
    """
    return await _perform(
        services,
        request,
        caller,
        kind="tuning.apply",
        params=params,
        idempotency_key=idempotency_key,
    )


@router.post(
    "/rollback",
    operation_id="rollbackTuning",
    summary="Restore the previous settings",
    response_model=RolledBack,
    responses=_OUTCOME,
)
@spec(Scope.ADMIN)
async def rollback_tuning(
    services: ServicesDep,
    request: Request,
    caller: CallerDep,
    params: Annotated[RollbackRequest, Body()] = _LAST,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Write what every setting was before the last apply, or before the first; all or nothing.

    The work is an operation of kind `tuning.rollback`; the response is as for an apply.
    """
    return await _perform(
        services,
        request,
        caller,
        kind="tuning.rollback",
        params=params,
        idempotency_key=idempotency_key,
    )


async def _perform(
    services: Services,
    request: Request,
    caller: Any,
    *,
    kind: str,
    params: Any,
    idempotency_key: str | None,
) -> Response:
    """Start an operation and answer its outcome as if it had been the request itself."""
    operation, created = await start_operation(request, caller, kind, params, idempotency_key)
    if not operation.state.final:
        waiting = services.operations.wait(operation.id, WAIT_SECONDS)
        operation = await while_wanted(request, waiting) or operation
    return await _outcome(operation, created=created)


async def _outcome(operation: Operation, *, created: bool) -> Response:
    headers = {"Location": f"/v1/operations/{operation.id}"}
    if operation.state is State.SUCCEEDED:
        return JsonResponse(operation.result, headers=headers)
    if operation.error is not None:
        problem = operation.error.model_copy(update={"operation": operation.id})
        return problem_response(problem, headers)
    return await answer_operation(operation, 202 if created or not operation.state.final else 200)


async def _event_stream(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    yield b": listening\n\n"
    async with aclosing(events) as news:  # type: ignore[type-var]
        async for event in news:
            if event is None:
                yield b": still here\n\n"
            else:
                head = f"event: {event.kind}\ndata: ".encode()
                yield head + to_json(event, indent=None) + b"\n"


async def _ndjson(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    # Readers of this format skip empty lines; this one shows that the daemon listens.
    yield b"\n"
    async with aclosing(events) as news:  # type: ignore[type-var]
        async for event in news:
            yield b"\n" if event is None else to_json(event, indent=None)


async def _text(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    yield b"Listening for changes of settings.\n"
    async with aclosing(events) as news:  # type: ignore[type-var]
        async for event in news:
            if event is not None:
                moment = event.time.astimezone()
                yield f"{moment:%H:%M:%S} {event.kind}: {event.message}\n".encode()


_WRITERS = {EVENT_STREAM: _event_stream, NDJSON: _ndjson, TEXT: _text}
