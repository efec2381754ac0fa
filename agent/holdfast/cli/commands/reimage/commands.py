"""`holdfast reimage`: become another system image, and keep the data."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from holdfast.cli.commands.reimage.options import (
    AllowUnprotected,
    Content,
    Descriptor,
    Digest,
    GrowRoot,
    IdentityOption,
    Manifest,
    Manual,
    Mirrors,
    Mode,
    ModeOption,
    RollbackAfter,
    Sample,
    SavePrevious,
    Signature,
    stage_body,
)
from holdfast.cli.registration.command import command, group
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import CliError, ExitCode, UsageError

_SECONDS = 180.0
_REBOOT_SECONDS = 25 * 3600.0
"""The operator's command may take a day."""

app = group(
    "reimage",
    "Replace the system image of this machine in place; its data are not touched.",
    lines=[
        "holdfast reimage plan https://images.example/web-abc.json --sha256 4f0c…",
        "holdfast reimage stage https://images.example/web-abc.json --sha256 4f0c…",
        "holdfast reimage arm",
        "holdfast reimage reboot",
        "holdfast reimage show",
    ],
)


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only report what it would do, or why it would not.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is here.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Attempt = Annotated[
    str | None,
    typer.Option(
        "--operation", metavar="ID", help="Refuse if the attempt here is not of this operation."
    ),
]


@command(
    app,
    "show",
    lines=["holdfast reimage show", "holdfast reimage show --json | jq -r .state"],
)
def show(session: Session) -> None:
    """Show how far re-imaging is, and what is in the way. Exits with 3 if it failed."""
    _show(session, session.api.get("/v1/reimage", seconds=_SECONDS))


@command(
    app,
    "plan",
    lines=[
        "holdfast reimage plan https://images.example/web-abc.json --sha256 4f0c…",
        "holdfast reimage plan file:///mnt/data/web-abc.json --sha256 web-abc.json",
        "holdfast reimage plan https://images.example/signed.json",
    ],
)
def plan(
    session: Session,
    *,
    descriptor: Descriptor,
    sha256: Digest = None,
    signature: Signature = None,
    content: Content = None,
    mirror: Mirrors = None,
    mode: ModeOption = Mode.STAGED,
    identity: IdentityOption = None,
    manifest: Manifest = None,
    sample: Sample = None,
    manual: Manual = False,
    grow_root: GrowRoot = False,
    save_previous: SavePrevious = False,
    allow_unprotected: AllowUnprotected = False,
    rollback_after: RollbackAfter = None,
) -> None:
    """Print what re-imaging would do, disk by disk; changes nothing. Exits with 3 if refused."""
    body = stage_body(
        descriptor,
        sha256,
        signature=signature,
        content=content,
        mirrors=mirror,
        mode=mode,
        identity=identity,
        manifest=manifest,
        sample=sample,
        manual=manual,
        grow_root=grow_root,
        save_previous=save_previous,
        allow_unprotected=allow_unprotected,
        rollback_after=rollback_after,
    )
    _plan(session, "/v1/reimage/plan", body)


@command(
    app,
    "stage",
    lines=[
        "holdfast reimage stage https://images.example/abc.json --sha256 4f0c… --manifest latest",
        "holdfast reimage stage https://images.example/abc.json --sha256 4f0c… --mode network",
    ],
)
def stage(
    session: Session,
    *,
    descriptor: Descriptor,
    sha256: Digest = None,
    signature: Signature = None,
    content: Content = None,
    mirror: Mirrors = None,
    mode: ModeOption = Mode.STAGED,
    identity: IdentityOption = None,
    manifest: Manifest = None,
    sample: Sample = None,
    manual: Manual = False,
    grow_root: GrowRoot = False,
    save_previous: SavePrevious = False,
    allow_unprotected: AllowUnprotected = False,
    rollback_after: RollbackAfter = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
) -> None:
    """Fetch an image and verify all of it. Nothing else is changed yet.

    The operation continues until the new system is confirmed; cancelling it reverts all of it.
    """
    body = stage_body(
        descriptor,
        sha256,
        signature=signature,
        content=content,
        mirrors=mirror,
        mode=mode,
        identity=identity,
        manifest=manifest,
        sample=sample,
        manual=manual,
        grow_root=grow_root,
        save_previous=save_previous,
        allow_unprotected=allow_unprotected,
        rollback_after=rollback_after,
    )
    if dry_run:
        _plan(session, "/v1/reimage/plan", body)
        return
    _staging(session, "/v1/reimage/stage", body, no_wait=no_wait)


@command(app, "arm", lines=["holdfast reimage arm", "holdfast reimage arm --disk vol-0ab3 --yes"])
def arm(
    session: Session,
    *,
    disk: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|SERIAL", help="The disk that will be written; asked for if not given."
        ),
    ] = None,
    operation: Attempt = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Have the next boot, and only that one, write the staged image over the system's disk.

    The disk has to be named, so that nobody writes over another than they think of.
    """
    status = session.api.get("/v1/reimage", seconds=_SECONDS)
    if status["state"] == "armed" and operation in (None, status["operation"]):
        _show(session, status)
        return
    if dry_run:
        _rehearse(session, "/v1/reimage/arm", operation)
        return
    if operation in (None, status["operation"]):
        _confirm_disk(session, status, disk, yes=yes)
    # What was shown is what is armed, whatever another caller stages meanwhile.
    meant = _meant(operation or status["operation"])
    _show(session, session.api.post("/v1/reimage/arm", meant, seconds=_SECONDS))
    session.out.hint("next: holdfast reimage reboot; to undo: holdfast reimage disarm")


@command(app, "disarm", lines=["holdfast reimage disarm"])
def disarm(session: Session, *, operation: Attempt = None) -> None:
    """Put the boot loader's files back as they were; the image stays staged."""
    _show(session, session.api.post("/v1/reimage/disarm", _meant(operation), seconds=_SECONDS))


@command(app, "reboot", lines=["holdfast reimage reboot", "holdfast reimage reboot --yes"])
def reboot(
    session: Session,
    *,
    operation: Attempt = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Although the window is closed, the fleet's lock is not granted, the command "
            "before a reboot fails, or a shutdown is inhibited; all are asked and on record.",
        ),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Reboot this machine into the imager, once window, lock, command and inhibitors allow it."""
    if dry_run:
        _rehearse(session, "/v1/reimage/reboot", operation)
        return
    status = session.api.get("/v1/reimage", seconds=_SECONDS)
    if not yes:
        if not session.out.interactive:
            raise UsageError("nobody can be asked here: give --yes")
        name = (status.get("image") or {}).get("name", "the image")
        disk = (status.get("target") or {}).get("path", "the system's disk")
        typer.confirm(f"Reboot now, and write {name} over {disk}?", abort=True, err=True)
    body: dict[str, Any] = {"force": True} if force else {}
    body |= _meant(operation or status["operation"])
    _show(session, session.api.post("/v1/reimage/reboot", body, seconds=_REBOOT_SECONDS))
    session.out.hint("to follow it: GET /v1/reimage, on the same port, also from the imager")


@command(app, "confirm", lines=["holdfast reimage confirm", "holdfast reimage confirm --override"])
def confirm(
    session: Session,
    *,
    override: Annotated[
        bool, typer.Option("--override", help="Although checks failed; they stay on record.")
    ] = False,
    operation: Attempt = None,
) -> None:
    """Take the new system for good. Checks that failed are made again first."""
    from holdfast.cli.run.outcome import finish
    from holdfast.cli.run.runs import RemoteRun

    body = {"override": override, **_meant(operation)}
    answer = session.api.post("/v1/reimage/confirm", body, seconds=_SECONDS)
    if "kind" in answer:  # checks take long, so this is the operation
        finish(session, RemoteRun(session.api, answer), _ended)
        return
    _show(session, answer)


@command(
    app,
    "rollback",
    lines=["holdfast reimage rollback", "holdfast reimage rollback --manifest latest --manual"],
)
def rollback(
    session: Session,
    *,
    manifest: Manifest = None,
    manual: Manual = False,
    allow_unprotected: AllowUnprotected = False,
    operation: Attempt = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
) -> None:
    """Stage the system that was kept with `--save-previous`; then arm and reboot as usual.

    Nothing is carried over from the present system: it becomes what it was, byte for byte.
    """
    body = {
        "manifest": manifest,
        "confirm": "manual" if manual else "auto",
        **({"allow_unprotected": True} if allow_unprotected else {}),
        **_meant(operation),
    }
    if dry_run:
        _plan(session, "/v1/reimage/rollback/plan", body)
        return
    _staging(session, "/v1/reimage/rollback", body, no_wait=no_wait)


@command(
    app,
    "forget-previous",
    lines=["holdfast reimage forget-previous", "holdfast reimage forget-previous --yes"],
)
def forget_previous(session: Session, *, yes: Yes = False) -> None:
    """Delete the system that was kept; it can then no longer be rolled back to."""
    kept = session.api.get("/v1/reimage", seconds=_SECONDS).get("previous")
    if kept is not None and not yes:
        if not session.out.interactive:
            raise UsageError("nobody can be asked here: give --yes")
        typer.confirm(f"Delete {kept['name']} in {kept['path']}?", abort=True, err=True)
    session.api.delete("/v1/reimage/previous")


def _plan(session: Session, path: str, body: Mapping[str, Any]) -> None:
    """Print a plan. Exits with 3 if something is in the way."""
    from holdfast.cli.commands.reimage.views import show_plan
    from holdfast.reimage.models import ReimagePlan

    found = session.api.post(path, dict(body), seconds=_SECONDS)
    if session.out.as_json:
        session.out.json(found)
    else:
        show_plan(session.out, ReimagePlan.model_validate(found))
    if not found["ok"]:
        raise typer.Exit(ExitCode.DIFFERENCES)


def _meant(operation: str | None) -> dict[str, str]:
    """Return the member of a request that names the attempt, if one is named."""
    return {} if operation is None else {"operation": operation}


def _rehearse(session: Session, path: str, operation: str | None) -> None:
    """Print what a step would write."""
    from holdfast.cli.commands.reimage.views import show_rehearsal
    from holdfast.reimage.models import ReimageStatus

    found = session.api.post(path, {"dry_run": True, **_meant(operation)}, seconds=_SECONDS)
    if session.out.as_json:
        session.out.json(found)
    else:
        show_rehearsal(session.out, ReimageStatus.model_validate(found))


def _staging(session: Session, path: str, body: Mapping[str, Any], *, no_wait: bool) -> None:
    """Start staging, and wait until the image is here."""
    from holdfast.cli.run.outcome import Enough, finish
    from holdfast.cli.run.runs import RemoteRun

    operation = session.api.post(path, dict(body), seconds=_SECONDS)
    if no_wait:
        if session.out.as_json:
            session.out.json(operation)
        else:
            session.out.line(operation["id"])
        return
    staged = Enough(
        until=lambda operation: operation["progress"]["phase"] == "staged", why="staged"
    )
    if finish(session, RemoteRun(session.api, operation), _ended, staged) is None:
        if session.out.as_json:
            session.out.json(session.api.get(f"/v1/operations/{operation['id']}"))
        session.out.hint("next: holdfast reimage arm")


def _confirm_disk(
    session: Session, status: Mapping[str, Any], disk: str | None, *, yes: bool
) -> None:
    target = status.get("target")
    if target is None:
        raise CliError("the disk of this system was not found; see `holdfast reimage show`")
    names = {target["path"], target["path"].rpartition("/")[2], target["serial"]} - {None}
    if disk is None and not yes:
        if not session.out.interactive:
            raise UsageError("nobody can be asked here: name the disk with --disk, and give --yes")
        image = status.get("image") or {}
        session.out.note(
            f"{image.get('name', 'The image')} will replace EVERYTHING on {target['path']}, "
            f"{target['model'] or 'model unknown'}, serial {target['serial'] or 'unknown'}, at the "
            "next boot."
        )
        disk = typer.prompt("Type the name of that disk to continue", err=True)
    if disk is not None and disk not in names:
        raise CliError(f"{disk} is not the disk that would be written, which is {target['path']}")


def _show(session: Session, status: Mapping[str, Any]) -> None:
    from holdfast.cli.commands.reimage.views import show_status
    from holdfast.reimage.models import ReimageStatus

    if session.out.as_json:
        session.out.json(dict(status))
    else:
        show_status(session.out, ReimageStatus.model_validate(dict(status)))
    if status["state"] in ("failed", "unconfirmed", "unknown"):
        raise typer.Exit(ExitCode.DIFFERENCES)


def _ended(out: Any, operation: dict[str, Any]) -> None:
    from holdfast.cli.commands.reimage.views import show_result

    show_result(out, operation)
