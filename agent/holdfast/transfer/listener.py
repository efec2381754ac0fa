"""The data listener: serves offers to the destinations that prove their tickets."""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from holdfast import _engine
from holdfast.engine.pressure import engine_limit
from holdfast.engine.requests import encode
from holdfast.operations.model import RequestError
from holdfast.transfer.engine_requests import OfferToServe
from holdfast.transfer.events import SourceEvents
from holdfast.transfer.ids import from_wire, to_wire
from holdfast.transfer.store import StoredOffer, TransferStore

log = logging.getLogger(__name__)

_BACKLOG = 128


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


class TransferListener:
    """Serves the offers of a store on one address, while it is started."""

    def __init__(
        self,
        store: TransferStore,
        *,
        address: tuple[str, int] | None,
        named: Sequence[str],
        exclude: Sequence[Path],
        events: SourceEvents,
    ) -> None:
        """`address` is where to listen, if anywhere; `named` what tickets name instead of it."""
        self._store = store
        self._address = address
        self._named = list(named)
        self._exclude = list(exclude)
        self._events = events
        self._serving: _Serving | None = None

    @property
    def on(self) -> bool:
        """Whether this node may offer anything."""
        return self._address is not None

    @property
    def serving(self) -> bool:
        """Whether the listener was started."""
        return self._serving is not None

    def start(self) -> None:
        """Listen, and serve the offers that are stored. Does nothing if there is no address.

        A state directory that cannot be read or written, such as that of a full volume, keeps it
        off, with a line in the log. Raises `OSError` if the address cannot be listened on.
        """
        if self._address is None:
            return
        try:
            certificate, key = self._store.certificate().der
            offers = self._store.offers()
        except OSError as error:
            log.error("nothing is offered until the next start: %s", error)
            return
        listener = _listen(self._address)
        port: int = listener.getsockname()[1]
        events = self._events
        server = _engine.TransferServer(
            listener.detach(),
            certificate,
            key,
            "{}",
            events.bind,
            writers=events.writers,
            manifest=events.manifest,
            completed=events.completed,
            page_cache=events.page_cache,
            record=events.record,
        )
        self._serving = _Serving(server, port)
        for offer in offers:
            if not offer.expired:
                self._try(offer)
        log.info("offers are served on %s port %d", self._address[0], port)

    def close(self) -> None:
        """Serve nothing more, and cut all connections. Idempotent."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.server.close()

    def add(self, offer: StoredOffer) -> None:
        """Serve an offer, or replace that with its id. Raises `RequestError`, `ValueError`."""
        if self._serving is None:
            return
        request = offer.request
        place = self._events.place(request.path)
        served = OfferToServe(
            id=to_wire(offer.id),
            verifier=offer.verifier,
            puller=offer.puller,
            place=place,
            exclude=self._exclude,
            include_patterns=request.include,
            exclude_patterns=request.exclude,
            files=request.files,
            mounts=request.other_filesystems,
            digests=self._store.digests_of(offer.id),
            bytes_per_second=request.bytes_per_second,
            pressure=engine_limit(request.pressure),
            expires_at=offer.expires_at,
        )
        self._serving.server.offer(encode(served))

    def revoke(self, offer_id: str) -> None:
        """Serve an offer no more, and cut its connections. Idempotent."""
        if self._serving is not None:
            self._serving.server.revoke(to_wire(offer_id))

    def status(self) -> Mapping[str, OfferStatus]:
        """Return how each offer that is served is doing, by its id."""
        if self._serving is None:
            return {}
        found: list[dict[str, Any]] = json.loads(self._serving.server.status())
        return {from_wire(offer["id"]): OfferStatus.model_validate(offer) for offer in found}

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
    usable = [address for address in found if not address.is_loopback and not address.is_link_local]
    usable.sort(key=lambda address: address.version)
    return [str(address) for address in usable[:16]] or ["127.0.0.1"]


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
