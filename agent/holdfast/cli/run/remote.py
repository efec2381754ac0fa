"""The backend of commands that speak to a daemon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from holdfast.cli.registration.arguments import segment
from holdfast.cli.run.backend import Document
from holdfast.cli.run.client import SECONDS, Api
from holdfast.cli.run.runs import RemoteRun, Run
from holdfast.operations.ids import new_id

if TYPE_CHECKING:
    from holdfast.pagecache.residency import GroupBy

_LONG_SECONDS = 600.0
"""For requests that make the daemon read every file, or a record of a million files."""
_TUNING_SECONDS = 60.0
_STARTS = {
    "manifest.build": "/v1/manifests",
    "manifest.compare": "/v1/manifests/comparisons",
    "manifest.verify": "/v1/manifests/{manifest}/verifications",
    "memory.restore": "/v1/memory/restores",
    "memory.save": "/v1/memory/saves",
    "pagecache.dump": "/v1/pagecache/dumps",
    "pagecache.evict": "/v1/pagecache/evictions",
    "pagecache.load": "/v1/pagecache/loads",
    "transfer.pull": "/v1/transfers",
    "transfer.repair": "/v1/transfers/repairs",
}
"""Where operations are started; a member of the body named in the path is not sent with it."""


class RemoteRecords:
    """The records that a daemon has below `path`."""

    def __init__(self, api: Api, path: str, *, seconds: float = SECONDS) -> None:
        self._api = api
        self._path = path
        self._seconds = seconds

    def list(self) -> Document:
        """Return the list of the stored records, newest first."""
        answer: Document = self._api.get(self._path, seconds=self._seconds)
        return answer

    def show(self, record: str) -> Document:
        """Describe a record."""
        answer: Document = self._api.get(self._of(record), seconds=self._seconds)
        return answer

    def delete(self, record: str) -> None:
        """Delete a record."""
        self._api.delete(self._of(record))

    def content(self, record: str, form: str) -> Iterator[bytes]:
        """Yield the bytes of a record."""
        path = f"{self._of(record)}/content"
        with self._api.stream(path, accept="*/*", seconds=self._seconds, format=form) as response:
            yield from response.pieces()

    def store(self, chunks: Iterator[bytes]) -> Document:
        """Upload a record made elsewhere."""
        path = f"{self._path}/{new_id()}/content"
        answer: Document = self._api.put_stream(path, chunks)
        return answer

    def _of(self, record: str) -> str:
        return f"{self._path}/{segment(record)}"


class RemoteProfiles:
    """A daemon's tuning."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def state(self) -> Document:
        """Describe what is applied and what has drifted from it."""
        answer: Document = self._api.get("/v1/tuning", seconds=_TUNING_SECONDS)
        return answer

    def plan(self, body: Mapping[str, Any]) -> Document:
        """Describe what applying a profile would change."""
        answer: Document = self._api.post("/v1/tuning/plan", dict(body))
        return answer

    def list(self) -> Document:
        """Return the list of the profiles."""
        answer: Document = self._api.get("/v1/tuning/profiles", seconds=_TUNING_SECONDS)
        return answer

    def show(self, name: str) -> Document:
        """Describe a profile."""
        path = f"/v1/tuning/profiles/{segment(name)}"
        answer: Document = self._api.get(path, seconds=_TUNING_SECONDS)
        return answer

    def change(self, kind: str, body: Mapping[str, Any]) -> Run | Document:
        """Start a change; the answer is the result itself unless it takes long."""
        answer: Document = self._api.post(f"/v1/tuning/{kind.partition('.')[2]}", dict(body))
        return RemoteRun(self._api, answer) if "state" in answer else answer


class RemoteBackend:
    """What a daemon does."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.dumps = RemoteRecords(api, "/v1/pagecache/dumps")
        self.manifests = RemoteRecords(api, "/v1/manifests", seconds=_LONG_SECONDS)
        self.profiles = RemoteProfiles(api)

    def residency(
        self, *, path: str | None, depth: int, top: int, by: GroupBy | None = None
    ) -> Document:
        """Describe what is in memory."""
        answer: Document = self._api.get(
            "/v1/pagecache", seconds=_LONG_SECONDS, path=path, depth=depth, top=top, by=by
        )
        return answer

    def report(self, operation: str) -> Iterator[bytes]:
        """Yield the lines of a report."""
        path = f"/v1/manifests/reports/{segment(operation)}"
        return self._api.lines(path, accept="application/jsonl", seconds=_LONG_SECONDS)

    def running(self, kind: str) -> str | None:
        """Return the id of a running operation of this kind."""
        answer = self._api.get("/v1/operations", kind=kind, state="running", limit=1)
        return answer["operations"][0]["id"] if answer["operations"] else None

    def start(self, kind: str, body: Mapping[str, Any]) -> RemoteRun:
        """Start an operation."""
        path = _STARTS[kind]
        named = {key for key in body if f"{{{key}}}" in path}
        path = path.format_map({key: segment(body[key]) for key in named})
        sent = {key: value for key, value in body.items() if key not in named}
        return RemoteRun(self._api, self._api.post(path, sent))
