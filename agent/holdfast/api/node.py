"""The route that tells what this machine is."""

from __future__ import annotations

from anyio import to_thread
from starlette.responses import Response

from holdfast.api.documents import problems_of
from holdfast.api.rendering import JsonResponse
from holdfast.api.routing import ServicesDep, make_router, spec
from holdfast.api.tokens import Scope
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
async def get_node(services: ServicesDep) -> Response:
    """Answer identity, memory, and the devices from each root down to its disks."""
    return JsonResponse(await to_thread.run_sync(services.node.report))
