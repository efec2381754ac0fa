"""Why the daemon cannot be called: one sentence with what to do, and a check or two to find it."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from holdfast_client.errors import Unreachable
from holdfast_client.exchange import CONNECT_SECONDS

if TYPE_CHECKING:
    from holdfast.cli.run.client import Target

_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
"""OpenSSL's messages for a reply that is not TLS."""


def why_unusable(target: Target, error: Exception) -> str:
    """Say which of the options that name a daemon is wrong."""
    reason = getattr(error, "strerror", None) or error
    if not isinstance(error, OSError):
        return f"--url {target.url} is not a valid URL: {reason}"
    try:
        ssl.create_default_context(cafile=target.ca_file)
    except OSError:
        return f"--ca-file {target.ca_file} cannot be used: {reason}"
    return (
        f"--client-cert {target.client_cert} with --client-key "
        f"{target.client_key or target.client_cert} cannot be used: {reason}"
    )


def why_unreachable(target: Target, error: Unreachable) -> str:
    """Say why no answer came, and what to do."""
    if error.why == "silent":
        return f"the daemon at {target} did not answer in time; see its log"
    url = target.url
    if url is None:
        return _no_connection(target) if error.why == "no-connection" else _broken(target, error)
    if error.why == "no-connection":
        if _answered_plainly(error):
            return _with_scheme(url, "http")
        reason = error.reason
        if _cause(error, ssl.SSLCertVerificationError) is not None:
            reason += "; name the authority with --ca-file"
        return f"cannot connect to {url} ({reason}); is the daemon running and listening there?"
    if url.startswith("http:") and _speaks_tls(url):
        return _with_scheme(url, "https")
    return _broken(target, error)


def _broken(target: Target, error: Unreachable) -> str:
    certificate = ""
    if (target.url or "").startswith("https:") and target.client_cert is None:
        # A server that wants one only shows it by hanging up.
        certificate = "if it asks for a client certificate, give --client-cert; else "
    return (
        f"the connection to the daemon at {target} broke ({error.reason}); {certificate}check "
        "its log"
    )


def _no_connection(target: Target) -> str:
    path = target.socket
    start = f"start it with `holdfast serve`, or name its socket with --socket{target.way_out}"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"no daemon: there is no socket {path}; {start}"
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        return f"cannot use the socket {path}: {reason}; {start}"
    if not stat.S_ISSOCK(mode):
        return f"{path} is not a socket; name the daemon's socket with --socket"
    return _no_answer(path, start)


def _no_answer(path: Path, start: str) -> str:
    """Ask the kernel once more, which may have changed its mind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fsencode(path))
        except PermissionError:
            return (
                f"not permitted to use the socket {path}; run this as root or as a member of the "
                "socket's group"
            )
        except OSError as problem:
            if problem.errno == errno.ECONNREFUSED:
                return f"no daemon answers on {path}, which one left behind; {start}"
            return f"cannot connect to {path}: {problem.strerror or problem}; {start}"
    return f"the daemon on {path} closed the connection; try again"


def _with_scheme(url: str, scheme: str) -> str:
    """Return a message that a URL has the wrong scheme, with the right one."""
    speaks = "speaks TLS" if scheme == "https" else "speaks plain HTTP, not TLS"
    right = f"{scheme}://{url.partition('://')[2]}"
    return f"what listens at {url} {speaks}; write --url {right}"


def _answered_plainly(error: BaseException) -> bool:
    """Whether the peer replied to a TLS handshake with something else."""
    found = _cause(error, ssl.SSLError)
    return isinstance(found, ssl.SSLError) and found.reason in _NOT_TLS


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Find an exception of a kind among those that led to another one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause


def _speaks_tls(url: str) -> bool:
    """Whether what listens at a URL begins a TLS handshake."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    try:
        with socket.create_connection(address, timeout=CONNECT_SECONDS) as connection:
            context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return error.reason not in _NOT_TLS
    except OSError:
        return False
    return True
