"""Download of an image to this node: resumable, bounded, and named `image` once it is proven."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from holdfast._engine import Progress
from holdfast.operations.model import Slug
from holdfast.reimage.images.kinds import verify
from holdfast.reimage.images.models import Content, VerifyParams
from holdfast.reimage.images.partial import Partial
from holdfast.reimage.images.peers import PeerAccess, Peers
from holdfast.reimage.images.pump import Pump
from holdfast.reimage.images.retries import Patience, failed
from holdfast.reimage.images.sharing import ImageSharing
from holdfast.reimage.images.sources import Reach, SourceError, SourceTroubleError
from holdfast.reimage.images.suppliers import WRONG_TRIES, Received, Supplier, Suppliers
from holdfast.storage import space

log = logging.getLogger(__name__)


def fetch(
    url: str,
    directory: Path,
    *,
    content: Content,
    descriptor: Path,
    descriptor_sha256: str,
    reach: Reach,
    progress: Progress,
    patience: Patience | None = None,
    mirrors: Sequence[str] = (),
    access: PeerAccess | None = None,
    sharing: ImageSharing | None = None,
    received: Received | None = None,
) -> Path:
    """Download the file of an image to `<directory>/image`, and return its path.

    The descriptor must be there already. Resumes what an earlier call left. Peers of `access` are
    asked before `url`, and `mirrors` after it; `received` counts what each gave. Raises
    `OperationFailed` with the reason, `CancelledError`, or `OSError`.
    """
    sharing = sharing or ImageSharing()
    done = directory / "image"
    params = VerifyParams(file=done, descriptor=descriptor, descriptor_sha256=descriptor_sha256)
    if done.exists():
        if verify(params, progress).ok:
            sharing.proven = directory
            return done
        done.unlink()  # not what it was when it got its name
    with (
        Partial(directory, content.sha256) as partial,
        sharing.fetching(content, progress, lambda: partial.length) as fetching,
    ):
        _check_space(directory, content.size_bytes - partial.length)
        params = params.model_copy(update={"file": partial.path})
        again = True
        try:
            peers = None if access is None else Peers(access, content, fetching, sharing.here())
            suppliers = Suppliers((url, *mirrors), reach, patience or Patience(), peers)
            suppliers.received = received or suppliers.received
            while again:
                suppliers.begin(progress, partial.length)
                _download(suppliers, partial, content, progress, sharing)
                progress.restart()
                found = verify(params, progress)
                if found.ok:
                    partial.complete(done)
                    sharing.proven = directory
                    return done
                # Perhaps its pieces do not belong together, or a bit was lost on the way.
                partial.go_on(0, None)
                again = suppliers.disproved()
        except SourceError as error:
            raise failed(error.slug, error.detail) from error
    raise failed(
        Slug.BAD_RECORD,
        f"What was fetched is not the image of its descriptor, {WRONG_TRIES} times: {found.why()}.",
    )


def _download(
    suppliers: Suppliers,
    partial: Partial,
    content: Content,
    progress: Progress,
    sharing: ImageSharing,
) -> None:
    """Append what is missing of a file. Raises `SourceError`, `CancelledError`, `OSError`."""
    progress.enter("downloading")
    progress.expect(content.size_bytes)
    _show(progress, partial)
    while partial.length < content.size_bytes:
        supplier = suppliers.choose(progress)
        least = supplier.least() if supplier.least is not None else None
        # Only where it is from can tell whether what is here came from the same file.
        validator = partial.validator if supplier.kind == "origin" else None
        still = least.check if least is not None else None
        pump = Pump(supplier.source, partial.length, validator, progress, still)
        try:
            for count in _taken(pump, partial, content, supplier, progress):
                suppliers.gave(supplier, count)
                sharing.received(supplier.kind, count)
                if least is not None:
                    least.moved(count)
            if partial.length < content.size_bytes:
                raise SourceTroubleError(
                    f"The source ends after {partial.length} of {content.size_bytes} bytes."
                )
        except SourceError as error:
            log.info(
                "%s is left at byte %d of %d: %s",
                supplier.shown,
                partial.length,
                content.size_bytes,
                error.detail,
            )
            suppliers.failed(supplier, error, partial.length)
        finally:
            pump.stop()
    partial.flush()


def _taken(
    pump: Pump, partial: Partial, content: Content, supplier: Supplier, progress: Progress
) -> Iterator[int]:
    """Write what a source gives, and yield the bytes of each piece. Raises `SourceError`."""
    start = pump.start()
    if start.size is not None and start.size != content.size_bytes:
        raise SourceError(
            Slug.BAD_RECORD,
            f"The file there has {start.size} bytes, and its descriptor states "
            f"{content.size_bytes}: it is another one.",
        )
    if supplier.kind == "peer" and start.offset != partial.length:
        raise SourceError(Slug.UNAVAILABLE, "It gives other bytes than asked for.")
    partial.go_on(start.offset, start.validator if supplier.kind == "origin" else None)
    _show(progress, partial)
    for chunk in pump.chunks():
        if partial.length + len(chunk) > content.size_bytes:
            raise SourceError(
                Slug.BAD_RECORD,
                f"The file there has more than the {content.size_bytes} bytes that its descriptor "
                "states: it is another one.",
            )
        partial.append(chunk)
        progress.advance(len(chunk))
        yield len(chunk)


def _show(progress: Progress, partial: Partial) -> None:
    progress.restart()
    progress.advance(partial.length)


def _check_space(directory: Path, needed: int) -> None:
    found = os.statvfs(directory)
    available = found.f_bavail * found.f_frsize
    floor = space.floor_of(directory)
    if needed + floor > available:
        raise failed(
            Slug.NO_SPACE,
            f"The image needs {needed} bytes more in {directory}, {floor} have to stay free "
            f"(`data.free_space_floor`), and {available} are free; free space and start it again.",
        )
