"""Nodes that are re-imaged as far as a daemon can see: a kill and a restart are the boots."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from holdfast.operations.idempotency import digest_of
from holdfast.operations.ids import new_id
from holdfast.operations.model import Operation, State, now
from holdfast.operations.store import Store
from holdfast.reimage.models import StageRequest
from tests.support.capabilities.reimage import BODY, IMAGE, SHA256, UNCONFIRMED
from tests.support.daemon.attempts import OLD_BOOT
from tests.support.daemon.harness import Daemon
from tests.support.daemon.recorded_helper import RecordedHelper, recorded_helper
from tests.support.waiting import until

IMAGE_ROOT = "6c3d1b2a-0000-4000-8000-00000000aaaa"
OLD = {"root_uuid": "old-root", "machine_id": "machine", "boot_id": OLD_BOOT}
End = Literal["confirmed", "failed"]
_ORDERED = r'^holdfast_http_requests_total\{code="2\d\d",method="POST",route="/v1/reimage/reboot"\}'


class BootedNode:
    """A real daemon with an image staged, whose reboot is a kill and a restart.

    Which system comes up is `end`. The helper, which would have root's rights, is recorded.
    """

    def __init__(
        self,
        directory: Path,
        helper: RecordedHelper,
        start_daemon: Callable[..., Daemon],
        *,
        down: float = 0.3,
        end: End = "confirmed",
        **settings: Any,
    ) -> None:
        self.helper = helper
        self.down = down
        self.end = end
        self.boots = 0
        self.state_dir = directory / "state"
        self.state_dir.mkdir(mode=0o700)
        self.daemon: Daemon | None = None
        self._directory = directory
        self._start = start_daemon
        self._settings = settings
        self._settled = threading.Event()
        self._settled.set()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        helper.on["reboot"] = self._ordered

    def stage(self, key: str | None = None, **body: Any) -> str:
        """Have the daemon find an image staged under a caller's key; return the operation."""
        if self.daemon is not None:
            self.settle()
            assert self.daemon.stop() == 0
        request = StageRequest.model_validate(BODY | {"identity": []} | body)
        operation = Operation(
            id=new_id(),
            kind="reimage",
            state=State.QUEUED,
            actor="test",
            created_at=now(),
            params=request.model_dump(mode="json"),
        )
        store = Store(self.state_dir)
        digest = None if key is None else digest_of("reimage", request)
        store.insert(operation, None if key is None else f"{key}.stage", digest)
        assert store.begin(operation.id, now())
        store.close()
        self._write(
            UNCONFIRMED
            | {
                "operation": operation.id,
                "request": request.model_dump(mode="json"),
                "state": "staged",
                "image": IMAGE,
                "reason": None,
                "checks": [],
                "armed": None,
                "boot_id": None,
                "booted_at": None,
                "image_file_systems": [IMAGE_ROOT],
            }
        )
        (self.state_dir / "images" / SHA256).mkdir(parents=True, exist_ok=True)
        if self.daemon is not None:
            self.daemon.restart()
        return operation.id

    def start(self) -> Daemon:
        """Start the daemon."""
        self.daemon = self._start(
            state_dir=str(self.state_dir),
            helper=str(self._directory / "helper"),
            **self._settings,
        )
        return self.daemon

    @property
    def socket(self) -> Path:
        """The daemon's."""
        assert self.daemon is not None
        return self.daemon.socket

    @property
    def state(self) -> str:
        """How far it is, as its daemon answers."""
        assert self.daemon is not None
        state: str = self.daemon.http.get("/v1/reimage").json()["state"]
        return state

    def leave(self, seconds: float) -> None:
        """Kill the daemon now, and start it again after that long, in the same boot."""
        self._settled.clear()
        self._in_thread(lambda: self._away(seconds))

    def settle(self) -> None:
        """Wait for a boot that is under way, or an absence."""
        assert self._settled.wait(60)

    def close(self) -> None:
        """End the daemon, and the threads that started it, with which it would end too."""
        self.settle()
        if self.daemon is not None:
            self.daemon.stop()
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def before_down(self) -> None:
        """Be called before the old system ends; here nothing is done then."""

    def come_up(self, job: dict[str, Any]) -> None:
        """Leave what both boots leave: another boot id, and signs of the system that runs."""
        self._write(job | {"boot_id": OLD_BOOT, "old_system": OLD})
        system = OLD if self.end == "failed" else OLD | {"root_uuid": IMAGE_ROOT}
        self.helper.answers["boot_outcome"] = {
            "outcome": {
                "record": None,
                "armed": False,
                "entry": False,
                "entry_nonces": [job["nonce"]] if self.end == "failed" else [],
                "system": system | {"boot_id": "another"},
            }
        }

    @property
    def job(self) -> dict[str, Any]:
        """The attempt as stored on the disk; empty if there never was one."""
        if not self._file.exists():
            return {}
        job: dict[str, Any] = json.loads(self._file.read_text())
        return job

    @property
    def _file(self) -> Path:
        return self.state_dir / "reimage" / "job.json"

    def _write(self, job: dict[str, Any]) -> None:
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        self._file.write_text(json.dumps(job))

    def _ordered(self) -> None:
        if not self.helper.asked[-1].get("dry_run"):
            self._settled.clear()
            self._in_thread(self._boot)

    def _in_thread(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                self._settled.set()
            # A daemon ends with the thread that started it.
            self._closed.wait()

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def _boot(self) -> None:
        until(
            lambda: self.job["state"] == "rebooting",
            seconds=30,
            what="the order to reboot on the disk",
        )
        # Whether an answer that was lost is recognised is for others to test.
        until(self._answered, seconds=30, what="the answer to the order to reboot")
        assert self.daemon is not None
        self.before_down()
        self.daemon.kill()
        self.boots += 1
        time.sleep(self.down)
        self.come_up(self.job)
        self.daemon.restart()

    def _answered(self) -> bool:
        assert self.daemon is not None
        found = re.search(_ORDERED, self.daemon.http.get("/metrics").text, re.MULTILINE)
        return found is not None

    def _away(self, seconds: float) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        time.sleep(seconds)
        self.daemon.restart()


N = TypeVar("N", bound=BootedNode)


@contextmanager
def nodes_of(
    directory: Path,
    start_daemon: Callable[..., Daemon],
    kind: Callable[..., N],
) -> Iterator[Callable[..., N]]:
    """Give a function that makes a node of a class; its daemon is not started."""
    made: list[N] = []
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> N:
            place = directory / name
            place.mkdir()
            helper = stack.enter_context(recorded_helper(place / "helper"))
            made.append(kind(place, helper, start_daemon, **options))
            return made[-1]

        try:
            yield make
        finally:
            for node in made:
                node.close()


@contextmanager
def booted_nodes(
    directory: Path, start_daemon: Callable[..., Daemon]
) -> Iterator[Callable[..., BootedNode]]:
    """Give a function that makes a node; its daemon is not started."""
    with nodes_of(directory, start_daemon, BootedNode) as make:
        yield make
