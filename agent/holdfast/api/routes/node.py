"""The route that tells what this machine is."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from holdfast.api.contract.documents import problems_of
from holdfast.api.contract.routing import ServicesDep, make_router, spec
from holdfast.api.http.rendering import JsonResponse
from holdfast.api.http.tokens import Scope
from holdfast.api.http.work import Pool, act
from holdfast.node.models import NodeReport

router = make_router(prefix="/v1", tags=["node"])


@router.get(
    "/node",
    operation_id="getNode",
    summary="Show this machine",
    response_model=NodeReport,
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_node(services: ServicesDep, request: Request) -> Response:
    """Answer identity, memory, and the devices from each root down to its disks."""
    return JsonResponse(await act(request, services.node.report, Pool.READS))
