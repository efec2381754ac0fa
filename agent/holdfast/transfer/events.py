"""What the source decides while a destination fetches: called from threads of the engine."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from pathlib import Path

from holdfast._engine import EngineError
from holdfast.engine.requests import encode
from holdfast.operations.ids import new_id
from holdfast.operations.model import RequestError, Slug
from holdfast.records.provenance import provenance
from holdfast.storage.roots import RootPath, Roots
from holdfast.storage.writers import FindWriters, open_for_writing
from holdfast.transfer.engine_requests import ManifestToMake
from holdfast.transfer.ids import from_wire
from holdfast.transfer.others import ManifestTarget, PageCacheTrees
from holdfast.transfer.store import TransferStore

log = logging.getLogger(__name__)

_MAX_DUMP = 64 << 20


class SourceEvents:
    """Answers the engine about offers, named by the ids that they have on the wire."""

    def __init__(
        self,
        store: TransferStore,
        *,
        places: Roots,
        manifests: ManifestTarget,
        page_cache: PageCacheTrees,
        writers: FindWriters,
    ) -> None:
        self._store = store
        self._places = places
        self._manifests = manifests
        self._page_cache = page_cache
        self._writers = writers
        self._lock = threading.Lock()
        self._being_made: dict[str, str] = {}
        """The id of the manifest that is being made for an offer."""

    def place(self, path: str) -> RootPath:
        """Find an offered directory. Raises `RequestError`."""
        return offered_place(self._places, path)

    def bind(self, offer: str, puller: str) -> bool:
        """Store who uses a ticket; the engine calls this before it answers."""
        try:
            stored = self._store.bind(from_wire(offer), puller)
        except OSError:
            log.exception("who uses the ticket of offer %s could not be stored", from_wire(offer))
            return False
        if stored:
            log.info("offer %s is used by destination %s", from_wire(offer), puller)
        return stored

    def writers(self, offer: str, overrule: bool) -> str | None:
        """Return why a transfer cannot be completed: files may be written to. None if it can."""
        offer_id = from_wire(offer)
        try:
            tree = Path(self._store.offer(offer_id).request.path)
            found = open_for_writing(tree, self._writers)
        except (OSError, ValueError, RequestError) as error:
            log.warning("offer %s: open files cannot be inspected: %s", offer_id, error)
            return None if overrule else f"the source cannot inspect open files: {error}"
        if not found.holders:
            return None
        log.warning(
            "offer %s is completed%s while files are open for writing: %s",
            offer_id,
            "" if overrule else " not",
            found.sentence,
        )
        if overrule:
            return None
        return (
            f"files of {tree} on the source are open for writing ({found.sentence}); stop what "
            "uses them, or overrule this with `even_if_open`"
        )

    def manifest(self, offer: str) -> str:
        """Return what the manifest of an offer is made from, and where it goes."""
        offer_id, record_id = from_wire(offer), new_id()
        with self._lock:
            self._being_made[offer_id] = record_id
        header = provenance(record_id) | {"transfer": offer_id}
        reserved = self._manifests.reserve(record_id, replace=False)
        manifest = ManifestToMake(
            destination=reserved.destination,
            journal=reserved.journal,
            max_bytes=reserved.max_bytes,
            header=header,
        )
        return encode(manifest)

    def completed(self, offer: str, outcome: str) -> bool:
        """Store which manifest was made when a destination has all of an offer."""
        offer_id = from_wire(offer)
        with self._lock:
            record_id = self._being_made.pop(offer_id)
        self._manifests.added(record_id)
        log.info("offer %s: its destination is complete, manifest %s", offer_id, record_id)
        return self._store.complete(offer_id, record_id, json.loads(outcome)["digest"])

    def page_cache(self, offer: str) -> bytes | None:
        """Record what is in memory of an offer; None where that cannot be done."""
        offer_id = from_wire(offer)
        place = self.place(self._store.offer(offer_id).request.path)
        try:
            with tempfile.TemporaryDirectory(dir=self._store.directory) as directory:
                record = Path(directory) / "dump.zst"
                self._page_cache.dump_tree(place.root / place.path, record)
                if record.stat().st_size <= _MAX_DUMP:
                    return record.read_bytes()
                log.warning("offer %s: the record of its page cache is too large", offer_id)
        except (OSError, ValueError, EngineError) as error:
            log.warning("offer %s: its page cache cannot be recorded: %s", offer_id, error)
        return None

    def record(self, offer: str) -> tuple[str, int] | None:
        """Return a manifest of an offer, if there is one, for destinations to be repaired by.

        That is the one of its completed transfer, or else the newest that was built of the same
        directory with the same patterns.
        """
        stored = self._store.offer(from_wire(offer))
        request = stored.request
        found = None if stored.manifest is None else self._manifests.file(stored.manifest)
        if found is None and request.files is None:
            place = self.place(request.path)
            found = self._manifests.built(place, request.include, request.exclude)
        return None if found is None else (str(found[0]), found[1])


def offered_place(places: Roots, path: str) -> RootPath:
    """Find a directory that is offered. Raises `RequestError`."""
    place = places.find(path, "path")
    if not (place.root / place.path).is_dir():
        raise RequestError(
            Slug.INVALID_REQUEST,
            f"{path} is a file; offer the directory that it is in, with `files`.",
            "path",
        )
    return place
