"""Clients of AWS for sources, where boto3 is installed, and what their errors mean.

Region, endpoint and credentials come from where boto3 has them: its variables, its files, or the
instance's role.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.operations.model import Slug
from holdfast.reimage.images.sources.base import SourceError, SourceTroubleError

_DISTRIBUTION = Path("/usr/lib/python3/dist-packages")
"""Where Debian's python3-boto3 is. holdfast's package imports only these modules from there."""
_PACKAGED = Path("/usr/lib/holdfast")
_PASSING = frozenset(
    {
        "InternalError",
        "InternalServerException",
        "RequestLimitExceeded",
        "RequestThrottledException",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
_SLUGS = {401: Slug.NOT_PERMITTED, 403: Slug.NOT_PERMITTED, 404: Slug.NOT_FOUND}
_ATTEMPTS = 5
"""Of one request, at once; sources are asked again for much longer."""


def client(service: str, connections: int = 10) -> Any:
    """Make a client of a service. Raises `SourceError`."""
    try:
        boto3, botocore = _modules()
    except ImportError as error:
        raise SourceError(
            Slug.UNAVAILABLE,
            f"Images are fetched from AWS with boto3, which cannot be imported ({error}): on "
            "Debian `apt-get install python3-boto3`, elsewhere `pip install holdfast[aws]`.",
        ) from None
    config = botocore.config.Config(
        connect_timeout=10,
        read_timeout=30,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        user_agent_extra="holdfast",
    )
    with troubles(f"AWS's {service}"):
        # A session of its own: the default one is not for several threads.
        return boto3.session.Session().client(service, config=config)


def _modules() -> tuple[Any, Any]:
    try:
        import boto3  # noqa: PLC0415 - optional, and slow to import
        import botocore.config  # noqa: PLC0415
        import botocore.exceptions  # noqa: PLC0415
    except ImportError:
        packaged = Path(__file__).is_relative_to(_PACKAGED)
        if not packaged or str(_DISTRIBUTION) in sys.path or not _DISTRIBUTION.is_dir():
            raise
        # Last, so that the package keeps the modules that it was tested with.
        sys.path.append(str(_DISTRIBUTION))
        return _modules()
    return boto3, botocore


@contextmanager
def troubles(name: str) -> Iterator[None]:
    """Turn what boto3 raises about a thing of this name into the source's own errors."""
    try:
        yield
    except Exception as error:
        _, botocore = _modules()
        if isinstance(error, botocore.exceptions.ClientError):
            raise _refusal(name, error.response) from error
        if isinstance(error, botocore.exceptions.BotoCoreError):
            raise _fault(name, error, botocore.exceptions) from error
        raise


def code_of(error: Any) -> str:
    """Return the code of an error from AWS."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _refusal(name: str, response: Any) -> SourceError:
    problem = response.get("Error", {})
    code, message = str(problem.get("Code", "")), str(problem.get("Message", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{name}: AWS answers {code}" + (f" ({message.rstrip('.')})" if message else "")
    if code in _PASSING or status >= 500 or status == 429:
        return SourceTroubleError(f"{said}.")
    if status in (401, 403):
        said += "; see what this machine's role or keys permit"
    not_found = code in ("NoSuchBucket", "NoSuchKey") or code.endswith(".NotFound")
    slug = Slug.NOT_FOUND if not_found else _SLUGS.get(status, Slug.UNAVAILABLE)
    return SourceError(slug, f"{said}.")


def _fault(name: str, error: Exception, kinds: Any) -> SourceError:
    said = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, kinds.NoCredentialsError | kinds.PartialCredentialsError):
        return SourceError(
            Slug.NOT_PERMITTED,
            f"{name} cannot be asked for: this machine has no credentials for AWS; give it a role.",
        )
    if isinstance(error, kinds.NoRegionError):
        return SourceError(
            Slug.UNAVAILABLE,
            f"{name} cannot be asked for: no region of AWS is set; set AWS_DEFAULT_REGION for the "
            "daemon.",
        )
    if isinstance(error, kinds.ParamValidationError):
        return SourceError(Slug.INVALID_REQUEST, f"{name} is no name that AWS takes: {said}.")
    # Connections, time-outs, and answers that end in the middle.
    if isinstance(
        error, kinds.HTTPClientError | kinds.ResponseStreamingError | kinds.IncompleteReadError
    ):
        return SourceTroubleError(f"{name} cannot be read: {said}.")
    return SourceError(Slug.UNAVAILABLE, f"{name} cannot be read: {said}.")
