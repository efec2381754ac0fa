"""A method for each route, to be awaited. Written by generate_routes.py; do not edit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

from holdfast_client.calls import AsyncCalls, AsyncOperation, Members
from holdfast_client.core import Content, segment
from holdfast_client.routes import answers


class Node:
    """What a node is, and whether it can work."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def overview(self) -> str:
        """Where to go from here."""
        return await self._call.text("/", accept="text/plain")

    async def health(self) -> answers.Health:
        """Is the process alive?"""
        answer: answers.Health = await self._call.json("GET", "/healthz", patient=False)
        return answer

    async def readiness(self) -> answers.Readiness:
        """Can it do its work?"""
        answer: answers.Readiness = await self._call.json("GET", "/readyz", patient=False)
        return answer

    async def metrics(self) -> str:
        """Metrics for Prometheus."""
        return await self._call.text("/metrics", accept="text/plain")

    async def openapi(self) -> dict[str, Any]:
        """This document."""
        answer: dict[str, Any] = await self._call.json("GET", "/openapi.json")
        return answer

    async def version(self) -> answers.Version:
        """Show what this holdfast can do."""
        answer: answers.Version = await self._call.json("GET", "/v1/version")
        return answer

    async def show(self) -> answers.NodeReport:
        """Show this machine."""
        answer: answers.NodeReport = await self._call.json("GET", "/v1/node")
        return answer


class Operations:
    """Long work of a node."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def list(
        self,
        *,
        kind: str | None = None,
        state: Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
        | None = None,
        outcome: Literal["ok", "differs", "partial"] | None = None,
        not_ok: bool | None = None,
        since: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> answers.OperationList:
        """List operations, newest first."""
        answer: answers.OperationList = await self._call.json(
            "GET",
            "/v1/operations",
            query={
                "kind": kind,
                "state": state,
                "outcome": outcome,
                "not_ok": not_ok,
                "since": since,
                "limit": limit,
                "cursor": cursor,
            },
        )
        return answer

    async def get(self, operation_id: str, *, wait: float | None = None) -> AsyncOperation:
        """Show an operation, or wait for its end."""
        return await self._call.operation(
            "GET", f"/v1/operations/{segment(operation_id)}", query={"wait": wait}
        )

    def events(self, operation_id: str) -> AsyncIterator[AsyncOperation]:
        """Follow an operation live."""
        return self._call.watch(operation_id)

    async def cancel(
        self, operation_id: str, *, idempotency_key: str | None = None
    ) -> AsyncOperation:
        """Cancel an operation."""
        return await self._call.operation(
            "POST", f"/v1/operations/{segment(operation_id)}/cancel", key=idempotency_key
        )


class Pagecache:
    """The page cache: dump, load, evict."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def show(
        self,
        *,
        path: str | None = None,
        depth: int | None = None,
        top: int | None = None,
        by: Literal["table", "index", "file-kind"] | None = None,
    ) -> answers.PageCacheState:
        """Show what is resident."""
        answer: answers.PageCacheState = await self._call.json(
            "GET", "/v1/pagecache", query={"path": path, "depth": depth, "top": top, "by": by}
        )
        return answer

    async def get_residency_history(self, *, hours: int | None = None) -> answers.ResidencyHistory:
        """Show what was resident over the last hours."""
        answer: answers.ResidencyHistory = await self._call.json(
            "GET", "/v1/pagecache/history", query={"hours": hours}
        )
        return answer

    async def dump(
        self,
        *,
        root: str | None = None,
        path: str | None = None,
        hotness: bool | None = None,
        on_denied: Literal["fail", "skip"] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Record what is resident."""
        return await self._call.operation(
            "POST",
            "/v1/pagecache/dumps",
            body={"root": root, "path": path, "hotness": hotness, "on_denied": on_denied},
            key=idempotency_key,
        )

    async def list_dumps(self) -> answers.DumpList:
        """List dumps, newest first."""
        answer: answers.DumpList = await self._call.json("GET", "/v1/pagecache/dumps")
        return answer

    async def load(
        self,
        *,
        dump: str | None = None,
        root: str | None = None,
        policy: Literal["strict", "clamp", "any"] | None = None,
        budget_bytes: int | None = None,
        reserve_bytes: int | None = None,
        bytes_per_second: int | None = None,
        order: Literal["auto", "dumps", "share"] | None = None,
        yield_at: float | None = None,
        report: Literal["incomplete", "all"] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Load the pages of a dump."""
        return await self._call.operation(
            "POST",
            "/v1/pagecache/loads",
            body={
                "dump": dump,
                "root": root,
                "policy": policy,
                "budget_bytes": budget_bytes,
                "reserve_bytes": reserve_bytes,
                "bytes_per_second": bytes_per_second,
                "order": order,
                "yield_at": yield_at,
                "report": report,
            },
            key=idempotency_key,
        )

    async def evict(
        self, *, paths: Sequence[str], sync: bool | None = None, idempotency_key: str | None = None
    ) -> AsyncOperation:
        """Drop pages of files."""
        return await self._call.operation(
            "POST",
            "/v1/pagecache/evictions",
            body={"paths": paths, "sync": sync},
            key=idempotency_key,
        )

    async def get_dump(self, dump_id: str) -> answers.Dump:
        """Show a dump."""
        answer: answers.Dump = await self._call.json(
            "GET", f"/v1/pagecache/dumps/{segment(dump_id)}"
        )
        return answer

    async def delete_dump(self, dump_id: str) -> None:
        """Delete a dump."""
        await self._call.nothing("DELETE", f"/v1/pagecache/dumps/{segment(dump_id)}")

    def download_dump(
        self,
        dump_id: str,
        *,
        format: Literal["native", "happycache"] | None = None,
        accept: Literal["application/zstd", "application/gzip", "application/octet-stream"]
        | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Take a dump to another node."""
        return self._call.download(
            f"/v1/pagecache/dumps/{segment(dump_id)}/content",
            accept=accept or "application/zstd",
            query={"format": format},
        )

    async def upload_dump(self, dump_id: str, content: Content) -> answers.Dump:
        """Upload a dump of another node."""
        answer: answers.Dump = await self._call.upload(
            f"/v1/pagecache/dumps/{segment(dump_id)}/content", content
        )
        return answer


class Manifests:
    """Digests of every file: build, verify, compare."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def build(
        self,
        *,
        bytes_per_second: int | None = None,
        pressure: Members | None = None,
        root: str | None = None,
        path: str | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        algorithm: Literal["xxh64", "xxh3_128", "blake3"] | None = None,
        full: bool | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Record every file with its digest."""
        return await self._call.operation(
            "POST",
            "/v1/manifests",
            body={
                "bytes_per_second": bytes_per_second,
                "pressure": pressure,
                "root": root,
                "path": path,
                "include": include,
                "exclude": exclude,
                "algorithm": algorithm,
                "full": full,
            },
            key=idempotency_key,
        )

    async def list(self) -> answers.ManifestList:
        """List manifests, newest first."""
        answer: answers.ManifestList = await self._call.json("GET", "/v1/manifests")
        return answer

    async def compare(
        self,
        *,
        left: str,
        right: str,
        identical: bool | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Compare two manifests."""
        return await self._call.operation(
            "POST",
            "/v1/manifests/comparisons",
            body={"left": left, "right": right, "identical": identical},
            key=idempotency_key,
        )

    def report(
        self,
        operation_id: str,
        *,
        format: Literal["jsonl", "native"] | None = None,
        accept: Literal[
            "application/jsonl",
            "application/x-ndjson",
            "application/zstd",
            "application/octet-stream",
        ]
        | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Every finding of a verification or comparison."""
        return self._call.download(
            f"/v1/manifests/reports/{segment(operation_id)}",
            accept=accept or "application/jsonl",
            query={"format": format},
        )

    async def get(self, manifest_id: str) -> answers.ManifestDetails:
        """Show a manifest."""
        answer: answers.ManifestDetails = await self._call.json(
            "GET", f"/v1/manifests/{segment(manifest_id)}"
        )
        return answer

    async def delete(self, manifest_id: str) -> None:
        """Delete a manifest."""
        await self._call.nothing("DELETE", f"/v1/manifests/{segment(manifest_id)}")

    async def verify(
        self,
        manifest_id: str,
        *,
        bytes_per_second: int | None = None,
        pressure: Members | None = None,
        path: str | None = None,
        sample_percent: float | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Verify files against a manifest."""
        return await self._call.operation(
            "POST",
            f"/v1/manifests/{segment(manifest_id)}/verifications",
            body={
                "bytes_per_second": bytes_per_second,
                "pressure": pressure,
                "path": path,
                "sample_percent": sample_percent,
                "seed": seed,
            },
            key=idempotency_key,
        )

    def download(
        self,
        manifest_id: str,
        *,
        format: Literal["native"] | Literal["jsonl", "xxhsum", "xxhsum_escaped"] | None = None,
        accept: Literal[
            "application/zstd",
            "application/jsonl",
            "application/x-ndjson",
            "text/plain",
            "application/octet-stream",
        ]
        | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Take a manifest to another node, or to xxhsum."""
        return self._call.download(
            f"/v1/manifests/{segment(manifest_id)}/content",
            accept=accept or "application/zstd",
            query={"format": format},
        )

    async def upload(self, manifest_id: str, content: Content) -> answers.ManifestDetails:
        """Upload a manifest of another node."""
        answer: answers.ManifestDetails = await self._call.upload(
            f"/v1/manifests/{segment(manifest_id)}/content", content
        )
        return answer


class Memory:
    """Routes below `/v1/memory`."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def get_memory(self) -> answers.MemoryState:
        """Show roots in memory and their saves."""
        answer: answers.MemoryState = await self._call.json("GET", "/v1/memory")
        return answer

    async def create_memory_save(
        self,
        *,
        root: str | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        requires: Sequence[str] | None = None,
        even_if_open: bool | None = None,
        bytes_per_second: int | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Save a root to the data volume."""
        return await self._call.operation(
            "POST",
            "/v1/memory/saves",
            body={
                "root": root,
                "include": include,
                "exclude": exclude,
                "requires": requires,
                "even_if_open": even_if_open,
                "bytes_per_second": bytes_per_second,
            },
            key=idempotency_key,
        )

    async def delete_memory_save(self, save_id: str) -> None:
        """Delete a save."""
        await self._call.nothing("DELETE", f"/v1/memory/saves/{segment(save_id)}")

    async def create_memory_restore(
        self,
        *,
        save: str | None = None,
        root: str | None = None,
        existing: Literal["refuse", "replace"] | None = None,
        before_start: bool | None = None,
        again: bool | None = None,
        max_age_seconds: int | None = None,
        even_if_open: bool | None = None,
        bytes_per_second: int | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Put a save back into its root."""
        return await self._call.operation(
            "POST",
            "/v1/memory/restores",
            body={
                "save": save,
                "root": root,
                "existing": existing,
                "before_start": before_start,
                "again": again,
                "max_age_seconds": max_age_seconds,
                "even_if_open": even_if_open,
                "bytes_per_second": bytes_per_second,
            },
            key=idempotency_key,
        )


class Transfers:
    """Moving a directory of state from node to node."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def offer(
        self,
        *,
        path: str,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
        other_filesystems: Literal["refuse", "include", "leave_out"] | None = None,
        expires_seconds: int | None = None,
        bytes_per_second: int | None = None,
        pressure: Members | None = None,
        idempotency_key: str | None = None,
    ) -> answers.OfferMade:
        """Offer a directory to another node."""
        answer: answers.OfferMade = await self._call.json(
            "POST",
            "/v1/transfers/offers",
            body={
                "path": path,
                "include": include,
                "exclude": exclude,
                "files": files,
                "other_filesystems": other_filesystems,
                "expires_seconds": expires_seconds,
                "bytes_per_second": bytes_per_second,
                "pressure": pressure,
            },
            key=idempotency_key,
        )
        return answer

    async def list_offers(self) -> answers.OfferList:
        """List offers, newest first."""
        answer: answers.OfferList = await self._call.json("GET", "/v1/transfers/offers")
        return answer

    async def get_offer(self, offer_id: str) -> answers.TransferOffer:
        """Show an offer."""
        answer: answers.TransferOffer = await self._call.json(
            "GET", f"/v1/transfers/offers/{segment(offer_id)}"
        )
        return answer

    async def revoke_offer(self, offer_id: str) -> None:
        """Revoke an offer."""
        await self._call.nothing("DELETE", f"/v1/transfers/offers/{segment(offer_id)}")

    async def pull(
        self,
        *,
        path: str,
        ticket: Members,
        final: bool | None = None,
        passes: int | None = None,
        until_remaining: int | None = None,
        proof: Literal["wire", "flushed", "media"] | None = None,
        connections: int | None = None,
        bytes_per_second: int | None = None,
        even_if_open: bool | None = None,
        map_owners: bool | None = None,
        page_cache: bool | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Fetch what a ticket offers."""
        return await self._call.operation(
            "POST",
            "/v1/transfers",
            body={
                "path": path,
                "final": final,
                "passes": passes,
                "until_remaining": until_remaining,
                "proof": proof,
                "connections": connections,
                "bytes_per_second": bytes_per_second,
                "even_if_open": even_if_open,
                "map_owners": map_owners,
                "page_cache": page_cache,
                "ticket": ticket,
            },
            key=idempotency_key,
        )

    async def list(self) -> answers.TransferList:
        """List transfers into this node, newest first."""
        answer: answers.TransferList = await self._call.json("GET", "/v1/transfers")
        return answer

    async def repair(
        self,
        *,
        path: str,
        ticket: Members,
        overwrite_written: bool | None = None,
        bytes_per_second: int | None = None,
        even_if_open: bool | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Heal a destination from its source."""
        return await self._call.operation(
            "POST",
            "/v1/transfers/repairs",
            body={
                "path": path,
                "overwrite_written": overwrite_written,
                "bytes_per_second": bytes_per_second,
                "even_if_open": even_if_open,
                "ticket": ticket,
            },
            key=idempotency_key,
        )

    async def get(self, transfer_id: str) -> answers.Transfer:
        """Show a transfer into this node."""
        answer: answers.Transfer = await self._call.json(
            "GET", f"/v1/transfers/{segment(transfer_id)}"
        )
        return answer

    async def forget(self, transfer_id: str) -> None:
        """Forget a transfer into this node."""
        await self._call.nothing("DELETE", f"/v1/transfers/{segment(transfer_id)}")


class Tuning:
    """Tuning profiles: plan, apply, roll back."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def show(self) -> answers.TuningState:
        """Show what is in force and what has drifted."""
        answer: answers.TuningState = await self._call.json("GET", "/v1/tuning")
        return answer

    async def list_profiles(self) -> answers.ProfileList:
        """List profiles."""
        answer: answers.ProfileList = await self._call.json("GET", "/v1/tuning/profiles")
        return answer

    async def get_profile(self, name: str) -> answers.ProfileDetails:
        """Show a profile."""
        answer: answers.ProfileDetails = await self._call.json(
            "GET", f"/v1/tuning/profiles/{segment(name)}"
        )
        return answer

    def events(self) -> AsyncIterator[Members]:
        """Follow what happens to the settings."""
        return self._call.events("/v1/tuning/events")

    async def plan(
        self,
        *,
        profile: str | None = None,
        persist: bool | None = None,
        idempotency_key: str | None = None,
    ) -> answers.Plan:
        """Plan the apply of a profile."""
        answer: answers.Plan = await self._call.json(
            "POST",
            "/v1/tuning/plan",
            body={"profile": profile, "persist": persist},
            key=idempotency_key,
        )
        return answer

    async def apply(
        self,
        *,
        profile: str | None = None,
        persist: bool | None = None,
        plan: str | None = None,
        idempotency_key: str | None = None,
    ) -> answers.Applied | AsyncOperation:
        """Apply a profile: all of it, or nothing."""
        answer: answers.Applied | AsyncOperation = await self._call.either(
            "POST",
            "/v1/tuning/apply",
            body={"profile": profile, "persist": persist, "plan": plan},
            key=idempotency_key,
        )
        return answer

    async def rollback(
        self, *, to: Literal["last", "first"] | None = None, idempotency_key: str | None = None
    ) -> answers.RolledBack | AsyncOperation:
        """Restore the previous settings."""
        answer: answers.RolledBack | AsyncOperation = await self._call.either(
            "POST", "/v1/tuning/rollback", body={"to": to}, key=idempotency_key
        )
        return answer


class Reimage:
    """Replacing the system disk of a node."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def show(self) -> answers.ReimageStatus:
        """Show how far re-imaging is, and what is in the way."""
        answer: answers.ReimageStatus = await self._call.json("GET", "/v1/reimage")
        return answer

    async def plan(
        self,
        *,
        descriptor: str,
        descriptor_sha256: str | None = None,
        signature: str | None = None,
        content: str | None = None,
        mirrors: Sequence[str] | None = None,
        mode: Literal["staged", "network"] | None = None,
        identity: Sequence[Literal["ssh_host_keys", "machine_id", "hostname", "holdfast"]]
        | None = None,
        manifest: str | None = None,
        sample_percent: float | None = None,
        confirm: Literal["auto", "manual"] | None = None,
        grow_root: bool | None = None,
        save_previous: bool | None = None,
        allow_unprotected: bool | None = None,
        rollback: Literal["never", "automatic"] | None = None,
        confirm_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> answers.ReimagePlan:
        """Plan a re-imaging with an image."""
        answer: answers.ReimagePlan = await self._call.json(
            "POST",
            "/v1/reimage/plan",
            body={
                "descriptor": descriptor,
                "descriptor_sha256": descriptor_sha256,
                "signature": signature,
                "content": content,
                "mirrors": mirrors,
                "mode": mode,
                "identity": identity,
                "manifest": manifest,
                "sample_percent": sample_percent,
                "confirm": confirm,
                "grow_root": grow_root,
                "save_previous": save_previous,
                "allow_unprotected": allow_unprotected,
                "rollback": rollback,
                "confirm_seconds": confirm_seconds,
            },
            key=idempotency_key,
        )
        return answer

    async def stage(
        self,
        *,
        descriptor: str,
        descriptor_sha256: str | None = None,
        signature: str | None = None,
        content: str | None = None,
        mirrors: Sequence[str] | None = None,
        mode: Literal["staged", "network"] | None = None,
        identity: Sequence[Literal["ssh_host_keys", "machine_id", "hostname", "holdfast"]]
        | None = None,
        manifest: str | None = None,
        sample_percent: float | None = None,
        confirm: Literal["auto", "manual"] | None = None,
        grow_root: bool | None = None,
        save_previous: bool | None = None,
        allow_unprotected: bool | None = None,
        rollback: Literal["never", "automatic"] | None = None,
        confirm_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Begin: fetch and verify an image."""
        return await self._call.operation(
            "POST",
            "/v1/reimage/stage",
            body={
                "descriptor": descriptor,
                "descriptor_sha256": descriptor_sha256,
                "signature": signature,
                "content": content,
                "mirrors": mirrors,
                "mode": mode,
                "identity": identity,
                "manifest": manifest,
                "sample_percent": sample_percent,
                "confirm": confirm,
                "grow_root": grow_root,
                "save_previous": save_previous,
                "allow_unprotected": allow_unprotected,
                "rollback": rollback,
                "confirm_seconds": confirm_seconds,
            },
            key=idempotency_key,
        )

    async def arm(
        self,
        *,
        operation: str | None = None,
        dry_run: bool | None = None,
        idempotency_key: str | None = None,
    ) -> answers.ReimageStatus:
        """Have the next boot, and only that one, write the image."""
        answer: answers.ReimageStatus = await self._call.json(
            "POST",
            "/v1/reimage/arm",
            body={"operation": operation, "dry_run": dry_run},
            key=idempotency_key,
            read_seconds=600.0,
        )
        return answer

    async def disarm(
        self, *, operation: str | None = None, idempotency_key: str | None = None
    ) -> answers.ReimageStatus:
        """Take the arming back."""
        answer: answers.ReimageStatus = await self._call.json(
            "POST", "/v1/reimage/disarm", body={"operation": operation}, key=idempotency_key
        )
        return answer

    async def reboot(
        self,
        *,
        operation: str | None = None,
        dry_run: bool | None = None,
        force: bool | None = None,
        idempotency_key: str | None = None,
    ) -> answers.ReimageStatus:
        """Reboot into the imager."""
        answer: answers.ReimageStatus = await self._call.json(
            "POST",
            "/v1/reimage/reboot",
            body={"operation": operation, "dry_run": dry_run, "force": force},
            key=idempotency_key,
            read_seconds=3600.0,
        )
        return answer

    async def confirm(
        self,
        *,
        operation: str | None = None,
        override: bool | None = None,
        idempotency_key: str | None = None,
    ) -> answers.ReimageStatus | AsyncOperation:
        """Take the new system for good."""
        answer: answers.ReimageStatus | AsyncOperation = await self._call.either(
            "POST",
            "/v1/reimage/confirm",
            body={"operation": operation, "override": override},
            key=idempotency_key,
        )
        return answer

    async def rollback(
        self,
        *,
        operation: str | None = None,
        manifest: str | None = None,
        allow_unprotected: bool | None = None,
        confirm: Literal["auto", "manual"] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Begin to go back to the system that was kept."""
        return await self._call.operation(
            "POST",
            "/v1/reimage/rollback",
            body={
                "operation": operation,
                "manifest": manifest,
                "allow_unprotected": allow_unprotected,
                "confirm": confirm,
            },
            key=idempotency_key,
        )

    async def plan_rollback(
        self,
        *,
        operation: str | None = None,
        manifest: str | None = None,
        allow_unprotected: bool | None = None,
        confirm: Literal["auto", "manual"] | None = None,
        idempotency_key: str | None = None,
    ) -> answers.ReimagePlan:
        """Plan the way back to the system that was kept."""
        answer: answers.ReimagePlan = await self._call.json(
            "POST",
            "/v1/reimage/rollback/plan",
            body={
                "operation": operation,
                "manifest": manifest,
                "allow_unprotected": allow_unprotected,
                "confirm": confirm,
            },
            key=idempotency_key,
        )
        return answer

    async def forget_previous(self) -> None:
        """Delete the system that was kept."""
        await self._call.nothing("DELETE", "/v1/reimage/previous")


class Images:
    """Routes below `/v1/images`."""

    def __init__(self, call: AsyncCalls) -> None:
        self._call = call

    async def get_image(self, sha256: str) -> answers.SharedImage:
        """Show how much of an image this node has."""
        answer: answers.SharedImage = await self._call.json("GET", f"/v1/images/{segment(sha256)}")
        return answer

    def get_image_content(
        self, sha256: str, *, accept: Literal["application/octet-stream"] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Download an image."""
        return self._call.download(
            f"/v1/images/{segment(sha256)}/content",
            accept=accept or "application/octet-stream",
            query={},
        )


class Groups:
    """Every group of routes."""

    def __init__(self, call: AsyncCalls) -> None:
        self.node = Node(call)
        self.operations = Operations(call)
        self.pagecache = Pagecache(call)
        self.manifests = Manifests(call)
        self.memory = Memory(call)
        self.transfers = Transfers(call)
        self.tuning = Tuning(call)
        self.reimage = Reimage(call)
        self.images = Images(call)
