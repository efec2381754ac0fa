"""Checks for requests that a web browser could have sent on behalf of a foreign page.

A caller that is trusted without a token (unix socket, loopback) may sit behind a port forward that
any page in the operator's browser can reach. Whatever the transport, such a request is refused if
it names a foreign origin (cross-site requests) or a foreign host (DNS rebinding), or if a form
could have sent it. A request with a valid bearer token is exempt: no foreign page has one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from holdfast.api.http.problems import refuse
from holdfast.operations.model import Slug

CLI_HOST = "holdfast"
"""The Host that the command line and the documents use on the unix socket."""
CUSTOM_HEADER = "x-holdfast"
"""Proves that no form sent a request: pages need permission for headers that are not standard."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a form can send, by the HTML standard; `fetch` sends these across sites without asking."""
_SITES = frozenset({"none", "same-origin"})
_SIGNS = ("origin", "referer", "cookie", "accept-language")
"""Headers of every browser; a page can empty some, and can remove none."""
_ELSEWHERE = "Without a token, requests of pages from elsewhere are refused."
_MAX_HOST = 255
_MAX_LABEL = 63


def refuse_web_pages(
    method: str, headers: Headers, host_names: Collection[str] = (), *, lenient: bool = False
) -> None:
    """Raise a problem if a foreign page could have made this request.

    `host_names` are accepted as `Host` beside loopback addresses, `localhost` and `holdfast`.
    `lenient` also accepts other names without a dot, or none, from what is no browser: scripts with
    `curl --unix-socket` choose such names, which are not registered in the DNS, and checks of load
    balancers by HTTP/1.0 have no `Host`.
    """
    host = headers.get("host", "")
    script = lenient and _script_named(headers) and not from_browser(headers)
    if not script and not _host_allowed(host, host_names):
        raise refuse(
            Slug.FORBIDDEN,
            "Without a token, the Host header must be a loopback address, `localhost`, "
            f"`{CLI_HOST}`, or one of the setting `host_names`.",
        )
    for name in ("origin", "referer"):
        if any(not _same_place(value, host) for value in headers.getlist(name)):
            raise refuse(Slug.FORBIDDEN, _ELSEWHERE)
    if any(value not in _SITES for value in headers.getlist("sec-fetch-site")):
        raise refuse(Slug.FORBIDDEN, _ELSEWHERE)
    if method not in SAFE_METHODS:
        _refuse_forms(headers)


def from_browser(headers: Headers) -> bool:
    """Return whether a request has any sign of a browser."""
    return (
        any(name in headers for name in _SIGNS)
        or any(name.startswith("sec-") for name in headers)
        or headers.get("user-agent", "").startswith("Mozilla/")
    )


def _refuse_forms(headers: Headers) -> None:
    """Raise a problem for what a page may send to anywhere without being asked for permission."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in FORM_TYPES:
        raise refuse(
            Slug.UNSUPPORTED_MEDIA_TYPE,
            "The Content-Type is one that forms of web pages send; send `application/json`; with "
            "curl, use --json.",
        )
    if not media_type and CUSTOM_HEADER not in headers and from_browser(headers):
        raise refuse(
            Slug.FORBIDDEN,
            "From a browser this needs `Content-Type: application/json` or the header "
            "`X-Holdfast: 1`, also without a body.",
        )


def _script_named(headers: Headers) -> bool:
    """Return whether the Host is absent or a name without a dot."""
    if "host" not in headers:
        return True
    name = headers["host"].partition(":")[0]
    return len(name) <= _MAX_LABEL and name.isascii() and name.replace("-", "").isalnum()


def _same_place(origin: str, host: str) -> bool:
    """Return whether an Origin or Referer names the server that the request was sent to."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _host_allowed(host: str, host_names: Collection[str]) -> bool:
    if len(host) > _MAX_HOST or "@" in host:
        return False
    try:
        parts = urlsplit(f"//{host}")
        name = (parts.hostname or "").removesuffix(".")
        if parts.netloc != host or (parts.port is not None and parts.port < 1):
            return False
        if name in ("localhost", CLI_HOST) or name in host_names:
            return True
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
