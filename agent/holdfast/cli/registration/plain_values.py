"""Values of options that need no validator.

Newer versions of typer build a validator of pydantic for each option of a command, given or not.
Importing pydantic and building them takes longer than most commands do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args


def spare_validators(command: Any, annotations: Mapping[str, Any]) -> None:
    """Let a command take values as they are where typer would have nothing to check or change.

    That is a default, and ASCII text for an option whose annotation is plain text or a path.
    """
    parameters_of = command.get_params

    def get_params(ctx: Any) -> list[Any]:
        parameters: list[Any] = parameters_of(ctx)  # with `--help`, which is made there
        for parameter in parameters:
            if "process_value" not in vars(parameter):
                _spare(parameter, _plain_type(annotations.get(parameter.name)))
        return parameters

    command.get_params = get_params


def _spare(parameter: Any, plain: type[str] | type[Path] | None) -> None:
    process = parameter.process_value

    def process_value(ctx: Any, value: Any) -> Any:
        source = ctx.get_parameter_source(parameter.name)
        if source is not None and source.name == "DEFAULT" and not parameter.required:
            return (
                value if parameter.callback is None else parameter.callback(ctx, parameter, value)
            )
        if (
            plain is not None
            and parameter.callback is None
            and isinstance(value, str)
            and value.isascii()
        ):
            return plain(value)
        return process(ctx, value)

    parameter.process_value = process_value


def _plain_type(annotation: Any) -> type[str] | type[Path] | None:
    """Return the type of an annotation that only stores the text, or None for any other."""
    kind, *metadata = get_args(annotation) or (None,)
    kinds = {member for member in get_args(kind) or (kind,) if member is not NoneType}
    for info in metadata:
        checks = info.exists or info.readable or info.writable or info.resolve_path
        if info.parser is not None or (kinds == {Path} and checks):
            return None
    if kinds == {str}:
        return str
    return Path if kinds == {Path} else None
