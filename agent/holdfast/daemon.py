"""The daemon: puts the parts together, runs them until a signal, and takes them apart in order.

Start: settings are compared with the machine, the state directory is made and locked, operations
that the last process left are settled, and only then does anything listen. Stop: nothing new is
accepted, running work is cancelled and recorded, open answers get a moment to finish. All of that
takes less than `STOP_SECONDS`, whatever the work and the clients do.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from holdfast import __version__, space
from holdfast.api.http.callers.audit import AuditLog
from holdfast.api.http.callers.tokens import TokenError, list_tokens
from holdfast.api.http.transport.tls import ListenError
from holdfast.api.server import HttpServer
from holdfast.api.services import Services
from holdfast.capabilities import capabilities_of
from holdfast.config import Settings, StateDirError
from holdfast.config.exposure import state_dir_exposed
from holdfast.config.journaldir import journal_dir_of
from holdfast.config.load import check_machine
from holdfast.config.state_volume import believing, lacking, open_state, open_store
from holdfast.config.statedir import StateDir
from holdfast.left_out import LeftOut
from holdfast.manifests.verification import Verifications
from holdfast.metrics import Metrics
from holdfast.node.instance_metadata import InstanceWatch, address_of
from holdfast.node.node_id import NodeIdError, read_node_id
from holdfast.node.service import Node, Place
from holdfast.operations.kinds import Registry
from holdfast.operations.model import Conflict, OperationFailed, RequestError
from holdfast.operations.service import Operations
from holdfast.pagecache.service import PageCache
from holdfast.privileged import privileged
from holdfast.process import logs, slow_callbacks
from holdfast.process.descriptors import raise_limit
from holdfast.process.readiness import STALE_SECONDS, Readiness
from holdfast.process.watchdog import Watchdog
from holdfast.reimage.after_boot.checks import PostBootChecks
from holdfast.reimage.gates.stable import Gates
from holdfast.reimage.imager_status import imager_status
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.settings import access_of
from holdfast.reimage.images.sharing import ImageSharing
from holdfast.reimage.interlock.settings import fleet_lock_of, rules_of
from holdfast.reimage.policy import policy_of
from holdfast.reimage.service import Reimage
from holdfast.telemetry.spans import spans_of
from holdfast.tuning.models import ApplyRequest
from holdfast.tuning.service import Tuning
from holdfast.tuning.watch.watcher import Watcher

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""From the signal to the end of the process, at most."""
_WORK_SECONDS = 2.5
_ANSWER_SECONDS = 0.5
_THREAD_SECONDS = 0.3
_BLOCKING_THREADS = 16
_COLLECT_AFTER = (700, 10, 10)
"""Python's own thresholds of garbage collection, which the command line raises for the start."""

OK, FAILED, USAGE = 0, 1, 2

OnReady = Callable[[Sequence[str]], None]
"""Called once with the addresses, such as `unix:/run/…` and `http://127.0.0.1:9918`."""


def serve(settings: Settings, *, on_ready: OnReady | None = None) -> int:
    """Run the daemon in this process until SIGTERM or SIGINT; return the exit code.

    0 after a signal, 1 when it could not start, 2 when the settings do not fit the machine.
    Ends the process itself if work that cannot be interrupted would keep it past `STOP_SECONDS`.
    """
    logs.configure(settings.log_level)
    faulthandler.enable()
    raise_limit()
    try:
        if not _settings_fit(settings):
            return USAGE
        with contextlib.ExitStack() as stack:
            code = _serve(settings, stack, on_ready)
    except (StateDirError, ListenError, RequestError) as error:
        log.critical("%s", error)
        code = FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        log.critical("holdfast cannot start: %s%s.", where, error.strerror or error)
        code = FAILED
    _end_with_threads(code)
    return code


def _settings_fit(settings: Settings) -> bool:
    """Report what is wrong with the settings on this machine; return whether to start anyway."""
    findings = check_machine(settings)
    exposed = state_dir_exposed(settings)
    if exposed is not None:
        log.warning("%s", exposed)
    for finding in findings:
        log.log(
            logging.CRITICAL if finding.level == "error" else logging.WARNING, "%s", finding.message
        )
    if any(finding.level == "error" for finding in findings):
        return False
    if settings.listens_beyond_loopback:
        try:
            tokens = list_tokens(settings.tokens_file)
        except TokenError as error:
            log.critical("%s", error)
            return False
        if not any(not token.expired() for token in tokens):
            log.critical(
                "`listen` = %r reaches beyond this machine, which needs tokens, and %s has none "
                "that is valid; make one with `holdfast token create`, or listen on 127.0.0.1.",
                settings.listen,
                settings.tokens_file,
            )
            return False
    return True


def _serve(settings: Settings, stack: contextlib.ExitStack, on_ready: OnReady | None) -> int:
    space.keep_free(settings.data.free_space_floor)
    state = open_state(settings)
    stack.callback(state.release)
    store, no_room = open_store(settings, state, stack)
    left_out = LeftOut()
    made = capabilities_of(settings, state.path, left_out)
    pagecache, manifests, tuning = made.pagecache, made.manifests, made.tuning
    transfer, memory = made.transfer, made.memory

    def degraded() -> Sequence[str]:
        return [*lacking(settings, state), *no_room]

    readiness = Readiness(degraded)
    observed = threading.Event()
    readiness.refresh(observed.set)
    observed.wait(STALE_SECONDS)

    def notes() -> Sequence[str]:
        exposed = state_dir_exposed(settings)
        return [] if exposed is None else [exposed]

    node = Node(roots=settings.roots, place=_place(settings, state))
    instance = InstanceWatch(address_of(settings.node.metadata), node.learn)
    instance.start()
    stack.callback(instance.stop)
    spans = spans_of(settings, node.info())
    stack.callback(spans.stop, _ANSWER_SECONDS)
    sharing = ImageSharing(enabled=settings.reimage.serve_images, here=node.here)
    audit = AuditLog(state.path)
    proof = Verifications(manifests)
    reimage = Reimage(
        roots=settings.roots,
        state_dir=state.path,
        privileged=privileged(
            settings.helper,
            settings.reimage.imager,
            lambda: policy_of(settings),
            settings.tuning.journal_dir or journal_dir_of(state.path, settings.helper),
        ),
        imager=settings.reimage.imager,
        ca_file=settings.reimage.ca_file,
        images=ImageLibrary(
            settings.roots,
            state.path,
            settings.reimage.ca_file,
            trusted_keys=settings.reimage.trusted_keys_dir,
            require_signature=settings.reimage.require_signature,
            sources=settings.reimage.sources,
            peers=access_of(settings),
            sharing=sharing,
        ),
        examiner=PostBootChecks(
            roots=settings.roots,
            proof=proof,
            command=settings.reimage.check_command,
            command_seconds=settings.reimage.check_seconds,
            gates=Gates(settings.reimage.confirm_when, settings.reimage.ca_file),
        ),
        status_server=imager_status(settings),
        degraded=degraded,
        notes=notes,
        allow_kexec=settings.reimage.allow_kexec,
        require_lifeboat=settings.reimage.require_lifeboat,
        lock=fleet_lock_of(settings, node.place),
        rules=rules_of(settings, node.place),
        record=audit.record_event,
    )
    sharing.offered = reimage.offered
    registry = Registry()
    for capability in (pagecache, manifests, tuning, reimage, transfer, memory):
        capability.prepare()
        for kind in capability.kinds():
            registry.register(believing(state, kind))
    operations = Operations(
        store,
        registry,
        max_running=settings.operations.max_running,
        keep=settings.operations.keep,
        keep_days=settings.operations.keep_days,
        spans=spans,
    )
    proof.operations = operations
    services = Services(
        settings=settings,
        state_dir=state.path,
        operations=operations,
        pagecache=pagecache,
        manifests=manifests,
        tuning=tuning,
        reimage=reimage,
        node=node,
        transfer=transfer,
        memory=memory,
        metrics=Metrics(
            operations,
            residency=lambda: _resident_bytes(pagecache),
            verified=manifests.verified,
            left_out=left_out.figures,
            tuning=tuning.figures,
            degraded=readiness.reasons,
            observed_age=readiness.age,
            reimage=reimage.figures,
            transfer=transfer.figures,
            memory=memory.figures,
            space=space.SpaceFigures(state.path).latest,
            node=node.info,
            interlock=reimage.interlock_figures,
            images=sharing.figures,
            spans=spans.figures,
        ),
        audit=audit,
        spans=spans,
        sharing=sharing,
        degraded=readiness.reasons,
        refresh=readiness.refresh,
        notes=notes(),
    )
    operations.recover()
    stack.callback(operations.shutdown, _WORK_SECONDS)
    transfer.listen()
    stack.callback(transfer.close)
    _start_tuning(tuning, operations, settings)
    watcher = Watcher(tuning.watch, settings.tuning.check_seconds)
    watcher.start()
    stack.callback(watcher.stop, _ANSWER_SECONDS)
    reimage.start()
    stack.callback(reimage.stop, _ANSWER_SECONDS)
    rollback = reimage.watch(operations)
    rollback.start()
    stack.callback(rollback.stop, _ANSWER_SECONDS)
    return _run_loop(_Daemon(services, on_ready).run())


def _place(settings: Settings, state: StateDir) -> Place:
    """Return where this node belongs; without its data it has no id."""
    node_id = None
    try:
        node_id = None if state.degraded else read_node_id(state.path)
    except NodeIdError as error:
        log.error("%s", error)
    return Place(node_id, settings.node.cluster, settings.node.group, settings.node.labels)


def _start_tuning(tuning: Tuning, operations: Operations, settings: Settings) -> None:
    """Apply what a boot took back, or the profile that the settings name for a new node."""
    try:
        request = tuning.unfinished_boot() if settings.tuning.reapply else None
        if request is None and settings.tuning.profile and tuning.untouched():
            request = ApplyRequest(profile=settings.tuning.profile)
        if request is not None:
            operations.start("tuning.apply", request, actor="start")
    except (RequestError, OperationFailed, Conflict, OSError) as error:
        tuning.not_started(str(error))


def _resident_bytes(pagecache: PageCache) -> Mapping[str, int]:
    reports = pagecache.state(path=None, depth=0, top=0).reports
    return {report.root: report.total.resident for report in reports}


class _Daemon:
    """The part that lives in the event loop."""

    def __init__(self, services: Services, on_ready: OnReady | None) -> None:
        self._services = services
        self._on_ready = on_ready
        self._stop = asyncio.Event()
        self._signal: signal.Signals | None = None

    async def run(self) -> int:
        """Listen until a signal comes, then stop."""
        loop = asyncio.get_running_loop()
        server = HttpServer(self._services)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        if sys.stdin is not None and sys.stdin.isatty():
            # The terminal is gone, and with it the user who started this.
            loop.add_signal_handler(signal.SIGHUP, self._signalled, signal.SIGHUP)
        else:
            loop.add_signal_handler(signal.SIGHUP, server.reload)
        watchdog = Watchdog.start(loop)
        try:
            await server.start()
            self._announce(server)
            await self._stop.wait()
            stopping = time.monotonic()
            log.info("%s: stopping", self._signal.name if self._signal else "stop")
            logs.notify("STOPPING=1")
            # Streams hear how their operation ended before they are closed.
            await self._stop_work(loop)
        finally:
            await server.stop(_ANSWER_SECONDS)
            if watchdog is not None:
                watchdog.stop()
        log.info("stopped after %.1f s", time.monotonic() - stopping)
        return OK

    async def _stop_work(self, loop: asyncio.AbstractEventLoop) -> None:
        # In a thread of its own: those for requests may all be busy.
        with ThreadPoolExecutor(1, thread_name_prefix="stop") as executor:
            shutdown = self._services.operations.shutdown
            await loop.run_in_executor(executor, shutdown, _WORK_SECONDS)

    def _announce(self, server: HttpServer) -> None:
        for reason in self._services.degraded():
            log.warning("degraded: %s", reason)
        log.info(
            "holdfast %s is ready: roots %s, state in %s",
            __version__,
            ", ".join(map(str, self._services.settings.roots)),
            self._services.state_dir,
        )
        # What was made up to now stays: it need not be inspected by each collection.
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        slow_callbacks.install()
        logs.notify("READY=1")
        if self._on_ready is not None:
            self._on_ready(server.addresses)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            log.info("%s: already stopping", number.name)
        self._signal = number
        self._stop.set()


def _run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine. Unlike `asyncio.run`, never waits for threads that are still at work."""
    loop = asyncio.new_event_loop()
    executor = ThreadPoolExecutor(_BLOCKING_THREADS, thread_name_prefix="blocking")
    loop.set_default_executor(executor)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            # One that waits for a thread may not end: the process does without it.
            loop.run_until_complete(asyncio.wait(tasks, timeout=_THREAD_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        executor.shutdown(wait=False, cancel_futures=True)
        asyncio.set_event_loop(None)
        loop.close()


def _end_with_threads(code: int) -> None:
    """End the process if a thread is left that cannot be ended.

    Everything is recorded by now. Such a thread is inside a system call or the engine, and the
    interpreter would wait for it.
    """
    deadline = time.monotonic() + _THREAD_SECONDS
    # Threads of the engine that called back have an entry as well; the engine ends its own.
    others = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
        and not isinstance(thread, threading._DummyThread)
    ]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in others if thread.is_alive()]
    if left:
        log.warning("left behind at the end: %s", ", ".join(left))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
