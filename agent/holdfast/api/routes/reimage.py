"""Routes of re-imaging: plan, stage, arm, reboot; disarm; confirm; rollback."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from fastapi import Body, Depends, Request
from starlette.responses import Response

from holdfast._engine import Progress
from holdfast.api.contract.documents import accepted, problems_of, started
from holdfast.api.contract.routing import CallerDep, Router, audited, provided, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.rendering import JsonResponse
from holdfast.api.http.work import Pool, act, run, work_of
from holdfast.api.routes.operations import IdempotencyKey, answer, check_key, start
from holdfast.api.services import Services
from holdfast.operations.model import Operation
from holdfast.reimage.interlock.models import HeldError
from holdfast.reimage.models import (
    AttemptRequest,
    ConfirmRequest,
    RebootRequest,
    ReimagePlan,
    ReimageStatus,
    RollbackRequest,
    StageRequest,
    StepRequest,
)
from holdfast.reimage.operation import KIND, RECHECK
from holdfast.reimage.service import Reimage

router = Router(
    prefix="/v1/reimage",
    tag="re-imaging",
    about="Another system image, with the data left in place.",
    features=("attempt-precondition", "confirm-when", "interlock"),
    shown=(
        ("GET", "", "which system image is next, and what is in the way"),
        ("POST", "/plan", 'what would happen: {"descriptor": "…", "descriptor_sha256": "…"}'),
        ("POST", "/stage", "fetch and verify it; then arm, reboot; or disarm"),
        ("POST", "/confirm", "take the new system for good"),
    ),
)

ReimageDep = Annotated[Reimage, Depends(provided(Reimage))]

_PLAN_SECONDS = 60.0
"""How long a plan may take, with all that it waits for."""
_ANY = AttemptRequest()
_NOW = StepRequest()
_PLAIN = ConfirmRequest()
_BACK = RollbackRequest()
_GO = RebootRequest()
_ACT = problems_of(409, 413, 415, 507)
_STEP = "reimage.step"
"""Of no operation: what has started one under a key was another request."""
_Params = TypeVar("_Params", bound=AttemptRequest)


@router.get(
    "",
    operation_id="getReimage",
    summary="Show how far re-imaging is, and what is in the way",
    response_model=ReimageStatus,
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_reimage(reimage: ReimageDep, request: Request) -> Response:
    """Return the state with its history, the disks of this machine, and its boot loader."""
    return JsonResponse(await act(request, reimage.status, Pool.READS))


@router.post(
    "/plan",
    operation_id="planReimage",
    summary="Plan a re-imaging with an image",
    response_model=ReimagePlan,
    responses=problems_of(404, 409, 413, 415),
)
@spec(Scope.OPERATE)
async def plan_reimage(
    reimage: ReimageDep,
    request: Request,
    caller: CallerDep,
    params: StageRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Fetch the image's descriptor and compare it with the machine. Changes nothing.

    Needs the scope `admin` unless `reimage.sources` lists where images are fetched from.
    """
    check_key(request, idempotency_key)
    admin = caller.permission is Scope.ADMIN

    def plan(progress: Progress) -> ReimagePlan:
        return reimage.plan(params, progress, admin=admin)

    async with work_of(request).plans.turn(caller.name, request):
        return JsonResponse(await run(request, Pool.PLANS, plan, seconds=_PLAN_SECONDS))


@router.post(
    "/stage",
    operation_id="stageReimage",
    summary="Begin: fetch and verify an image",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.ADMIN)
async def stage_reimage(
    request: Request,
    caller: CallerDep,
    params: StageRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start the operation `reimage`, which continues until the new system is confirmed.

    Its progress has the state as its phase. Cancelling it before the reboot takes all of it back.
    """
    return await start(request, caller, KIND, params, idempotency_key)


@router.post(
    "/arm",
    operation_id="armReimage",
    summary="Have the next boot, and only that one, write the image",
    response_model=ReimageStatus,
    responses=_ACT,
)
@spec(Scope.ADMIN)
async def arm_reimage(
    reimage: ReimageDep,
    request: Request,
    params: Annotated[StepRequest, Body()] = _NOW,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Write the one-time boot entry, flush it, and read it back from the disk. Idempotent.

    With `dry_run` the state is unchanged; `boot`, `carried` and `notes` describe what would be
    done.
    """
    return await _step(request, reimage.arm, params, idempotency_key)


@router.post(
    "/disarm",
    operation_id="disarmReimage",
    summary="Take the arming back",
    response_model=ReimageStatus,
    responses=_ACT,
)
@spec(Scope.ADMIN)
async def disarm_reimage(
    reimage: ReimageDep,
    request: Request,
    params: Annotated[AttemptRequest, Body()] = _ANY,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Restore the boot loader's files byte for byte; the image stays staged. Idempotent."""
    return await _step(request, reimage.disarm, params, idempotency_key)


@router.post(
    "/reboot",
    operation_id="rebootReimage",
    summary="Reboot into the imager",
    response_model=ReimageStatus,
    responses=_ACT,
)
@spec(Scope.ADMIN)
async def reboot_reimage(
    reimage: ReimageDep,
    request: Request,
    params: Annotated[RebootRequest, Body()] = _GO,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Shut the machine down in order and boot the imager; refused unless it is armed.

    Before that the maintenance window, the fleet's lock, the operator's command and inhibitors of
    systemd are asked, in this order. A refusal is returned as 409 `held-back`, its name in
    `gate` and, where it is known, `Retry-After`.
    """
    return await _step(request, reimage.reboot, params, idempotency_key)


@router.post(
    "/confirm",
    operation_id="confirmReimage",
    summary="Take the new system for good",
    response_model=ReimageStatus,
    responses={**accepted(), **_ACT},
)
@spec(Scope.ADMIN)
async def confirm_reimage(
    reimage: ReimageDep,
    request: Request,
    caller: CallerDep,
    params: Annotated[ConfirmRequest, Body()] = _PLAIN,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Confirm a new system that passed its checks, or with `override` one that did not.

    Of one that did not, the checks are made again: 202 and an operation of kind `reimage.check`,
    which confirms it if they pass now.
    """
    audited(request, params=params.model_dump(mode="json", exclude_defaults=True))
    known = await _known(request, RECHECK, params, idempotency_key)
    if known is not None:
        return await answer(known, 200)
    confirm = partial(reimage.confirm, params, idempotency_key)
    status = await act(request, confirm)
    if status is not None:
        audited(request, operation=status.operation)
        return JsonResponse(status)
    return await start(request, caller, RECHECK, params, idempotency_key)


@router.post(
    "/rollback",
    operation_id="rollbackReimage",
    summary="Begin to go back to the system that was kept",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.ADMIN)
async def rollback_reimage(
    reimage: ReimageDep,
    request: Request,
    caller: CallerDep,
    params: Annotated[RollbackRequest, Body()] = _BACK,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start the operation `reimage` with the image that `save_previous` kept as its image.

    From here on it is as after `stage`: arm, and reboot. Nothing is carried over from this system.
    """
    audited(request, params=params.model_dump(mode="json", exclude_defaults=True))
    known = await _known(request, KIND, params, idempotency_key)
    if known is not None:
        return await answer(known, 200)
    staged = await act(request, partial(reimage.rollback, params))
    return await start(request, caller, KIND, staged, idempotency_key, asked=params)


@router.post(
    "/rollback/plan",
    operation_id="planReimageRollback",
    summary="Plan the way back to the system that was kept",
    response_model=ReimagePlan,
    responses=problems_of(404, 409, 413, 415),
)
@spec(Scope.OPERATE)
async def plan_rollback(
    reimage: ReimageDep,
    request: Request,
    caller: CallerDep,
    params: Annotated[RollbackRequest, Body()] = _BACK,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Compare what was kept with the machine. Changes nothing."""
    staged = await act(request, partial(reimage.rollback, params), Pool.READS)
    return await plan_reimage(reimage, request, caller, staged, idempotency_key)


@router.delete(
    "/previous",
    operation_id="forgetPreviousSystem",
    summary="Delete the system that was kept",
    status_code=204,
    response_class=Response,
    responses=problems_of(409),
)
@spec(Scope.ADMIN, produces=())
async def forget_previous(reimage: ReimageDep, request: Request) -> Response:
    """Remove the image that could be rolled back to. Idempotent."""
    await act(request, reimage.forget_previous)
    return Response(status_code=204)


async def _step(
    request: Request,
    step: Callable[[_Params, str | None], ReimageStatus],
    params: _Params,
    key: str | None,
) -> Response:
    """Take a step, which takes seconds, and return the state it led to."""
    audited(request, params=params.model_dump(mode="json", exclude_defaults=True))
    await _known(request, _STEP, params, key)
    try:
        status = await act(request, lambda: step(params, key))
    except HeldError as error:
        audited(request, gate=error.gate.value, detail=error.detail)
        raise
    audited(request, operation=status.operation)
    return JsonResponse(status)


async def _known(
    request: Request, kind: str, params: AttemptRequest, key: str | None
) -> Operation | None:
    """Return the operation of this kind that the request started under its key before.

    Raises `IdempotencyMismatch` if the key started another one.
    """
    check_key(request, key)
    if key is None:
        return None
    services: Services = request.app.state.services
    known = await act(request, partial(services.operations.started_with, key, kind, params))
    if known is not None:
        audited(request, operation=known.id)
    return known
