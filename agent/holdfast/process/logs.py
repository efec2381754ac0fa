"""How the daemon reports to its operator: log lines, and notifications to systemd."""

from __future__ import annotations

import logging
import os
import socket
import sys

from holdfast.process import trace

# syslog(3) priorities, which the journal takes from the start of a line.
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)


class _TraceFormatter(logging.Formatter):
    """Lines that end with the trace that the work belongs to, if it does to one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the library
        found = trace.trace_id()
        line = super().formatMessage(record)
        return line if found is None else f"{line} [trace {found}]"


class _JournalFormatter(_TraceFormatter):
    """Lines for the journal, which adds the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        # Every line of a traceback needs the priority, or it would be one of its own.
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def configure(level: str) -> None:
    """Log to standard error: for the journal if that is the journal, else with the time."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        formatter = _TraceFormatter(
            "%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What these log at lower levels, the daemon logs itself. The server warns of each request that
    # is not HTTP, and strangers can send any number of them.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def notify(message: str) -> None:
    """Send `READY=1`, `STOPPING=1` and the like to systemd, if it asked for notifications."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(message.encode(), address)
    except OSError as error:
        logging.getLogger(__name__).warning("systemd was not notified of %s: %s", message, error)


def watchdog_seconds() -> float | None:
    """Return how often systemd wants `WATCHDOG=1`: half of its limit; None if it does not.

    As in sd_watchdog_enabled(3).
    """
    limit = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 2e6 if limit.isdigit() and int(limit) > 0 else None
