"""All that re-imaging needs of images, in one place."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast._engine import Progress, RecordError
from holdfast.engine.image_rules import ImageQuestion, judge
from holdfast.node.paths.beneath import read_file
from holdfast.operations.model import RequestError, Slug
from holdfast.reimage.images import fetch as fetching
from holdfast.reimage.images.documents import fetch_descriptor, fetch_signatures
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.images.partial import present_bytes
from holdfast.reimage.images.peers import PeerAccess
from holdfast.reimage.images.retries import failed
from holdfast.reimage.images.sharing import ImageSharing
from holdfast.reimage.images.sources import (
    AllowedSources,
    Reach,
    SourceError,
    beside,
    signature_of,
    source_of,
)
from holdfast.reimage.images.suppliers import Received
from holdfast.reimage.models import ImageSummary, StageRequest
from holdfast.signing.trust import SIGNATURES_LIMIT, TrustedKeys, UntrustedError
from holdfast.storage import space
from holdfast.storage.atomic_files import make_directory, replace_file
from holdfast.storage.roots import Roots

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Obtained:
    """A descriptor that is trusted, and why."""

    data: bytes
    sha256: str
    signatures: bytes | None = None
    signed_by: str | None = None
    """The name of the key, if a signature was asked for."""
    own: bool = False
    """It is of the old system that was kept on this machine."""


class ImageLibrary:
    """Fetches descriptors and images, and checks them."""

    def __init__(
        self,
        roots: Sequence[Path],
        state_dir: Path,
        ca_file: Path | None = None,
        *,
        trusted_keys: Path,
        require_signature: bool = False,
        sources: Sequence[str] = (),
        peers: PeerAccess | None = None,
        sharing: ImageSharing | None = None,
    ) -> None:
        """Fetch from URLs with one of the prefixes `sources`; from anywhere if there are none."""
        self._allowed = AllowedSources(sources)
        places = Roots(roots, state_dir)
        self._reach = Reach(places, ca_file, self._allowed, guarded=bool(self._allowed))
        self._planning = Reach(places, ca_file, self._allowed, guarded=True)
        self._keys = TrustedKeys(trusted_keys, guarded=True)
        self._require_signature = require_signature
        self._peers = peers
        self._sharing = sharing or ImageSharing()

    @property
    def restricted(self) -> bool:
        """Whether the settings list where images are fetched from."""
        return bool(self._allowed)

    def check(self, request: StageRequest) -> None:
        """Check that the URLs are of a known kind, and that trust can be established.

        Raises `RequestError`.
        """
        named = [
            (field, getattr(request, field)) for field in ("descriptor", "content", "signature")
        ]
        for field, url in (*named, *(("mirrors", each) for each in request.mirrors)):
            if url is None:
                continue
            if field in ("descriptor", "signature") and url.startswith("ami://"):
                raise RequestError(
                    Slug.INVALID_REQUEST,
                    "A machine image is no descriptor: describe it with `holdfast image describe`, "
                    "and name it as `content`.",
                    field,
                )
            try:
                source_of(url, self._reach)
            except SourceError as error:
                raise RequestError(error.slug, error.detail, field) from error
        why = self._keys.why_none() if self._needs_signature(request) else None
        if why is None:
            return
        if request.descriptor_sha256 is None and request.signature is None:
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"Nothing determines which descriptor to trust: set `descriptor_sha256`. {why}",
                "descriptor_sha256",
            )
        raise RequestError(
            Slug.INVALID_REQUEST, f"The signature cannot be checked. {why}", "signature"
        )

    def plan(self, request: StageRequest, progress: Progress, *, explain: bool) -> Obtained:
        """Obtain a descriptor as `obtain` does, but never from this machine itself.

        With `explain`, errors name the SHA-256 that was found and what is wrong with it; others
        would learn something of files that they may not read. Raises `OperationFailed`,
        `RecordError`, `CancelledError`.
        """
        try:
            return self._obtain(request, progress, self._planning, explain=explain)
        except RecordError as error:
            if explain:
                raise
            raise RecordError("what is there is no descriptor of an image") from error

    def obtain(self, request: StageRequest, progress: Progress | None = None) -> Obtained:
        """Fetch a descriptor, and its signature if one is needed, and check all there is to check.

        Raises `OperationFailed`, `RecordError`, `CancelledError`.
        """
        return self._obtain(request, progress or Progress(), self._reach, explain=False)

    def _obtain(
        self, request: StageRequest, progress: Progress, reach: Reach, *, explain: bool
    ) -> Obtained:
        data = fetch_descriptor(
            request.descriptor,
            request.descriptor_sha256,
            reach=reach,
            progress=progress,
            explain=explain,
        )
        sha256 = hashlib.sha256(data).hexdigest()
        if not self._needs_signature(request):
            Descriptor.parse(data)
            return Obtained(data, sha256)
        url = request.signature or signature_of(request.descriptor)
        signatures = fetch_signatures(url, reach=reach, progress=progress)
        try:
            name = self._keys.check(data, signatures)
        except UntrustedError as error:
            which = f"The descriptor of SHA-256 {sha256}" if explain else "The descriptor"
            raise failed(Slug.BAD_RECORD, f"{which} is not trusted: {error}") from error
        log.info("the descriptor of SHA-256 %s is signed by the key %s", sha256, name)
        Descriptor.parse(data)
        return Obtained(data, sha256, signatures, name)

    def check_again(self, request: StageRequest, directory: Path) -> str | None:
        """Check the signature of a descriptor that was kept, by the keys that are trusted now.

        Returns the key's name, or None if no signature is needed. Raises `RequestError`, `OSError`.
        """
        if not self._needs_signature(request):
            return None
        try:
            data = (directory / "descriptor.json").read_bytes()
            name = self._keys.check(data, (directory / "descriptor.sig").read_bytes())
        except FileNotFoundError as error:
            raise RequestError(
                Slug.CONFLICT,
                "A signature is needed by now, and the image was staged without one: cancel and "
                "stage it again.",
            ) from error
        except UntrustedError as error:
            raise RequestError(
                Slug.CONFLICT, f"The descriptor is not trusted any more: {error}"
            ) from error
        log.info("the descriptor that was kept is signed by the key %s", name)
        return name

    def signatures(self, directory: Path) -> bytes:
        """Return the signatures kept beside a descriptor; empty for none. Raises `OSError`."""
        try:
            return read_file(directory / "descriptor.sig", SIGNATURES_LIMIT)
        except FileNotFoundError:
            return b""

    def _needs_signature(self, request: StageRequest) -> bool:
        return (
            self._require_signature
            or request.signature is not None
            or request.descriptor_sha256 is None
        )

    def summary(self, found: Obtained) -> ImageSummary:
        """Return the summary of a descriptor. Raises `RecordError`."""
        image = Descriptor.parse(found.data)
        partitions = image.partition_table.partitions if image.partition_table else []
        root = next(
            (partition for partition in partitions if partition.number == image.root_partition),
            None,
        )
        facts = image.model_dump_json()
        judged = judge(ImageQuestion(image=json.loads(facts)))
        system = image.system
        return ImageSummary(
            name=image.name,
            image_version=image.image_version,
            descriptor_sha256=found.sha256,
            size_bytes=image.size_bytes,
            mapped_bytes=image.mapped_bytes,
            content_bytes=image.content.size_bytes,
            encoding=image.content.encoding,
            boot_modes=list(image.boot_modes),
            root_partition=image.root_partition,
            root_file_system=image.root_file_system,
            root_volume=image.root.volume if image.root else None,
            root_is_last=root is not None
            and all(partition.start_bytes <= root.start_bytes for partition in partitions),
            root_is_mounted=judged.carried_root is not None,
            root_free_bytes=image.root.free_bytes if image.root else None,
            signed_by=found.signed_by,
            inspected=image.inspected,
            architecture=image.architecture,
            sector_bytes=image.sector_bytes,
            system=system.name if system else None,
            kernels=system.kernels if system else [],
            holdfast=system.holdfast if system else None,
            cloud_init=system.cloud_init if system else None,
            selinux=system.selinux if system else None,
        ).with_facts(facts)

    def file_systems(self, directory: Path) -> list[str]:
        """Return the UUIDs of file systems that a system of a staged image can run from.

        None where its descriptor is not there any more, or cannot be read.
        """
        image = _kept(directory)
        if image is None:
            return []
        partitions = image.partition_table.partitions if image.partition_table else []
        # A root on a logical volume is no partition's.
        found = {image.root.uuid} if image.root is not None else set()
        found |= {
            partition.uuid
            for partition in partitions
            if partition.file_system not in (None, "vfat", "swap")
        }
        return sorted(staged for staged in found if staged is not None)

    def root_partition_uuid(self, directory: Path) -> str | None:
        """Return what `PARTUUID=` names of the root of a staged image; None as above."""
        image = _kept(directory)
        if image is None or image.partition_table is None:
            return None
        parts = image.partition_table.partitions
        found = (part.part_uuid for part in parts if part.number == image.root_partition)
        return next(found, None)

    def content_url(self, request: StageRequest, found: Obtained) -> str:
        """Return where the image is: where the request names it, or beside its descriptor.

        Raises `RequestError` if `reimage.sources` does not have it.
        """
        url = request.content or beside(
            request.descriptor, Descriptor.parse(found.data).content.file
        )
        if found.own and url.startswith("file://"):
            return url
        try:
            self._allowed.check(url)
        except SourceError as error:
            raise RequestError(error.slug, error.detail, "content") from error
        return url

    def fetch(
        self,
        url: str,
        found: Obtained,
        directory: Path,
        progress: Progress,
        *,
        mirrors: Sequence[str] = (),
        received: Received | None = None,
    ) -> Path:
        """Download an image and its descriptor to `directory`, prove it, and return its path.

        Peers are asked first, unless it is the old system of this machine; `mirrors` are other
        places of it. Resumes where an earlier call stopped. Raises `OperationFailed`,
        `CancelledError`, `OSError`.
        """
        path = self.keep_descriptor(found, directory)
        return fetching.fetch(
            url,
            directory,
            content=Descriptor.parse(found.data).content,
            descriptor=path,
            descriptor_sha256=found.sha256,
            reach=self._reach,
            progress=progress,
            mirrors=mirrors,
            access=None if found.own else self._peers,
            sharing=self._sharing,
            received=received,
        )

    def keep_descriptor(self, found: Obtained, directory: Path) -> Path:
        """Write `<directory>/descriptor.json`, and signatures beside it. Raises `OSError`."""
        make_directory(directory)
        path, signatures = directory / "descriptor.json", directory / "descriptor.sig"
        space.check(directory, len(found.data))
        replace_file(path, found.data, 0o600)
        if found.signatures is None:
            signatures.unlink(missing_ok=True)
        else:
            replace_file(signatures, found.signatures, 0o600)
        return path

    def present_bytes(self, directory: Path) -> int:
        """Return how many bytes of an image are in its directory already. Raises `OSError`."""
        return present_bytes(directory)


def _kept(directory: Path) -> Descriptor | None:
    """Return the descriptor that was kept with an image; None where it cannot be read."""
    try:
        return Descriptor.parse((directory / "descriptor.json").read_bytes())
    except (OSError, RecordError):
        return None
