"""`holdfast tune`: kernel settings by profile."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.registration.command import command, group
from holdfast.cli.registration.completion import profile_names
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import CliError, ExitCode

if TYPE_CHECKING:
    from holdfast.tuning.models import Plan

app = group(
    "tune",
    "Kernel settings by profile: see what would change, apply all or nothing, watch, roll back.",
    lines=[
        "holdfast tune plan cassandra",
        "holdfast tune apply cassandra",
        "holdfast tune show",
        "holdfast tune rollback",
    ],
)


class To(StrEnum):
    """How far back."""

    LAST = "last"
    FIRST = "first"


Profile = Annotated[
    str | None,
    typer.Argument(
        metavar="[PROFILE]",
        help="A profile's name.",
        show_default="the one that is applied",
        autocompletion=profile_names,
    ),
]
Persist = Annotated[
    bool,
    typer.Option(
        "--persist", help="Also write sysctl.d, udev and tmpfiles.d files, which count at boot."
    ),
]
All = Annotated[bool, typer.Option("--all", help="Also what is right already.")]


@command(
    app,
    "show",
    local=True,
    lines=["holdfast tune show", "holdfast tune show --json | jq '.drifted[].name'"],
)
def show(session: Session) -> None:
    """Show the profile that is applied and what has drifted from it. Exits with 3 on drift."""
    from holdfast.tuning.models import TuningState

    state = TuningState.model_validate(session.backend.profiles.state())
    if session.out.as_json:
        session.out.json(state)
    else:
        from holdfast.cli.commands.tune.views import show_state

        show_state(session.out, state)
    if state.problem is not None:
        raise typer.Exit(ExitCode.FAILED)
    if state.drifted:
        raise typer.Exit(ExitCode.DIFFERENCES)


@command(
    app,
    "plan",
    local=True,
    lines=["holdfast tune plan cassandra", "holdfast tune plan --all elasticsearch"],
)
def plan(
    session: Session, *, profile: Profile = None, persist: Persist = False, everything: All = False
) -> None:
    """Print what applying a profile would change. Exits with 3 if anything would.

    ~ is written, < goes back to what it was before, = is right, - is not here, ! cannot be.
    """
    from holdfast.cli.commands.tune.views import show_plan

    found = _plan(session, profile, persist=persist)
    if session.out.as_json:
        session.out.json(found)
    else:
        show_plan(session.out, found, everything=everything)
        if found.applicable and found.changes:
            flag = " --persist" if persist else ""
            session.out.hint(f"to apply: holdfast tune apply {found.profile}{flag}")
    if found.changes or not found.applicable:
        raise typer.Exit(ExitCode.DIFFERENCES)


@command(
    app,
    "apply",
    local=True,
    lines=["holdfast tune apply cassandra", "holdfast tune apply --yes --persist cassandra"],
)
def apply(
    session: Session,
    *,
    profile: Profile = None,
    persist: Persist = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")] = False,
) -> None:
    """Apply a profile: every setting is written and read back, or all are as they were.

    On a terminal the plan is shown first, and exactly that plan is applied.
    """
    from holdfast.cli.commands.tune.views import show_applied, show_plan

    body: dict[str, Any] = {"profile": profile, "persist": persist or None}
    if session.out.interactive and not yes and not session.out.as_json:
        found = _plan(session, profile, persist=persist)
        show_plan(session.out, found, everything=False)
        if found.applicable and found.changes:
            typer.confirm(
                f"Apply {found.changes} changes of profile {found.profile}?", abort=True, err=True
            )
            body["plan"] = found.plan
    _perform(session, "apply", body, show_applied)


@command(
    app,
    "rollback",
    local=True,
    lines=["holdfast tune rollback", "holdfast tune rollback --to first"],
)
def rollback(
    session: Session,
    *,
    to: Annotated[
        To, typer.Option(help="The state before the last apply, or before the first.")
    ] = To.LAST,
) -> None:
    """Restore the previous settings. Exits with 3 if some could not be.

    What could not be is kept in `holdfast tune show`, and tried again.
    """
    from holdfast.cli.commands.tune.views import show_rolled_back

    answer = _perform(session, "rollback", {"to": to.value}, show_rolled_back)
    if answer.get("left"):
        raise typer.Exit(ExitCode.DIFFERENCES)


@command(
    app,
    "profiles",
    local=True,
    lines=["holdfast tune profiles", "holdfast tune profiles cassandra"],
)
def profiles(
    session: Session,
    *,
    profile: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROFILE]",
            help="Show what it sets, and why.",
            show_default="list all",
            autocompletion=profile_names,
        ),
    ] = None,
) -> None:
    """List the profiles, or show what one sets and where each value comes from."""
    from holdfast.cli.commands.tune import views as tune_views
    from holdfast.tuning.models import ProfileDetails, ProfileList

    stored = session.backend.profiles
    found = stored.list() if profile is None else stored.show(profile)
    if session.out.as_json:
        session.out.json(found)
    elif profile is None:
        tune_views.show_profiles(session.out, ProfileList.model_validate(found))
    else:
        tune_views.show_profile(session.out, ProfileDetails.model_validate(found))


@command(app, "watch", lines=["holdfast tune watch", "holdfast tune watch --json | jq -r .kind"])
def watch(session: Session) -> None:
    """Print what happens to the settings, as it happens; Ctrl-C ends it."""
    accept = "application/x-ndjson" if session.out.as_json else "text/plain"
    path = "/v1/tuning/events"
    try:
        for line in session.api.lines(path, accept=accept):
            session.out.at_once(line.decode())
    except KeyboardInterrupt:
        return


def _plan(session: Session, profile: str | None, *, persist: bool) -> Plan:
    from holdfast.tuning.models import Plan

    body = {"profile": profile, "persist": persist}
    given = {key: value for key, value in body.items() if value}
    return Plan.model_validate(session.backend.profiles.plan(given))


def _perform(session: Session, what: str, body: dict[str, Any], render: Any) -> dict[str, Any]:
    """Do it, print the outcome and return the result. Raises `CliError` if it failed."""
    from holdfast.cli.run.outcome import finish

    given = {key: value for key, value in body.items() if value is not None}
    answer = session.backend.profiles.change(f"tuning.{what}", given)
    if not isinstance(answer, dict):
        return _result(finish(session, answer, _of_operation(render)))
    if session.out.as_json:
        session.out.json(answer)
    else:
        render(session.out, answer)
    return answer


def _result(operation: dict[str, Any] | None) -> dict[str, Any]:
    result: dict[str, Any] = (operation or {}).get("result") or {}
    return result


def _of_operation(render: Any) -> Any:
    def rendered(out: Any, operation: Any) -> None:
        if operation["result"] is None:
            raise CliError(f"operation {operation['id']} has no result")
        render(out, operation["result"])

    return rendered
