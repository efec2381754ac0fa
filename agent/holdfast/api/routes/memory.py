"""Routes of caches in memory: saves of tmpfs roots, and restores into them."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.responses import Response

from holdfast.api.contract.documents import problems_of, started
from holdfast.api.contract.routing import CallerDep, Router, audited, provided, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.rendering import JsonResponse
from holdfast.api.http.work import Pool, act
from holdfast.api.routes.operations import IdempotencyKey, start
from holdfast.memory.models import MemoryState, RestoreRequest, SaveRequest
from holdfast.memory.service import RESTORE, SAVE, MemoryStates
from holdfast.operations.model import Operation

router = Router(
    prefix="/v1/memory",
    tag="memory",
    about="Files of tmpfs roots, such as a cache's, saved to the data volume and put back.",
    features=("memory",),
    shown=(
        ("GET", "", "roots in memory, and their saves on the data volume"),
        ("POST", "/saves", "save one, with its service stopped"),
        ("POST", "/restores", "put it back, verified, before its service starts"),
    ),
)

MemoryDep = Annotated[MemoryStates, Depends(provided(MemoryStates))]

# What a request without a body means.
_ONLY_ROOT, _LATEST = SaveRequest(), RestoreRequest()

SaveId = Annotated[str, Path(max_length=64, description="A save's id.")]


@router.get(
    "",
    operation_id="getMemory",
    summary="Show roots in memory and their saves",
    response_model=MemoryState,
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_memory(memory: MemoryDep, request: Request) -> Response:
    """Return the roots of `memory.roots` as they are now, and the saves, newest first."""
    return JsonResponse(await act(request, memory.state, Pool.READS))


@router.post(
    "/saves",
    operation_id="createMemorySave",
    summary="Save a root to the data volume",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.OPERATE)
async def create_save(
    request: Request,
    caller: CallerDep,
    params: SaveRequest = _ONLY_ROOT,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start the operation `memory.save`, whose id is that of the save.

    It is refused while a process holds a file of the root open for writing. The save is there whole
    or not at all; older saves of the root are removed once it is.
    """
    return await start(request, caller, SAVE, params, idempotency_key)


@router.delete(
    "/saves/{save_id}",
    operation_id="deleteMemorySave",
    summary="Delete a save",
    status_code=204,
    response_class=Response,
    responses=problems_of(404),
)
@spec(Scope.OPERATE, produces=())
async def delete_save(memory: MemoryDep, request: Request, save_id: SaveId) -> Response:
    """Remove a save, also one that is damaged."""
    audited(request, save=save_id)
    await act(request, partial(memory.delete, save_id))
    return Response(status_code=204)


@router.post(
    "/restores",
    operation_id="createMemoryRestore",
    summary="Put a save back into its root",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.OPERATE)
async def create_restore(
    request: Request,
    caller: CallerDep,
    params: RestoreRequest = _LATEST,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start the operation `memory.restore`: verified, and all or nothing.

    Everything is put together beside the files of the root and verified there, before the first
    name changes. A save is restored once, unless it is asked for `again`.
    """
    return await start(request, caller, RESTORE, params, idempotency_key)
