"""The data listener: serves offers to the destinations that prove their tickets."""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from holdfast import _engine
from holdfast.operations.model import RequestError
from holdfast.pressure import engine_limit
from holdfast.roots import RootPath
from holdfast.transfer.ids import from_wire, to_wire
from holdfast.transfer.store import StoredOffer, TransferStore

log = logging.getLogger(__name__)

_BACKLOG = 128
_CHECK_SECONDS = 1.0
"""How often offers are compared with the clock, which may be set."""


class OfferStatus(BaseModel, defer_build=True):
    """How an offer is doing, from the engine."""

    id: str
    puller: str | None
    connections: int
    sent_bytes: int


@dataclass
class _Serving:
    """A listener that was started."""

    server: _engine.TransferServer
    port: int
    ended: threading.Event = field(default_factory=threading.Event)


class TransferListener:
    """Serves the offers of a store on one address, while it is started."""

    def __init__(
        self,
        store: TransferStore,
        *,
        address: tuple[str, int] | None,
        named: Sequence[str],
        exclude: Sequence[Path],
        place_of: Callable[[str], RootPath],
    ) -> None:
        """`address` is where to listen, if anywhere; `named` what tickets name instead of it.

        `place_of` finds the place of an offered path, and raises `RequestError` if it is not to be
        had.
        """
        self._store = store
        self._address = address
        self._named = list(named)
        self._exclude = [str(path) for path in exclude]
        self._place_of = place_of
        self._serving: _Serving | None = None
        self._lock = threading.Lock()
        self._ended_bytes = 0
        """Sent for offers that are not served any more."""
        self._expiry: dict[str, int] = {}
        """When each offer that is served expires, in Unix seconds."""

    @property
    def on(self) -> bool:
        """Whether this node may offer anything."""
        return self._address is not None

    def start(self) -> None:
        """Listen, and serve the offers that are stored. Does nothing if there is no address.

        Raises `OSError` if the address cannot be listened on or the store not be read.
        """
        if self._address is None:
            return
        certificate, key = self._store.certificate().der
        listener = _listen(self._address)
        port: int = listener.getsockname()[1]
        server = _engine.TransferServer(listener.detach(), certificate, key, "{}", self._bind)
        self._serving = _Serving(server, port)
        for offer in self._store.offers():
            if not offer.expired:
                self._try(offer)
        threading.Thread(
            target=self._expire, args=(self._serving,), name="transfer-expiry", daemon=True
        ).start()
        log.info("offers are served on %s port %d", self._address[0], port)

    def close(self) -> None:
        """Serve nothing more, and cut all connections. Idempotent."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.ended.set()
            serving.server.close()

    def add(self, offer: StoredOffer) -> None:
        """Serve an offer, or replace the one with its id. Raises `RequestError`, `ValueError`."""
        if self._serving is None:
            return
        request = offer.request
        place = self._place_of(request.path)
        members: dict[str, Any] = {
            "id": to_wire(offer.id),
            "verifier": offer.verifier,
            "puller": offer.puller,
            "place": place.request(),
            "exclude": self._exclude,
            "include_patterns": request.include,
            "exclude_patterns": request.exclude,
            "files": request.files,
            "bytes_per_second": request.bytes_per_second,
            "pressure": engine_limit(request.pressure),
            "expires_at": offer.expires_at,
        }
        if request.other_filesystems == "leave_out":
            members["leave_out_mounts"] = True
        self._serving.server.offer(json.dumps(members))
        self._expiry[offer.id] = offer.expires_at

    def revoke(self, offer_id: str) -> None:
        """Serve an offer no more, and cut its connections. Idempotent."""
        serving = self._serving
        if serving is None:
            return
        with self._lock:
            self._expiry.pop(offer_id, None)
            status = self.status().get(offer_id)
            if serving.server.revoke(to_wire(offer_id)) and status is not None:
                self._ended_bytes += status.sent_bytes

    def status(self) -> Mapping[str, OfferStatus]:
        """Return how each offer that is served is doing, by its id."""
        if self._serving is None:
            return {}
        found: list[dict[str, Any]] = json.loads(self._serving.server.status())
        return {from_wire(one["id"]): OfferStatus.model_validate(one) for one in found}

    def sent_bytes(self) -> int:
        """Return how many bytes of files were sent since the start, of all offers."""
        with self._lock:
            return self._ended_bytes + sum(one.sent_bytes for one in self.status().values())

    def addresses(self) -> tuple[list[str], int]:
        """Return what a ticket names: addresses of this node, and the port.

        Raises `RuntimeError` if nothing is listened on.
        """
        if self._serving is None or self._address is None:
            raise RuntimeError("there is no data listener")
        return self._named or addresses_of(self._address[0]), self._serving.port

    def _try(self, offer: StoredOffer) -> None:
        """Serve an offer of before the start; what is in the way now may be gone at the next."""
        try:
            self.add(offer)
        except (RequestError, ValueError, OSError) as error:
            log.error("offer %s of %s is not served: %s", offer.id, offer.request.path, error)

    def _bind(self, offer: str, puller: str) -> bool:
        """Store who uses a ticket: the engine calls this before it answers."""
        try:
            stored = self._store.bind(from_wire(offer), puller)
        except OSError:
            log.exception("who uses the ticket of offer %s could not be stored", offer)
            return False
        if stored:
            log.info("offer %s is used by destination %s", from_wire(offer), puller)
        return stored

    def _expire(self, serving: _Serving) -> None:
        """End what has expired, until the listener is closed."""
        while not serving.ended.wait(_CHECK_SECONDS):
            now = time.time()
            for offer_id in [one for one, end in list(self._expiry.items()) if now >= end]:
                log.info("offer %s has expired", offer_id)
                self.revoke(offer_id)


def addresses_of(host: str) -> list[str]:
    """Return under which addresses others reach a listener: of a wildcard, those of this node."""
    if host == "localhost" or not ipaddress.ip_address(host).is_unspecified:
        return [host]
    families = (
        {socket.AF_INET}
        if ipaddress.ip_address(host).version == 4
        else {
            socket.AF_INET,
            socket.AF_INET6,
        }
    )
    found = [
        ipaddress.ip_address(address.address)
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in families and "%" not in address.address
    ]
    usable = [one for one in found if not one.is_loopback and not one.is_link_local]
    usable.sort(key=lambda one: one.version)
    return [str(one) for one in usable[:16]] or ["127.0.0.1"]


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"`transfer.listen` = {host}:{port} cannot be listened on: {reason}"
        ) from error
    return listener
