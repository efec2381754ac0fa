"""Routes for monitoring: cheap, and never behind the threads that other requests keep busy."""

from __future__ import annotations

from functools import partial
from typing import Literal

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from holdfast.api.contract.documents import problems_of
from holdfast.api.contract.routing import Router, ServicesDep, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.problems import ProblemError
from holdfast.api.http.rendering import JsonResponse
from holdfast.operations.model import Problem, Slug

router = Router(tag="monitoring")

_RENDER_TURN = CapacityLimiter(1)
_METRIC_TYPES = ("text/plain", "application/openmetrics-text")


class Health(BaseModel, defer_build=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel, defer_build=True):
    """The daemon can do its work."""

    status: Literal["ready"] = "ready"
    notes: list[str] = Field(
        default_factory=list,
        description="What was not as safe as it could be at the start; left out if nothing was.",
    )


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Is the process alive?",
    response_model=Health,
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_health() -> Response:
    """Return 200 as long as the process runs. No token is needed on loopback."""
    return JsonResponse(Health())


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Can it do its work?",
    response_model=Readiness,
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_readiness(services: ServicesDep, request: Request) -> Response:
    """Return 503, with the reasons, while a root is missing or the daemon is stopping.

    No token is needed on loopback.
    """
    reasons = list(await services.observed())
    if request.app.state.stopping.is_set():
        reasons.append("The daemon is shutting down.")
    if reasons:
        raise ProblemError(Problem.of(Slug.UNAVAILABLE, " ".join(reasons), reasons=reasons))
    ready = Readiness(notes=list(services.notes))
    return JsonResponse(ready.model_dump(exclude=None if ready.notes else {"notes"}))


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "In the text format, or in OpenMetrics for who asks for it.",
            "content": {media_type: {"schema": {"type": "string"}} for media_type in _METRIC_TYPES},
        },
        **problems_of(),
    },
)
@spec(Scope.READ, produces=_METRIC_TYPES)
async def get_metrics(services: ServicesDep, request: Request) -> Response:
    """Return the metrics, from memory. No token is needed on loopback."""
    await services.observed()
    accept = request.headers.get("accept", "")
    # In a thread, as it takes ten milliseconds; of its own, as those for requests may be busy.
    render = partial(services.metrics.render, accept)
    body, content_type = await to_thread.run_sync(render, limiter=_RENDER_TURN)
    return Response(body, headers={"Content-Type": content_type})
