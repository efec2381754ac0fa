"""Routes that show what this machine is, and what its holdfast can do."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from holdfast import __version__
from holdfast.api.contract.documents import problems_of
from holdfast.api.contract.level import API_LEVEL
from holdfast.api.contract.routing import Router, ServicesDep, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.rendering import JSON, JsonResponse
from holdfast.api.http.work import Pool, act
from holdfast.node.models import NodeReport

router = Router(
    prefix="/v1",
    tag="node",
    about="What this machine is.",
    features=("node-id", "traceparent"),
)


class Version(BaseModel, defer_build=True):
    """What this holdfast can do."""

    version: str = Field(description="Of the program.")
    api_level: int = Field(
        description="Grows by one with each release that adds to this contract; a client may ask "
        "for a lowest one."
    )
    features: list[str] = Field(
        description="What was added since the first release, by names that stay; sorted."
    )


@router.get(
    "/version",
    operation_id="getVersion",
    summary="Show what this holdfast can do",
    response_model=Version,
    responses=problems_of(),
)
@spec(Scope.READ, open_types=(JSON,))
async def get_version(request: Request) -> Response:
    """Return version, API level and features. No token is needed."""
    features: list[str] = request.app.state.features
    found = Version(version=__version__, api_level=API_LEVEL, features=features)
    return JsonResponse(found)


@router.get(
    "/node",
    operation_id="getNode",
    summary="Show this machine",
    response_model=NodeReport,
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_node(services: ServicesDep, request: Request) -> Response:
    """Return identity, memory, and the devices from each root down to its disks."""
    return JsonResponse(await act(request, services.node.report, Pool.READS))
