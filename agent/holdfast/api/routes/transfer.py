"""Routes of transfers: what this node offers, and what it fetches from others."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.responses import Response

from holdfast.api.contract.documents import problems_of, started
from holdfast.api.contract.routing import CallerDep, Router, audited, provided, spec
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.rendering import JsonResponse
from holdfast.api.http.work import Pool, act
from holdfast.api.routes.operations import IdempotencyKey, check_key, start
from holdfast.operations.model import Operation
from holdfast.transfer.models import (
    OfferList,
    OfferMade,
    OfferRequest,
    PullRequest,
    RepairRequest,
    Transfer,
    TransferList,
    TransferOffer,
)
from holdfast.transfer.pulls import PULL
from holdfast.transfer.repairs import REPAIR
from holdfast.transfer.service import Transfers

router = Router(
    prefix="/v1/transfers",
    tag="transfer",
    about="The state of one node fetched by another, proven.",
    features=("transfers",),
    shown=(
        ("POST", "/offers", 'offer a directory to another node: {"path": "…"}'),
        ("POST", "", 'fetch one: {"ticket": {…}, "path": "…"}'),
    ),
)

TransfersDep = Annotated[Transfers, Depends(provided(Transfers))]

TransferName = Annotated[
    str,
    Path(
        max_length=64,
        description="An id, or the beginning of one, of at least 4 characters, that no other has.",
    ),
]


@router.post(
    "/offers",
    operation_id="createTransferOffer",
    summary="Offer a directory to another node",
    status_code=201,
    response_model=OfferMade,
    responses={
        200: {
            "description": "The offer that this idempotency key made, with a new ticket in place "
            "of one that was not used.",
            "model": OfferMade,
        },
        201: {
            "description": "Offered; the ticket is in this answer and in no other.",
            "headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}},
        },
        **problems_of(404, 409, 413, 415, 507),
    },
)
@spec(Scope.ADMIN)
async def create_offer(
    transfer: TransfersDep,
    request: Request,
    params: OfferRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make an offer and its ticket, which one destination can use. Needs `transfer.listen`."""
    audited(request, params=params.model_dump(mode="json", exclude_defaults=True))
    check_key(request, idempotency_key)
    made, new = await act(request, partial(transfer.offer, params, idempotency_key))
    audited(request, offer=made.offer.id)
    headers = {"Location": f"/v1/transfers/offers/{made.offer.id}"}
    return JsonResponse(made, status_code=201 if new else 200, headers=headers)


@router.get(
    "/offers",
    operation_id="listTransferOffers",
    summary="List offers, newest first",
    response_model=OfferList,
    responses=problems_of(),
)
@spec(Scope.READ)
async def list_offers(transfer: TransfersDep, request: Request) -> Response:
    """List what this node offers, without tickets."""
    return JsonResponse(await act(request, transfer.offers, Pool.READS))


@router.get(
    "/offers/{offer_id}",
    operation_id="getTransferOffer",
    summary="Show an offer",
    response_model=TransferOffer,
    responses=problems_of(404, 409),
)
@spec(Scope.READ)
async def get_offer(transfer: TransfersDep, request: Request, offer_id: TransferName) -> Response:
    """Return an offer, with what its destination has fetched since the daemon started."""
    find = partial(transfer.find_offer, offer_id)
    return JsonResponse(await act(request, find, Pool.READS))


@router.delete(
    "/offers/{offer_id}",
    operation_id="revokeTransferOffer",
    summary="Revoke an offer",
    status_code=204,
    response_class=Response,
    responses=problems_of(404, 409),
)
@spec(Scope.ADMIN, produces=())
async def revoke_offer(
    transfer: TransfersDep, request: Request, offer_id: TransferName
) -> Response:
    """Withdraw an offer and cut the connections of its destination at once."""
    audited(request, offer=offer_id)
    audited(request, offer=await act(request, partial(transfer.revoke, offer_id)))
    return Response(status_code=204)


@router.post(
    "",
    operation_id="createTransfer",
    summary="Fetch what a ticket offers",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.ADMIN)
async def create_transfer(
    transfer: TransfersDep,
    request: Request,
    caller: CallerDep,
    params: PullRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start the operation `transfer.pull`: passes, or with `final` the last one.

    The same ticket again continues the transfer: what is here already is not fetched again.
    """
    accepted = await act(request, partial(transfer.accept, params), Pool.STARTS)
    return await start(request, caller, PULL, accepted, idempotency_key)


@router.post(
    "/repairs",
    operation_id="createTransferRepair",
    summary="Heal a destination from its source",
    status_code=202,
    response_model=Operation,
    responses=started(),
)
@spec(Scope.ADMIN)
async def create_repair(
    transfer: TransfersDep,
    request: Request,
    caller: CallerDep,
    params: RepairRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start `transfer.repair`: compare with the source's manifest, and fetch what differs.

    Each finding names the side that is to blame. The source needs a manifest of what it offers:
    that of a completed transfer, or one that was built of the same directory.
    """
    accepted = await act(request, partial(transfer.accept_repair, params), Pool.STARTS)
    return await start(request, caller, REPAIR, accepted, idempotency_key)


@router.get(
    "",
    operation_id="listTransfers",
    summary="List transfers into this node, newest first",
    response_model=TransferList,
    responses=problems_of(),
)
@spec(Scope.READ)
async def list_transfers(transfer: TransfersDep, request: Request) -> Response:
    """List the transfers into this node, complete or not."""
    return JsonResponse(await act(request, transfer.transfers, Pool.READS))


@router.get(
    "/{transfer_id}",
    operation_id="getTransfer",
    summary="Show a transfer into this node",
    response_model=Transfer,
    responses=problems_of(404, 409),
)
@spec(Scope.READ)
async def get_transfer(
    transfer: TransfersDep, request: Request, transfer_id: TransferName
) -> Response:
    """Return where a transfer goes, whether it is complete, and the pull that ran last."""
    find = partial(transfer.transfer, transfer_id)
    return JsonResponse(await act(request, find, Pool.READS))


@router.delete(
    "/{transfer_id}",
    operation_id="forgetTransfer",
    summary="Forget a transfer into this node",
    status_code=204,
    response_class=Response,
    responses=problems_of(404, 409),
)
@spec(Scope.ADMIN, produces=())
async def forget_transfer(
    transfer: TransfersDep, request: Request, transfer_id: TransferName
) -> Response:
    """Forget the ticket and what is known of the files. What was fetched stays where it is.

    A transfer that is not complete cannot be continued afterwards.
    """
    audited(request, transfer=transfer_id)
    audited(request, transfer=await act(request, partial(transfer.forget, transfer_id)))
    return Response(status_code=204)
