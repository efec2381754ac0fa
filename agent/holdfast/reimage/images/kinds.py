"""Describing and verifying the file of an image, as kinds of operation."""

from __future__ import annotations

import hashlib
from pathlib import Path

from holdfast._engine import Progress
from holdfast.engine.requests import call, call_for_text
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import Slug, format_time
from holdfast.reimage.images import qcow2
from holdfast.reimage.images.engine_requests import DescribeImage, InspectImage, VerifyImage
from holdfast.reimage.images.models import (
    Described,
    DescribeParams,
    Descriptor,
    Inspected,
    InspectParams,
    Verified,
    VerifyParams,
)
from holdfast.reimage.images.retries import failed
from holdfast.reimage.images.spool import spooled
from holdfast.signing.trust import TrustedKeys, UntrustedError
from holdfast.storage.atomic_files import write_output


def describe(params: DescribeParams, progress: Progress) -> Described:
    """Read an image and write its descriptor.

    Of a qcow2 file, a packed image is made first; a machine image of EC2 is fetched first, and not
    kept. Raises what the engine raises, `OperationFailed`, and `OSError`.
    """
    if params.ami is not None:
        output = params.output or Path.cwd() / f"{params.ami.removeprefix('ami://')}.json"
        with spooled(params.ami, output.parent, progress) as file:
            progress.restart()
            return _written(params, file, output, progress)
    if params.file is None:
        raise ValueError("there is nothing to describe")
    file = params.file
    if qcow2.is_one(file):
        file = qcow2.convert(file, progress)
        progress.restart()
    output = params.output or file.with_name(f"{file.name}.json")
    return _written(params, file, output, progress)


def _written(params: DescribeParams, file: Path, output: Path, progress: Progress) -> Described:
    request = DescribeImage(
        file=file,
        name=params.name,
        image_version=params.image_version,
        created=format_time(params.created),
        root_partition=params.root_partition,
    )
    text = call_for_text(request, progress).encode() + b"\n"
    write_output(output, [text], 0o644)
    return Described(
        descriptor=output,
        descriptor_sha256=hashlib.sha256(text).hexdigest(),
        image=Descriptor.parse(text),
    )


def inspect(params: InspectParams, progress: Progress) -> Inspected:
    """Look into an image, without digests. Raises what the engine raises, and `OSError`."""
    if qcow2.is_one(params.file):
        raise failed(
            Slug.BAD_RECORD,
            f"{params.file} is a qcow2 file: convert it with `holdfast image describe`, or with "
            "`qemu-img convert -O raw`, and inspect the result.",
        )
    request = InspectImage(file=params.file, root_partition=params.root_partition)
    return Inspected.model_validate(call(request, progress))


def verify(params: VerifyParams, progress: Progress) -> Verified:
    """Read the file of an image and compare it with its descriptor.

    Raises what the engine raises: `RecordError` is about the descriptor, never about the file; and
    `OperationFailed` if the descriptor is not signed as it should be.
    """
    signed_by, sha256 = None, params.descriptor_sha256
    if params.key is not None:
        signed_by, sha256 = _check_signature(params, params.key)
    request = VerifyImage(file=params.file, descriptor=params.descriptor, descriptor_sha256=sha256)
    found = Verified.model_validate(call(request, progress))
    return found.model_copy(update={"signed_by": signed_by})


def _check_signature(params: VerifyParams, key: Path) -> tuple[str, str]:
    """Return who signed the descriptor, and the SHA-256 of what is signed."""
    descriptor = params.descriptor
    data = descriptor.read_bytes()
    signatures = params.signature or descriptor.with_name(f"{descriptor.name}.sig")
    try:
        name = TrustedKeys(key).check(data, signatures.read_bytes())
    except UntrustedError as error:
        raise failed(Slug.BAD_RECORD, f"{descriptor} is not trusted: {error}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if params.descriptor_sha256 not in (None, sha256):
        raise failed(
            Slug.BAD_RECORD,
            f"{descriptor}: its SHA-256 is {sha256} and not {params.descriptor_sha256}.",
        )
    return name, sha256


def _describe(context: Context[DescribeParams]) -> Described:
    return describe(context.params, context.progress)


def _verify(context: Context[VerifyParams]) -> Verified:
    return verify(context.params, context.progress)


def _inspect(context: Context[InspectParams]) -> Inspected:
    return inspect(context.params, context.progress)


INSPECT = Kind("image.inspect", InspectParams, Inspected, _inspect)
DESCRIBE = Kind("image.describe", DescribeParams, Described, _describe)
VERIFY = Kind("image.verify", VerifyParams, Verified, _verify)
