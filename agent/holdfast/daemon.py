"""The daemon: puts the parts together, has `main_loop.py` run them, and takes them apart in order.

Start: settings are compared with the machine, the state directory is made and locked, operations
that the last process left are settled, and only then does anything listen. Stop: nothing new is
accepted, running work is cancelled and recorded, open answers get a moment to finish. All of that
takes less than 5 seconds, whatever the work and the clients do. The capabilities are in the table
of `capabilities.py`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import threading
from collections.abc import Callable, Sequence

from prometheus_client.registry import Collector

from holdfast.api.http.callers.audit import AuditLog
from holdfast.api.http.callers.tokens import TokenError, list_tokens
from holdfast.api.http.transport.tls import ListenError
from holdfast.api.services import Services
from holdfast.capabilities import make_capabilities
from holdfast.capability import STOP_SECONDS, Surroundings
from holdfast.config import Settings, StateDirError
from holdfast.config.exposure import state_dir_exposed
from holdfast.config.load import check_machine
from holdfast.config.state_volume import believing, lacking, open_state, open_store
from holdfast.config.statedir import StateDir
from holdfast.main_loop import WORK_SECONDS, OnReady, end_with_threads, run_until_signal
from holdfast.metrics import Metrics
from holdfast.metrics.collectors import (
    LeftOutCollector,
    NodeCollector,
    SpaceCollector,
    SpanCollector,
)
from holdfast.node.instance_metadata import InstanceWatch, address_of
from holdfast.node.node_id import NodeIdError, read_node_id
from holdfast.node.service import Node, Place
from holdfast.operations.kinds import Registry
from holdfast.operations.model import RequestError
from holdfast.operations.service import Operations
from holdfast.process import logs
from holdfast.process.descriptors import raise_limit
from holdfast.process.readiness import STALE_SECONDS, Readiness
from holdfast.storage import space
from holdfast.storage.left_out import LeftOut
from holdfast.telemetry.spans import spans_of

log = logging.getLogger(__name__)

OK, FAILED, USAGE = 0, 1, 2


def serve(settings: Settings, *, on_ready: OnReady | None = None) -> int:
    """Run the daemon in this process until SIGTERM or SIGINT; return the exit code.

    0 after a signal, 1 when it could not start, 2 when the settings do not fit the machine.
    Ends the process itself if work that cannot be interrupted would keep it longer than 5 seconds.
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
    end_with_threads(code)
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

    def degraded() -> Sequence[str]:
        return [*lacking(settings, state), *no_room]

    def notes() -> Sequence[str]:
        exposed = state_dir_exposed(settings)
        return [] if exposed is None else [exposed]

    readiness = _observed(degraded)
    node = Node(roots=settings.roots, place=_place(settings, state))
    instance = InstanceWatch(address_of(settings.node.metadata), node.learn)
    instance.start()
    stack.callback(instance.stop)
    spans = spans_of(settings, node.info())
    stack.callback(spans.stop, STOP_SECONDS)
    audit = AuditLog(state.path)
    left_out = LeftOut()
    operations = Operations(
        store,
        Registry(),
        max_running=settings.operations.max_running,
        keep=settings.operations.keep,
        keep_days=settings.operations.keep_days,
        spans=spans,
    )
    capabilities = make_capabilities(
        Surroundings(
            settings=settings,
            state_dir=state.path,
            node=node,
            operations=operations,
            left_out=left_out,
            degraded=degraded,
            notes=notes,
            record=audit.record_event,
        )
    )
    collectors: list[Collector] = [
        LeftOutCollector(left_out.figures),
        SpanCollector(spans.figures),
        NodeCollector(node.info),
        SpaceCollector(space.SpaceFigures(state.path).latest),
    ]
    for capability in capabilities:
        capability.prepare()
        for kind in capability.kinds():
            operations.registry.register(believing(state, kind))
        collectors += capability.collectors(operations)
    services = Services(
        settings=settings,
        state_dir=state.path,
        operations=operations,
        capabilities=capabilities,
        node=node,
        metrics=Metrics(
            operations,
            collectors=collectors,
            degraded=readiness.reasons,
            observed_age=readiness.age,
        ),
        audit=audit,
        spans=spans,
        degraded=readiness.reasons,
        refresh=readiness.refresh,
        notes=notes(),
    )
    operations.recover()
    stack.callback(operations.shutdown, WORK_SECONDS)
    for capability in capabilities:
        stack.enter_context(capability.running(operations))
    return run_until_signal(services, on_ready)


def _observed(degraded: Callable[[], Sequence[str]]) -> Readiness:
    """Return the readiness of this daemon, observed once unless storage does not answer."""
    readiness = Readiness(degraded)
    observed = threading.Event()
    readiness.refresh(observed.set)
    observed.wait(STALE_SECONDS)
    return readiness


def _place(settings: Settings, state: StateDir) -> Place:
    """Return where this node belongs; without its data it has no id."""
    node_id = None
    try:
        node_id = None if state.degraded else read_node_id(state.path)
    except NodeIdError as error:
        log.error("%s", error)
    return Place(node_id, settings.node.cluster, settings.node.group, settings.node.labels)
