"""Turns everything that can go wrong with a request into `application/problem+json`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from holdfast._engine import EngineError
from holdfast.api.http.paths import no_such_path
from holdfast.api.http.rendering import PROBLEM_JSON, JsonResponse, one_line, printable
from holdfast.operations.ids import new_id
from holdfast.operations.model import (
    Conflict,
    FieldError,
    IdempotencyMismatch,
    OperationFailed,
    Problem,
    RequestError,
    ShuttingDown,
    Slug,
    UnknownOperation,
)
from holdfast.operations.outcome import problem_of
from holdfast.text.wording import plain

log = logging.getLogger(__name__)
_RETRY_AFTER = {Slug.UNAVAILABLE: "1", Slug.QUEUE_FULL: "5"}
"""Seconds after which to try again what is refused for now."""

CLIENT_CLOSED = 499
"""What the log and the metrics show for a client that hung up before it had sent its request."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_WHOLE_BODY = "body"
_MAX_NAME = 256
_MAX_MESSAGE = 1024


class ProblemError(Exception):
    """A problem to return, with headers if it needs any."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers


def refuse(
    slug: Slug,
    detail: str,
    *,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemError:
    """Make the exception for one problem of the vocabulary; `field` names what it is about."""
    errors = None if field is None else [FieldError(field=field, message=detail)]
    return ProblemError(Problem.of(slug, detail, errors=errors), headers)


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for a problem."""
    response = JsonResponse(problem, status_code=problem.status, media_type=PROBLEM_JSON)
    response.headers.update(headers or {})
    return response


def internal_problem(error: BaseException, what: str) -> Problem:
    """Log an unexpected error, and return a problem without its details."""
    incident = new_id()
    log.error("incident %s: %s failed", incident, what, exc_info=error)
    return Problem.of(
        Slug.INTERNAL,
        f"holdfast met an error it did not expect ({type(error).__name__}); its log has the "
        f"details under incident {incident}.",
        incident=incident,
    )


MAX_ERRORS = 10
"""Fields that one problem explains; the others are counted."""
_MAX_GUESSED = 64
"""The longest word that is compared with others, in characters: that takes quadratic time."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a hint: what was probably meant, or what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1) if len(word) <= _MAX_GUESSED else []
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known are {', '.join(f'`{name}`' for name in names)}" if names else ""


def install(app: FastAPI) -> None:
    """Make `app` answer problems, whatever raised them."""
    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        ProblemError: _problem_error,
        RequestValidationError: _validation_error,
        HTTPException: _http_exception,
        RequestError: _request_error,
        UnknownOperation: _unknown_operation,
        Conflict: _conflict,
        IdempotencyMismatch: _mismatch,
        ShuttingDown: _shutting_down,
        OperationFailed: _capability_error,
        EngineError: _capability_error,
        OSError: _capability_error,
        ClientDisconnect: _client_gone,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _problem_error(_request: Request, error: ProblemError) -> Response:
    return problem_response(error.problem, error.headers)


async def _request_error(_request: Request, error: RequestError) -> Response:
    after = _RETRY_AFTER.get(error.slug)
    if error.retry_after is not None:
        after = str(error.retry_after)
    headers = None if after is None else {"Retry-After": after}
    return problem_response(error.problem, headers)


async def _unknown_operation(_request: Request, error: UnknownOperation) -> Response:
    shown = one_line(error.operation_id)[:64]
    return problem_response(
        Problem.of(
            Slug.NOT_FOUND,
            f"There is no operation {shown!r}: it never existed, or was removed with age.",
        )
    )


async def _conflict(_request: Request, error: Conflict) -> Response:
    running = error.running
    problem = Problem.of(Slug.CONFLICT, str(error), operation=running.id, kind=running.kind)
    headers = {"Location": f"/v1/operations/{running.id}", "Retry-After": "1"}
    return problem_response(problem, headers)


async def _mismatch(_request: Request, error: IdempotencyMismatch) -> Response:
    existing = error.existing
    problem = Problem.of(Slug.IDEMPOTENCY_MISMATCH, str(error), operation=existing.id)
    return problem_response(problem, {"Location": f"/v1/operations/{existing.id}"})


async def _shutting_down(_request: Request, error: ShuttingDown) -> Response:
    return problem_response(Problem.of(Slug.UNAVAILABLE, str(error)), {"Retry-After": "5"})


async def _capability_error(request: Request, error: Exception) -> Response:
    what = f"{request.method} {request.url.path}"
    if type(error) is EngineError:
        return problem_response(internal_problem(error, what))
    problem = problem_of(error, what)
    log.warning("%s: %s", one_line(what), one_line(problem.detail))
    return problem_response(problem)


async def _client_gone(_request: Request, _error: ClientDisconnect) -> Response:
    # Nobody reads it; the status is for the metrics.
    return Response(status_code=CLIENT_CLOSED)


async def _http_exception(request: Request, error: HTTPException) -> Response:
    """Handle what the framework raises on its own."""
    if error.status_code == 404:
        return problem_response(Problem.of(Slug.NOT_FOUND, printable(no_such_path(request))))
    if error.status_code == 405:
        allowed = allowed_methods(request)
        detail = f"{request.method} is not allowed here; allowed: {', '.join(allowed)}."
        return problem_response(
            Problem.of(Slug.METHOD_NOT_ALLOWED, one_line(detail)), {"Allow": ", ".join(allowed)}
        )
    if error.status_code == 400:
        # The framework's word for a body that it could not decode at all.
        return problem_response(bad_json("it cannot be decoded"))
    problem = Problem(
        type="about:blank",
        title=error.detail,
        status=error.status_code,
        detail=error.detail,
    )
    return problem_response(problem, error.headers)


def allowed_methods(request: Request) -> Sequence[str]:
    """Return the methods that the path of a request has routes for."""
    router = request.app.router
    found = []
    for method in _METHODS:
        # Answering HEAD is done for all routes alike, by answering GET.
        scope = {**request.scope, "method": "GET" if method == "HEAD" else method}
        scope.pop("route", None)
        if any(route.matches(dict(scope))[0].name == "FULL" for route in router.routes):
            found.append(method)
    return found


async def _validation_error(request: Request, error: RequestValidationError) -> Response:
    return problem_response(invalid(error.errors(), _body_fields(request)))


def invalid(details: Sequence[Mapping[str, Any]], known: Sequence[str]) -> Problem:
    """Return the problem that validation errors are, of which the first ten are explained.

    `known` are the fields that the body may have.
    """
    for detail in details:
        if detail["type"] == "json_invalid":
            reason = str(detail.get("ctx", {}).get("error", "it cannot be parsed"))
            return bad_json(f"{reason} at character {detail['loc'][-1]}")
    errors = [_field_error(detail, known) for detail in details[:MAX_ERRORS]]
    unknown = all(detail["type"] == "extra_forbidden" for detail in details)
    slug = Slug.UNKNOWN_FIELD if unknown else Slug.INVALID_REQUEST
    text = "; ".join(f"{_subject(error.field)} {error.message}" for error in errors[:5])
    if len(details) > 5:
        text += f"; and {len(details) - 5} more"
    return Problem.of(slug, text if text.endswith("?") else f"{text}.", errors=errors)


def _body_fields(request: Request) -> Sequence[str]:
    """Return the names of the fields that the body of this request may have."""
    body = getattr(request.scope.get("route"), "body_field", None)
    model = body.field_info.annotation if body is not None else None
    return tuple(getattr(model, "model_fields", ()))


def bad_json(reason: str) -> Problem:
    """Return the problem that a body is not JSON at all."""
    message = f"is not valid JSON: {reason[:1].lower()}{reason[1:]}"
    return Problem.of(
        Slug.INVALID_REQUEST,
        f"The body {message}.",
        errors=[FieldError(field=_WHOLE_BODY, message=message)],
    )


def _subject(field: str) -> str:
    return "The body" if field == _WHOLE_BODY else f"`{field}`"


def _field_error(error: Mapping[str, Any], known: Sequence[str]) -> FieldError:
    where, *rest = error["loc"]
    name = ".".join(str(part) for part in rest) or (_WHOLE_BODY if where == "body" else str(where))
    message = printable(plain(error))
    if error["type"] == "extra_forbidden" and len(rest) == 1:
        message += suggestion(name, known)
    return FieldError(field=printable(one_line(name[:_MAX_NAME])), message=message[:_MAX_MESSAGE])
