"""`holdfast status`: how this node is, on one screen."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from holdfast.cli.registration.command import command
from holdfast.cli.registration.groups import CommandGroup
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import ExitCode

_SECONDS = 180.0  # for what reads records, or asks about disks
_TROUBLED = frozenset({"failed", "unconfirmed", "unknown"})
_DOCUMENTS = {
    "node": "/v1/node",
    "dump": "/v1/pagecache/dumps/latest",
    "manifest": "/v1/manifests/latest",
    "tuning": "/v1/tuning",
    "reimage": "/v1/reimage",
}
"""What is asked for, by the name that it has in the answer."""


def register(app: CommandGroup) -> None:
    """Add the command."""
    command(
        app,
        "status",
        lines=[
            "holdfast status",
            "holdfast status --json | jq .reasons",
            "holdfast status > /dev/null && echo fine",
        ],
    )(status)


def status(session: Session) -> None:
    """Show on one screen whether all is well: ready, roots, records, drift, what runs.

    Ends with 1 if the daemon is not ready; with 3 if settings drifted, the last verification found
    differences, or a re-imaging failed or is not confirmed; and with 0 otherwise.
    """
    answer = _gather(session)
    if session.out.as_json:
        session.out.json(answer)
    else:
        from holdfast.cli.commands.status.views import show_status

        show_status(session.out, answer)
    if not answer["ready"]:
        raise typer.Exit(ExitCode.FAILED)
    if _differs(answer):
        raise typer.Exit(ExitCode.DIFFERENCES)


def _gather(session: Session) -> dict[str, Any]:
    """Ask for everything; what there is none of is null, and `problems` has what was refused."""
    from holdfast.cli.run.client import ProblemError

    problems: dict[str, str] = {}
    answer: dict[str, Any] = {"ready": True, "reasons": [], "notes": [], "problems": problems}
    try:
        answer["notes"] = session.api.get("/readyz").get("notes", [])
    except ProblemError as error:
        if error.status != 503:
            raise
        reasons = error.body.get("reasons") or [error.body.get("detail")]
        answer |= {"ready": False, "reasons": reasons}
    for name, path in _DOCUMENTS.items():
        try:
            answer[name] = session.api.get(path, seconds=_SECONDS)
        except ProblemError as error:
            answer[name] = None
            if error.status != 404:
                problems[name] = str(error)
    newest = session.api.get("/v1/operations", kind="manifest.verify", limit=1)["operations"]
    answer["verification"] = newest[0] if newest else None
    answer["operations"] = [
        each
        for state in ("running", "queued")
        for each in session.api.get("/v1/operations", state=state, limit=100)["operations"]
    ]
    return answer


def _differs(answer: Mapping[str, Any]) -> bool:
    tuning, reimage = answer["tuning"] or {}, answer["reimage"] or {}
    verification = answer["verification"] or {}
    return bool(
        tuning.get("drifted")
        or tuning.get("problem")
        or reimage.get("state") in _TROUBLED
        or verification.get("outcome") in ("differs", "partial")
    )
