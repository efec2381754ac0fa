"""Idempotency keys: their form, and the request that each identifies."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel

from holdfast.operations.model import RequestError, Slug

MAX_KEY_LENGTH = 255


def check_key(key: str | None) -> None:
    """Raise `RequestError` unless a key has a valid form; None is no key."""
    if key is not None and not (0 < len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        raise RequestError(
            Slug.INVALID_REQUEST,
            f"An idempotency key is 1 to {MAX_KEY_LENGTH} printable characters.",
            "Idempotency-Key",
        )


def digest_of(kind: str, params: BaseModel) -> str:
    """Identify a request. Leaves defaults out, so that an added parameter changes nothing."""
    canonical = json.dumps(
        params.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(f"{kind}\n{canonical}".encode()).hexdigest()
