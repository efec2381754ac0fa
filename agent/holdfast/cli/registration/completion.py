"""Shell completion of ids: asks the daemon, and stays silent where none answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from holdfast.cli.run.session import Common, Session
from holdfast.cli.terminal.errors import CliError

_LIMIT = 50
_PATHS = frozenset({"socket", "token_file", "ca_file", "client_cert", "client_key", "config"})


def dump_ids(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer `latest` and the ids of stored dumps."""
    if "latest".startswith(incomplete):
        yield "latest", "the newest dump"
    for dump in _ask(ctx, "/v1/pagecache/dumps").get("dumps", ()):
        yield dump["id"], f"{dump['created_at']} {dump['host']}"


def manifest_ids(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer `latest` and the ids of stored manifests."""
    if "latest".startswith(incomplete):
        yield "latest", "the newest manifest"
    for manifest in _ask(ctx, "/v1/manifests").get("manifests", ()):
        yield manifest["id"], f"{manifest['created_at']} {manifest['host']}"


def operation_ids(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer the ids of the newest operations."""
    for operation in _ask(ctx, "/v1/operations", limit=_LIMIT).get("operations", ()):
        if operation["id"].startswith(incomplete):
            yield operation["id"], f"{operation['kind']} {operation['state']}"


def offer_ids(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer the ids of this node's offers of state."""
    for offer in _ask(ctx, "/v1/transfers/offers").get("offers", ()):
        if offer["id"].startswith(incomplete):
            yield offer["id"], f"{offer['path']} {offer['state']}"


def transfer_ids(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer the ids of transfers into this node."""
    for transfer in _ask(ctx, "/v1/transfers").get("transfers", ()):
        if transfer["id"].startswith(incomplete):
            yield transfer["id"], f"{transfer['path']} from {transfer['source']}"


def save_ids(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer the ids of saves of roots in memory."""
    for save in _ask(ctx, "/v1/memory").get("saves", ()):
        if save["id"].startswith(incomplete):
            yield save["id"], f"{save['root']}, {save['created_at']}"


def profile_names(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer the names of profiles."""
    for profile in _ask(ctx, "/v1/tuning/profiles").get("profiles", ()):
        if profile["name"].startswith(incomplete):
            yield profile["name"], profile["description"]


def _ask(ctx: typer.Context, path: str, **params: Any) -> dict[str, Any]:
    try:
        session = Session(_options(ctx))
        try:
            answer: dict[str, Any] = session.api.get(path, **params)
        finally:
            session.close()
    except (CliError, OSError):
        return {}  # a shell that completes is no place for messages
    return answer


def _options(ctx: typer.Context) -> Common:
    """Read the options typed so far, and the environment, which is not applied while completing."""
    typed = {**ctx.find_root().params, **ctx.params}
    chosen: dict[str, Any] = {}
    for field in fields(Common):
        value = typed.get(field.name) or os.environ.get(f"HOLDFAST_{field.name.upper()}")
        if value and field.name in {*_PATHS, "url"}:
            chosen[field.name] = Path(value) if field.name in _PATHS else value
    return Common(**chosen)
