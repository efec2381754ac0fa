"""`GET /openapi.json`: the contract, for programs."""

from __future__ import annotations

from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.responses import Response

from holdfast.api.contract.documents import problems_of
from holdfast.api.contract.routing import Router, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.rendering import large_json

_BUILDING = CapacityLimiter(1)

router = Router(tag="monitoring")


@router.get(
    "/openapi.json",
    operation_id="getOpenApi",
    summary="This document",
    response_model=dict[str, Any],
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_openapi_document(request: Request) -> Response:
    """Return the OpenAPI document of this version."""
    # Made at the first request, which takes half a second; others wait without a thread.
    document = await to_thread.run_sync(request.app.openapi, limiter=_BUILDING)
    return await large_json(document)
