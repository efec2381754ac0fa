"""Verifications as other capabilities ask for them: an operation like any other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from holdfast._engine import CancelledError
from holdfast.manifests.models import VerifyParams
from holdfast.manifests.service import VERIFY, Manifests
from holdfast.operations.model import OperationFailed, State
from holdfast.operations.service import Operations

if TYPE_CHECKING:
    from holdfast._engine import Progress

_POLL_SECONDS = 0.25
_ACTOR = "reimage"


class Verifications:
    """Starts verifications and waits for their end."""

    def __init__(self, manifests: Manifests, operations: Operations) -> None:
        self._manifests = manifests
        self._operations = operations

    def exists(self, manifest: str) -> str:
        """Return a manifest's id. Raises `RequestError` if there is none."""
        return self._manifests.manifest(manifest).id

    def verify(
        self, manifest: str, sample_percent: float | None, key: str, progress: Progress
    ) -> tuple[bool, str]:
        """Return whether nothing differs, with a sentence for a person; takes as long as reading.

        `key` is the operation's idempotency key: the same one is waited for after a restart.
        Raises `RequestError`, `OperationFailed`, `Conflict`, and `CancelledError` once `progress`
        is cancelled.
        """
        params = VerifyParams(manifest=self.exists(manifest), sample_percent=sample_percent)
        operation, _ = self._operations.start(VERIFY, params, actor=_ACTOR, idempotency_key=key)
        progress.expect(None)
        while not operation.state.final:
            if progress.cancelled:
                raise CancelledError("cancelled while the data were being verified")
            time.sleep(_POLL_SECONDS)
            operation = self._operations.get(operation.id)
        if operation.state is not State.SUCCEEDED or operation.result is None:
            if operation.error is not None:
                raise OperationFailed(operation.error)
            return False, f"Operation {operation.id} ended as {operation.state.value}."
        result = operation.result
        share = f", {sample_percent:g} % of its chunks" if sample_percent is not None else ""
        summary = (
            f"Manifest {params.manifest}{share}: {result['matching']} files match"
            if result["ok"]
            else f"Manifest {params.manifest}{share} differs: {result['mismatched']} mismatched, "
            f"{result['missing']} missing, {result['changed']} changed, {result['extra']} extra"
        )
        return bool(result["ok"]), f"{summary} (operation {operation.id})."
