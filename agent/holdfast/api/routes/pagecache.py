"""Routes of the page cache: residency, dumps, loads, evictions, and dumps moved between nodes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import Body, Depends, Path, Query, Request
from starlette.responses import Response

from holdfast._engine import Progress
from holdfast.api.contract.documents import problems_of, started, upload
from holdfast.api.contract.routing import CallerDep, Router, ServicesDep, audited, provided, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.conversions import ConversionResponse, convert
from holdfast.api.http.records import (
    BYTES,
    GZIP,
    ZSTD,
    RecordResponse,
    client_has,
    open_record,
    receive,
    representation,
    tag_of,
)
from holdfast.api.http.rendering import JsonResponse, large_json
from holdfast.api.http.work import Pool, act, run
from holdfast.api.routes.operations import IdempotencyKey, start
from holdfast.operations.model import Operation
from holdfast.pagecache.history import residency_history
from holdfast.pagecache.models import (
    Dump,
    DumpList,
    DumpRequest,
    EvictRequest,
    LoadRequest,
    ResidencyHistory,
)
from holdfast.pagecache.residency import GroupBy, PageCacheState
from holdfast.pagecache.service import PageCache

router = Router(
    prefix="/v1/pagecache",
    tag="page cache",
    about="See, dump, load and evict the page cache.",
    shown=(
        ("GET", "", "what is resident; ?by=table, index or file-kind"),
        ("GET", "/history", "what was resident, from the dumps of the last day"),
        ("POST", "/dumps", "record it"),
        ("GET", "/dumps", "the dumps stored here"),
        ("POST", "/loads", 'load a dump: {"dump": "latest"}'),
        ("POST", "/evictions", 'drop pages: {"paths": ["…"]}'),
    ),
)

PageCacheDep = Annotated[PageCache, Depends(provided(PageCache))]

Format = Literal["native", "happycache"]
_FORMS: dict[str, str] = {"native": ZSTD, "happycache": GZIP}
# What a request without a body means.
_WHOLE_DUMP, _LATEST = DumpRequest(), LoadRequest()

DumpId = Annotated[str, Path(max_length=64, description="A dump's id.")]
DumpIdOrLatest = Annotated[
    str,
    Path(
        max_length=64,
        description="A dump's id, the beginning of one that no other has, or `latest`.",
    ),
]


@router.get(
    "",
    operation_id="getPageCache",
    summary="Show what is resident",
    response_model=PageCacheState,
    responses=problems_of(404),
)
@spec(Scope.READ)
async def get_page_cache(
    pagecache: PageCacheDep,
    request: Request,
    *,
    path: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=4096,
            description="Only this file or directory, which must be in a root.",
            json_schema_extra={"pattern": "^/"},
        ),
    ] = None,
    depth: Annotated[
        int, Query(ge=0, le=64, description="Levels of directories listed one by one.")
    ] = 1,
    top: Annotated[
        int,
        Query(
            ge=0, le=10_000, description="Files and groups listed one by one: those most resident."
        ),
    ] = 10,
    by: Annotated[
        GroupBy | None,
        Query(
            description="Group the files as well: by `table`, by `index` or by `file-kind` of the "
            "datastores that are recognized."
        ),
    ] = None,
) -> Response:
    """Ask the kernel about every file, now: that takes seconds for millions of files."""

    def measure(progress: Progress) -> PageCacheState:
        return pagecache.state(path=path, depth=depth, top=top, by=by, progress=progress)

    return await large_json(await run(request, Pool.RESIDENCY, measure))


@router.get(
    "/history",
    operation_id="getResidencyHistory",
    summary="Show what was resident over the last hours",
    response_model=ResidencyHistory,
    responses=problems_of(),
)
@spec(Scope.READ)
async def get_residency_history(
    services: ServicesDep,
    request: Request,
    hours: Annotated[int, Query(ge=1, le=168, description="How far back.")] = 24,
) -> Response:
    """Return a point for each dump of whole roots, also for those removed since."""

    def history(_: Progress) -> ResidencyHistory:
        return residency_history(services.operations, hours)

    return await large_json(await run(request, Pool.READS, history))


@router.post(
    "/dumps",
    operation_id="createDump",
    summary="Record what is resident",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.OPERATE)
async def create_dump(
    request: Request,
    caller: CallerDep,
    params: Annotated[DumpRequest, Body()] = _WHOLE_DUMP,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start an operation whose result names the dump. A body is not needed."""
    return await start(request, caller, "pagecache.dump", params, idempotency_key)


@router.post(
    "/loads",
    operation_id="createLoad",
    summary="Load the pages of a dump",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.OPERATE)
async def create_load(
    request: Request,
    caller: CallerDep,
    params: Annotated[LoadRequest, Body()] = _LATEST,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start an operation that reads pages and reports what the kernel then has in memory."""
    return await start(request, caller, "pagecache.load", params, idempotency_key)


@router.post(
    "/evictions",
    operation_id="createEviction",
    summary="Drop pages of files",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.OPERATE)
async def create_eviction(
    request: Request,
    caller: CallerDep,
    params: EvictRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start an operation that drops clean pages and reports what stayed, and why."""
    return await start(request, caller, "pagecache.evict", params, idempotency_key)


@router.get(
    "/dumps",
    operation_id="listDumps",
    summary="List dumps, newest first",
    response_model=DumpList,
    responses=problems_of(),
)
@spec(Scope.READ)
async def list_dumps(pagecache: PageCacheDep, request: Request) -> Response:
    """List the dumps stored on this node."""
    return JsonResponse(await run(request, Pool.READS, pagecache.dumps))


@router.get(
    "/dumps/{dump_id}",
    operation_id="getDump",
    summary="Show a dump",
    response_model=Dump,
    responses=problems_of(404, 409),
)
@spec(Scope.READ)
async def get_dump(pagecache: PageCacheDep, request: Request, dump_id: DumpIdOrLatest) -> Response:
    """Return the header of a dump's record."""
    found = partial(pagecache.dump, dump_id)
    return JsonResponse(await run(request, Pool.READS, found))


@router.delete(
    "/dumps/{dump_id}",
    operation_id="deleteDump",
    summary="Delete a dump",
    status_code=204,
    response_class=Response,
    responses=problems_of(404, 409),
)
@spec(Scope.OPERATE, produces=())
async def delete_dump(
    pagecache: PageCacheDep, request: Request, dump_id: DumpIdOrLatest
) -> Response:
    """Remove a dump from this node."""
    audited(request, dump=dump_id)
    deleted = await act(request, partial(pagecache.delete, dump_id), Pool.READS)
    audited(request, dump=deleted)
    return Response(status_code=204)


@router.get(
    "/dumps/{dump_id}/content",
    operation_id="getDumpContent",
    summary="Take a dump to another node",
    response_class=Response,
    responses={
        200: {
            "description": (
                "The record file: holdfast's own (zstd-compressed JSON lines), or with "
                "`format=happycache` or `Accept: application/gzip` in happycache's format."
            ),
            "content": {
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in (ZSTD, GZIP, BYTES)
            },
            "headers": {
                "ETag": {"description": "Names these bytes.", "schema": {"type": "string"}},
                "Content-Length": {
                    "description": "Of a record file as stored; other forms are made on the fly.",
                    "schema": {"type": "integer"},
                },
            },
        },
        304: {"description": "The client has these bytes (`If-None-Match`)."},
        **problems_of(404, 409),
    },
)
@spec(Scope.READ, produces=(ZSTD, GZIP, BYTES))
async def get_dump_content(
    pagecache: PageCacheDep,
    request: Request,
    caller: CallerDep,
    dump_id: DumpIdOrLatest,
    format: Annotated[  # noqa: A002 - the name of the query parameter
        Format | None, Query(description="Which format; otherwise as `Accept` asks.")
    ] = None,
) -> Response:
    """Stream the record file of a dump."""
    form, media_type = representation(request, format, _FORMS)
    wanted: Format = "happycache" if form == "happycache" else "native"
    # All of it was read and checked by this, in this process: what follows only sends.
    dump = await run(request, Pool.READS, partial(pagecache.dump, dump_id))
    tag = tag_of(dump.id, dump.created_at, dump.record_bytes, wanted)
    if client_has(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers={"ETag": tag, "Vary": "Accept"})
    if wanted == "native":
        opening = partial(open_record, pagecache.content(dump.id))
        record = await act(request, opening, Pool.READS)
        name = f"{dump.id}.zst"
        return RecordResponse(request, record, name=name, tag=tag, media_type=media_type)
    running = await convert(request, caller, pagecache.conversion(dump.id))
    name = f"{dump.id}.gz"
    return ConversionResponse(request, running, name=name, tag=tag, media_type=media_type)


@router.put(
    "/dumps/{dump_id}/content",
    operation_id="putDumpContent",
    summary="Upload a dump of another node",
    status_code=201,
    response_model=Dump,
    responses={
        201: {
            "description": "Checked and stored.",
            "headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}},
        },
        **problems_of(409, 413, 415, 507),
    },
    openapi_extra=upload(ZSTD, GZIP),
)
@spec(Scope.OPERATE, consumes=(ZSTD, GZIP, BYTES), upload=True)
async def put_dump_content(
    pagecache: PageCacheDep, request: Request, caller: CallerDep, dump_id: DumpId
) -> Response:
    """Store a record file under a new id of the client's choice, once it is found to be whole."""
    audited(request, dump=dump_id)
    begin = partial(pagecache.receive, dump_id)
    dump = await receive(request, caller, begin, dump_id)
    headers = {"Location": f"/v1/pagecache/dumps/{dump.id}"}
    return JsonResponse(dump, status_code=201, headers=headers)
