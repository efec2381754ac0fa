"""Routes of manifests: built, verified, compared, and moved between nodes."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any, Literal, cast

from anyio import to_thread
from fastapi import Body, Depends, Path, Query, Request
from starlette.responses import Response

from holdfast.api.contract.documents import problems_of, started, upload
from holdfast.api.contract.routing import CallerDep, Router, ServicesDep, audited, provided, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.conversions import ConversionResponse, convert
from holdfast.api.http.records import (
    BYTES,
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
from holdfast.api.routes.operations import IdempotencyKey, OperationName, start
from holdfast.manifests.engine_requests import Text
from holdfast.manifests.models import (
    BuildRequest,
    CompareRequest,
    ManifestDetails,
    ManifestList,
    VerifyParams,
    VerifyRequest,
)
from holdfast.manifests.service import Form, Manifests
from holdfast.operations.model import Operation

router = Router(
    prefix="/v1/manifests",
    tag="manifests",
    about="Prove that files are what they were.",
    shown=(
        ("POST", "", "record every file with its digest"),
        ("GET", "", "the manifests stored here"),
        ("POST", "/latest/verifications", "read the files again and compare"),
        ("POST", "/comparisons", 'compare two: {"left": "…", "right": "…"}'),
    ),
)

ManifestsDep = Annotated[Manifests, Depends(provided(Manifests))]

JSONL, NDJSON, TEXT = "application/jsonl", "application/x-ndjson", "text/plain"
_FORMS: dict[str, str] = {"native": ZSTD, "jsonl": JSONL, "xxhsum": TEXT, "xxhsum_escaped": TEXT}
_REPORT_FORMS: dict[str, str] = {"jsonl": JSONL, "native": ZSTD}
_EXTENSIONS = {"native": "zst", "jsonl": "jsonl", "xxhsum": "txt", "xxhsum_escaped": "txt"}
# What a request without a body means.
_WHOLE_ROOT, _WHOLE_MANIFEST = BuildRequest(), VerifyRequest()

ManifestId = Annotated[str, Path(max_length=64, description="A manifest's id.")]
ManifestIdOrLatest = Annotated[
    str,
    Path(
        max_length=64,
        description="A manifest's id, the beginning of one that no other has, or `latest`.",
    ),
]
ReportFormat = Literal["jsonl", "native"]


def _files(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    """Describe an answer that is a file."""
    binary = {"type": "string", "format": "binary"}
    content = {
        media_type: {"schema": binary if media_type in (ZSTD, BYTES) else {"type": "string"}}
        for media_type in media_types
    }
    return {
        200: {
            "description": description,
            "content": content,
            "headers": {
                "Content-Length": {
                    "description": "Of a record file as stored; other forms are made on the fly.",
                    "schema": {"type": "integer"},
                }
            },
        }
    }


@router.post(
    "",
    operation_id="createManifest",
    summary="Record every file with its digest",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.OPERATE)
async def create_manifest(
    request: Request,
    caller: CallerDep,
    params: Annotated[BuildRequest, Body()] = _WHOLE_ROOT,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start an operation whose result names the manifest. A body is not needed for one root."""
    return await start(request, caller, "manifest.build", params, idempotency_key)


@router.get(
    "",
    operation_id="listManifests",
    summary="List manifests, newest first",
    response_model=ManifestList,
    responses=problems_of(),
)
@spec(Scope.READ)
async def list_manifests(manifests: ManifestsDep, request: Request) -> Response:
    """List the manifests stored on this node."""
    return JsonResponse(await run(request, Pool.READS, manifests.manifests))


@router.post(
    "/comparisons",
    operation_id="createComparison",
    summary="Compare two manifests",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.OPERATE)
async def create_comparison(
    request: Request,
    caller: CallerDep,
    params: CompareRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start an operation that reads no file but the two records."""
    return await start(request, caller, "manifest.compare", params, idempotency_key)


@router.get(
    "/reports/{operation_id}",
    operation_id="getManifestReport",
    summary="Every finding of a verification or comparison",
    response_class=Response,
    responses={
        **_files("A header, a line for each finding, a trailer.", JSONL, NDJSON, ZSTD, BYTES),
        **problems_of(404, 409),
    },
)
@spec(Scope.READ, produces=(JSONL, NDJSON, ZSTD, BYTES))
async def get_report(
    services: ServicesDep,
    manifests: ManifestsDep,
    request: Request,
    caller: CallerDep,
    *,
    operation_id: OperationName,
    format: Annotated[  # noqa: A002 - the name of the query parameter
        ReportFormat | None, Query(description="Which format; otherwise as `Accept` asks.")
    ] = None,
) -> Response:
    """Stream the report that an operation made, of which its result has the beginning."""
    operation_id = await to_thread.run_sync(services.operations.resolve, operation_id)
    form, media_type = _representation(request, format, _REPORT_FORMS)
    name = f"{operation_id}.{_EXTENSIONS[form]}"
    if form == "native":
        found = nullcontext(manifests.report(operation_id))
        record = await act(request, partial(open_record, found), Pool.READS)
        tag = f'"{operation_id}"'
        return RecordResponse(request, record, name=name, tag=tag, media_type=media_type)
    running = await convert(request, caller, manifests.report_conversion(operation_id))
    tag = f'W/"{operation_id}-{form}"'
    return ConversionResponse(request, running, name=name, tag=tag, media_type=media_type)


@router.get(
    "/{manifest_id}",
    operation_id="getManifest",
    summary="Show a manifest",
    response_model=ManifestDetails,
    responses=problems_of(404, 409),
)
@spec(Scope.READ)
async def get_manifest(
    manifests: ManifestsDep, request: Request, manifest_id: ManifestIdOrLatest
) -> Response:
    """Return the totals of a manifest, its largest files, and those without a digest."""
    found = partial(manifests.manifest, manifest_id)
    return await large_json(await run(request, Pool.READS, found))


@router.delete(
    "/{manifest_id}",
    operation_id="deleteManifest",
    summary="Delete a manifest",
    status_code=204,
    response_class=Response,
    responses=problems_of(404, 409),
)
@spec(Scope.OPERATE, produces=())
async def delete_manifest(
    manifests: ManifestsDep, request: Request, manifest_id: ManifestIdOrLatest
) -> Response:
    """Remove a manifest from this node."""
    audited(request, manifest=manifest_id)
    deleted = await act(request, partial(manifests.delete, manifest_id), Pool.READS)
    audited(request, manifest=deleted)
    return Response(status_code=204)


@router.post(
    "/{manifest_id}/verifications",
    operation_id="createVerification",
    summary="Verify files against a manifest",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.OPERATE)
async def create_verification(
    *,
    request: Request,
    caller: CallerDep,
    manifest_id: ManifestIdOrLatest,
    params: Annotated[VerifyRequest, Body()] = _WHOLE_MANIFEST,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start an operation that reads the files; it succeeds also if they differ: see `result.ok`."""
    return await start(
        request,
        caller,
        "manifest.verify",
        VerifyParams(manifest=manifest_id, **dict(params)),
        idempotency_key,
    )


@router.get(
    "/{manifest_id}/content",
    operation_id="getManifestContent",
    summary="Take a manifest to another node, or to xxhsum",
    response_class=Response,
    responses={
        **_files(
            "The record file (zstd-compressed JSON lines), its lines as they are, or with "
            "`text/plain` what `xxhsum -c` (or `b3sum -c`) reads. Names with a newline, carriage "
            "return or backslash are only in `format=xxhsum_escaped`, for xxhsum 0.8.2 and later.",
            ZSTD,
            JSONL,
            NDJSON,
            TEXT,
            BYTES,
        ),
        304: {"description": "The client has these bytes (`If-None-Match`)."},
        **problems_of(404, 409),
    },
)
@spec(Scope.READ, produces=(ZSTD, JSONL, NDJSON, TEXT, BYTES))
async def get_manifest_content(
    manifests: ManifestsDep,
    request: Request,
    caller: CallerDep,
    manifest_id: ManifestIdOrLatest,
    format: Annotated[  # noqa: A002 - the name of the query parameter
        Form | None, Query(description="Which format; otherwise as `Accept` asks.")
    ] = None,
) -> Response:
    """Stream a manifest."""
    form, media_type = _representation(request, format, _FORMS)
    # All of it was read and checked by this, in this process: what follows only sends.
    found = partial(manifests.manifest, manifest_id)
    manifest = await run(request, Pool.READS, found)
    tag = tag_of(manifest.id, manifest.created_at, manifest.record_bytes, form)
    if client_has(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers={"ETag": tag, "Vary": "Accept"})
    name = f"{manifest.id}.{_EXTENSIONS[form]}"
    if form == "native":
        content = manifests.content(manifest.id)
        record = await act(request, partial(open_record, content), Pool.READS)
        return RecordResponse(request, record, name=name, tag=tag, media_type=media_type)
    write = manifests.conversion(manifest.id, cast("Text", form))
    running = await convert(request, caller, write)
    return ConversionResponse(request, running, name=name, tag=tag, media_type=media_type)


@router.put(
    "/{manifest_id}/content",
    operation_id="putManifestContent",
    summary="Upload a manifest of another node",
    status_code=201,
    response_model=ManifestDetails,
    responses={
        201: {
            "description": "Checked and stored.",
            "headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}},
        },
        **problems_of(409, 413, 415, 507),
    },
    openapi_extra=upload(ZSTD),
)
@spec(Scope.OPERATE, consumes=(ZSTD, BYTES), upload=True)
async def put_manifest_content(
    manifests: ManifestsDep, request: Request, caller: CallerDep, manifest_id: ManifestId
) -> Response:
    """Store a record file under a new id of the client's choice, once it is found to be whole."""
    audited(request, manifest=manifest_id)
    begin = partial(manifests.receive, manifest_id)
    manifest = await receive(request, caller, begin, manifest_id)
    headers = {"Location": f"/v1/manifests/{manifest.id}"}
    return JsonResponse(manifest, status_code=201, headers=headers)


def _representation(request: Request, wanted: str | None, forms: dict[str, str]) -> tuple[str, str]:
    """JSON lines have two names, of which one is registered and the other in use."""
    if wanted is None and request.state.media_type == NDJSON:
        return "jsonl", NDJSON
    return representation(request, wanted, forms)
