"""Records spans with the SDK of OpenTelemetry, and exports them by OTLP over HTTP.

The span of an operation is made when it ends, from its record: one span, however many lives of the
daemon and boots of the machine lie between. Its id follows from the operation's, so that what the
operation asks of others in the meantime can name it as its parent.

What is recorded goes into a bounded queue, of which a thread of the SDK's sends batches. Where the
collector is away, spans are lost and counted; nobody waits for it.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBasedTraceIdRatio
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from holdfast import __version__
from holdfast.config.sections import TelemetrySettings
from holdfast.operations.model import Operation, State
from holdfast.process import trace
from holdfast.telemetry.spans import Answered, RequestSpan, Spans

log = logging.getLogger(__name__)

QUEUED_SPANS = 2048
"""Spans that wait to be sent; the oldest are lost beyond that."""
BATCH_SPANS = 512
BATCH_SECONDS = 5.0
_SEND_SECONDS = 5.0
"""For a batch, with all that is tried again."""
_DETAIL_CHARACTERS = 1000
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BROKEN = (State.FAILED, State.INTERRUPTED)
_SERVER_ERROR = 500
_LIBRARY = "opentelemetry"


class OtlpSpans(Spans):
    """Spans for the collector that the settings name."""

    def __init__(self, settings: TelemetrySettings, node: Mapping[str, str]) -> None:
        """Raise `OSError` or `ValueError` for files of the settings that cannot be used."""
        self._ids = _Ids()
        self._sampler = ParentBasedTraceIdRatio(settings.sample)
        self._exporter = _CountedExporter(settings)
        self._processor = _CountedProcessor(self._exporter)
        self._provider = TracerProvider(
            sampler=self._sampler,
            resource=Resource.create(_resource(node)),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("holdfast", __version__)
        log.info("spans are exported to %s", self._exporter.url)

    def request(self) -> RequestSpan | None:
        """Begin the span of a request in the trace of this task."""
        parent = _remote(trace.current())
        span = self._tracer.start_span("request", parent, SpanKind.SERVER)
        return _Request(span) if span.get_span_context().is_valid else None

    def within(self, operation_id: str, traceparent: str | None) -> str | None:
        """Return the `traceparent` of what an operation asks of others."""
        trace_id, span_id = _ids_of(operation_id)
        if traceparent is not None:
            received = _received(traceparent)
            return _written(SpanContext(received.trace_id, span_id, False, received.trace_flags))
        sampled = (
            self._sampler.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        )
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return _written(SpanContext(trace_id, span_id, False, flags))

    def ended(self, operation: Operation) -> None:
        """Record an operation that came to its end. Never blocks, never raises."""
        try:
            self._record(operation)
        except Exception as error:
            log.warning("operation %s has no span: %s", operation.id, error)

    def _record(self, operation: Operation) -> None:
        with self._ids.chosen(_ids_of(operation.id)):
            span = self._tracer.start_span(
                operation.kind,
                _remote(operation.traceparent),
                attributes=_attributes(operation),
                start_time=_nanoseconds(operation.created_at),
            )
        if operation.started_at is not None:
            span.add_event("started", timestamp=_nanoseconds(operation.started_at))
        if operation.state in _BROKEN:
            detail = operation.error.detail if operation.error is not None else ""
            span.set_status(Status(StatusCode.ERROR, detail[:_DETAIL_CHARACTERS]))
        finished = operation.finished_at
        span.end(None if finished is None else _nanoseconds(finished))

    def figures(self) -> tuple[int, int]:
        """Return how many spans were exported, and how many were lost."""
        return self._exporter.exported, self._exporter.failed + self._processor.overflowed

    def stop(self, seconds: float) -> None:
        """Export what is there, within about `seconds`."""
        end = threading.Thread(target=self._provider.shutdown, name="spans-end", daemon=True)
        end.start()
        end.join(seconds)
        if end.is_alive():
            self._exporter.give_up()
            end.join(0.1)


class _Request(RequestSpan):
    def __init__(self, span: Span) -> None:
        self._span = span
        self.traceparent = _written(span.get_span_context())

    def end(self, answered: Answered) -> None:
        """Record it."""
        span = self._span
        method = answered.method if answered.method in _METHODS else "_OTHER"
        span.update_name(f"{method} {answered.route}")
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": answered.route,
                "url.path": answered.path,
                "http.response.status_code": answered.status,
                "network.transport": answered.transport,
                "client.address": answered.address,
                "holdfast.caller": answered.caller,
            }
        )
        if answered.operation is not None:
            span.set_attribute("holdfast.operation.id", answered.operation)
        if answered.status >= _SERVER_ERROR:
            span.set_attribute("error.type", str(answered.status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class _Ids(RandomIdGenerator):
    """Random ids, but for spans whose ids were known before."""

    def __init__(self) -> None:
        self._chosen: ContextVar[tuple[int, int] | None] = ContextVar("span-ids", default=None)

    @contextmanager
    def chosen(self, ids: tuple[int, int]) -> Iterator[None]:
        """Have the span that starts within the block get the id, and the trace's if it is new."""
        token = self._chosen.set(ids)
        try:
            yield
        finally:
            self._chosen.reset(token)

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        chosen = self._chosen.get()
        return super().generate_trace_id() if chosen is None else chosen[0]

    def generate_span_id(self) -> int:
        """Return the id of a new span."""
        chosen = self._chosen.get()
        return super().generate_span_id() if chosen is None else chosen[1]


class _CountedExporter(SpanExporter):
    """Sends batches, counts them, and reports once that the collector refuses or answers again."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self.url = settings.url
        self.exported = 0
        self.failed = 0
        self._failing = False
        self._heard = _Heard()
        session = requests.Session()
        # Proxies and passwords of the environment are not for this.
        session.trust_env = False
        self._sender = OTLPSpanExporter(
            endpoint=self.url,
            certificate_file=_authorities(settings.ca_file),
            headers=_headers(settings.headers_file),
            timeout=_SEND_SECONDS,
            compression=Compression.Gzip,
            session=session,
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        self._heard.reset()
        result = self._sender.export(spans)
        good = result is SpanExportResult.SUCCESS
        if good:
            self.exported += len(spans)
        else:
            self.failed += len(spans)
        if good is self._failing:
            self._failing = not good
            if good:
                log.info("spans are accepted again by %s", self.url)
            else:
                reason = (self._heard.first or "no reason is known").rstrip(".")
                log.warning("Spans are lost: %s does not accept them: %s.", self.url, reason)
        return result

    def give_up(self) -> None:
        """End what is tried again and again."""
        self._sender.shutdown()  # type: ignore[no-untyped-call]

    def shutdown(self) -> None:
        """Send nothing more."""
        self._sender.shutdown()  # type: ignore[no-untyped-call]
        self._heard.close()


class _CountedProcessor(BatchSpanProcessor):
    """The SDK's queue, which counts what it has no place for."""

    def __init__(self, exporter: _CountedExporter) -> None:
        super().__init__(
            exporter,
            max_queue_size=QUEUED_SPANS,
            schedule_delay_millis=BATCH_SECONDS * 1000,
            max_export_batch_size=BATCH_SPANS,
        )
        self._counted = exporter
        self._lock = threading.Lock()
        self._ended = 0
        self.overflowed = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that ended."""
        if span.context is not None and span.context.trace_flags.sampled:
            with self._lock:
                self._ended += 1
                sent = self._counted.exported + self._counted.failed
                # Those that are on their way are not in the queue any more.
                waiting = self._ended - self.overflowed - sent
                if waiting > QUEUED_SPANS + BATCH_SPANS:
                    self.overflowed += waiting - QUEUED_SPANS - BATCH_SPANS
        super().on_end(span)


class _Heard(logging.Handler):
    """What the library says of an export: kept for a sentence of ours, instead of one each time."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: str | None = None
        """Of a batch: what follows only says that it was given up."""
        self._library = logging.getLogger(_LIBRARY)
        self.addFilter(logging.Filter(f"{_LIBRARY}.exporter"))
        self._library.addHandler(self)
        self._library.propagate = False

    def reset(self) -> None:
        """Forget the batch before."""
        self.first = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.first = self.first or " ".join(record.getMessage().split())[:_DETAIL_CHARACTERS]

    def close(self) -> None:
        """Let the library report by itself."""
        self._library.removeHandler(self)
        self._library.propagate = True
        super().close()


def _resource(node: Mapping[str, str]) -> dict[str, str]:
    """Return what describes this node, by the names that OpenTelemetry has for it."""
    names = {
        "node_id": "service.instance.id",
        "cluster": "holdfast.cluster",
        "group": "holdfast.group",
    }
    found = {
        "service.name": "holdfast",
        "service.version": __version__,
        "host.name": socket.gethostname(),
    }
    for name, value in node.items():
        key = names.get(name)
        if name.startswith("label_"):
            key = f"holdfast.label.{name.removeprefix('label_')}"
        if key is not None and value:
            found[key] = value
    return found


def _attributes(operation: Operation) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "holdfast.operation.id": operation.id,
        "holdfast.operation.kind": operation.kind,
        "holdfast.operation.state": operation.state.value,
        "holdfast.operation.bytes": operation.progress.bytes_done,
        "holdfast.operation.files": operation.progress.files_done,
        "holdfast.caller": operation.actor,
    }
    if operation.outcome is not None:
        found["holdfast.operation.outcome"] = operation.outcome.value
    if operation.state in _BROKEN and operation.error is not None:
        found["error.type"] = operation.error.slug
    return found


def _ids_of(operation_id: str) -> tuple[int, int]:
    """Return the id of an operation's span, and that of its trace where it begins one."""
    digest = hashlib.sha256(f"holdfast operation {operation_id}".encode()).digest()
    return int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1


def _received(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))


def _written(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _remote(traceparent: str | None) -> Context:
    context = Context()
    if traceparent is None:
        return context
    return set_span_in_context(NonRecordingSpan(_received(traceparent)), context)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000) * 1_000_000


def _authorities(ca_file: Path | None) -> str | None:
    """Return where the authorities are that a collector's certificate may chain to.

    Those of the system, and not those that come with the library.
    """
    if ca_file is not None:
        with ca_file.open("rb"):
            return str(ca_file)
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath


def _headers(file: Path | None) -> dict[str, str]:
    """Read headers, one `Name: value` a line. Raises `ValueError` and `OSError`."""
    headers = {}
    for number, line in enumerate(file.read_text().splitlines() if file else (), 1):
        name, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if not colon or not name.strip():
            raise ValueError(f"{file}: line {number} is no header such as `Authorization: …`")
        headers[name.strip()] = value.strip()
    return headers
