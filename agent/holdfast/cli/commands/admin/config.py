"""`holdfast config`: what is set, where it comes from, and what is wrong with it."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.cli.registration.command import command, group
from holdfast.cli.run.session import Session
from holdfast.cli.terminal import units
from holdfast.cli.terminal.errors import CliError

app = group(
    "config",
    "Check and show the settings. Reads the file and the environment; asks no daemon.",
    lines=["holdfast config check", "holdfast config show --config ./holdfast.toml"],
)


@command(
    app,
    "check",
    lines=["holdfast config check", "holdfast config check --config ./holdfast.toml && echo fine"],
)
def check(session: Session) -> None:
    """Report all that is wrong with the settings, on their own and on this machine.

    Ends with 0 if the daemon would start with them, warnings or not, and with 1 otherwise.
    """
    from holdfast.config import DEFAULT_CONFIG_FILE, explain
    from holdfast.config.exposure import check_exposure

    findings = explain(session.common.config)
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        file = session.common.config or DEFAULT_CONFIG_FILE
        findings += check_exposure(session.load_settings(), file)
    if session.out.as_json:
        session.out.json(
            {
                "ok": not errors,
                "findings": [{"level": f.level, "message": f.message} for f in findings],
            }
        )
    else:
        for finding in findings:
            say = session.out.note if finding.level == "note" else session.out.line
            say(f"{finding.level}: {units.printable(finding.message)}")
        if all(finding.level == "note" for finding in findings):
            session.out.line("the settings are fine")
    if errors:
        raise CliError(
            f"the settings have {units.counted(len(errors), 'error')}; correct them first"
        )


@command(app, "show", lines=["holdfast config show", "HOLDFAST_LISTEN= holdfast config show"])
def show(session: Session) -> None:
    """Show what is set, and where each value comes from."""
    from holdfast.config.settings import flatten

    settings = session.load_settings()
    values = flatten(settings.model_dump(mode="json"))
    sources = settings.sources()
    if session.out.as_json:
        session.out.json(
            {key: {"value": value, "source": sources[key]} for key, value in values.items()}
        )
        return
    session.out.table(
        ["setting", "~value", "~from"],
        [(key, _shown(key, value), units.printable(sources[key])) for key, value in values.items()],
    )


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    forms: dict[bool, Callable[[Any], str]] = {
        key.endswith("_bytes"): units.size,
        key.endswith("_mode"): lambda mode: f"{mode:04o}",
        isinstance(value, list): lambda entries: ", ".join(map(str, entries)),
    }
    return units.printable(forms.get(True, str)(value))
