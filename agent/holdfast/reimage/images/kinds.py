"""Describing and verifying the file of an image, as kinds of operation."""

from __future__ import annotations

import hashlib
import json

from holdfast._engine import Progress, describe_image, verify_image
from holdfast.durable import replace_file
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import format_time
from holdfast.records.calls import call
from holdfast.reimage.images.models import (
    Described,
    DescribeParams,
    Descriptor,
    Verified,
    VerifyParams,
)


def describe(params: DescribeParams, progress: Progress) -> Described:
    """Read an image and write its descriptor. Raises what the engine raises, and `OSError`."""
    request = {
        "file": str(params.file),
        "name": params.name,
        "image_version": params.image_version,
        "created": format_time(params.created),
    }
    text = describe_image(json.dumps(request), progress).encode() + b"\n"
    replace_file(params.output, text, 0o644)
    return Described(
        descriptor=params.output,
        descriptor_sha256=hashlib.sha256(text).hexdigest(),
        image=Descriptor.parse(text),
    )


def verify(params: VerifyParams, progress: Progress) -> Verified:
    """Read the file of an image and compare it with its descriptor.

    Raises what the engine raises: `RecordError` is about the descriptor, never about the file.
    """
    request = params.model_dump(mode="json", exclude_none=True)
    return Verified.model_validate(call(verify_image, request, progress))


def _describe(context: Context[DescribeParams]) -> Described:
    return describe(context.params, context.progress)


def _verify(context: Context[VerifyParams]) -> Verified:
    return verify(context.params, context.progress)


DESCRIBE = Kind("image.describe", DescribeParams, Described, _describe)
VERIFY = Kind("image.verify", VerifyParams, Verified, _verify)
