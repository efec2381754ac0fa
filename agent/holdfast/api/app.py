"""Puts the application together."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from holdfast import __version__
from holdfast.api.contract import openapi as document
from holdfast.api.contract.level import features_of
from holdfast.api.http import problems
from holdfast.api.http.callers.audit import AuditLog
from holdfast.api.http.callers.auth import AuthMiddleware
from holdfast.api.http.callers.tokens import TokenStore
from holdfast.api.http.edge import EdgeMiddleware
from holdfast.api.http.limits import BodyLimitMiddleware, BodyTooLarge, too_large
from holdfast.api.http.work import Work
from holdfast.api.routes import health, node, openapi, operations, root
from holdfast.api.services import Services
from holdfast.capabilities import ROUTERS as OF_CAPABILITIES

ROUTERS = (
    root.router,
    health.router,
    openapi.router,
    node.router,
    operations.router,
    *OF_CAPABILITIES,
)
FEATURES = features_of(ROUTERS)


def create_app(services: Services) -> FastAPI:
    """Make the application; `app.state.stopping` ends its event streams and long polls."""
    app = FastAPI(
        title="holdfast",
        version=__version__,
        summary=document.SUMMARY,
        description=document.DESCRIPTION,
        openapi_tags=document.tags_of(ROUTERS),
        # The interactive pages load their scripts from elsewhere, and the document is a route of
        # ours that asks for a permission like any other.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        # Newer versions of the framework trace and count on their own; older ones ignore this.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    audit = services.audit or AuditLog(services.state_dir)
    app.state.services = services
    app.state.stopping = asyncio.Event()
    app.state.work = Work()
    app.state.audit = audit
    app.state.paths = [path for router in ROUTERS for path in router.paths]
    app.state.features = FEATURES
    app.state.shown = [call for router in OF_CAPABILITIES for call in router.shown]
    problems.install(app)
    app.add_exception_handler(BodyTooLarge, too_large)
    for router in ROUTERS:
        app.router.routes.extend(router.served)
    # The last one added is the outermost.
    app.add_middleware(BodyLimitMiddleware, max_bytes=services.settings.max_body_bytes)
    app.add_middleware(
        AuthMiddleware,
        tokens=TokenStore(services.settings.tokens_file),
        loopback_trusted=services.settings.loopback_trusted,
        host_names=services.settings.host_names,
        socket=services.settings.socket,
    )
    app.add_middleware(EdgeMiddleware, metrics=services.metrics, audit=audit, spans=services.spans)
    document.install(app, ROUTERS, services.operations.registry)
    return app
