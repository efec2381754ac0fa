"""Writes holdfast(1) from the command line's own description: python packaging/manpage.py."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from holdfast import __version__
from holdfast.cli.app import app
from holdfast.cli.run.session import Common

HEAD = """.TH HOLDFAST 1 "" "holdfast {version}" "User Commands"
.SH NAME
holdfast \\- replace everything on a stateful server except its state
.SH SYNOPSIS
.B holdfast
.RI [ options ]
.I command
.RI [ arguments ]
.SH DESCRIPTION
{about}
.PP
A command asks the daemon of this machine over its unix socket, or with
.B \\-\\-url
that of another; those that have
.B \\-\\-local
can do the work themselves.
"""
TAIL = """.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
failed; standard error says why in one line
.TP
.B 2
the command line makes no sense
.TP
.B 3
a check ran to its end and found differences
.SH FILES
.TP
.I /etc/holdfast/holdfast.toml
settings; \\fBholdfast config show\\fR prints all of them
.TP
.I /etc/holdfast/profiles.d/*.toml
profiles of your own for \\fBholdfast tune\\fR
.TP
.I /etc/holdfast/tokens.json
hashes of the tokens that \\fBholdfast token\\fR made
.TP
.I /mnt/data/.holdfast
dumps, manifests, operations and the audit log: on the first root
.TP
.I /run/holdfast/holdfast.sock
where the daemon listens; members of the group holdfast may use it
.SH SEE ALSO
.BR systemctl (1),
.BR sysctl (8),
.BR tc (8)
"""


def main() -> None:
    """Print the page."""
    root: Any = typer.main.get_command(app)
    common = set(Common.__dataclass_fields__) | {"help"}
    out = [HEAD.format(version=__version__, about=_text(root.help or ""))]
    out.append(".SH OPTIONS\nThese may stand before or after the name of any command.\n")
    out += [_option(parameter) for parameter in root.params if parameter.name != "help"]
    out.append(".SH COMMANDS\n")
    for path, command in _commands(root, ()):
        arguments = [
            _metavar(parameter)
            for parameter in command.params
            if parameter.param_type_name == "argument"
        ]
        out.append(f".SS {_escape(' '.join([*path, *arguments]))}\n{_text(command.help or '')}\n")
        out += [_option(parameter) for parameter in command.params if parameter.name not in common]
    sys.stdout.write("".join(out) + TAIL)


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        here = (*path, name)
        if hasattr(command, "commands"):
            yield from _commands(command, here)
        else:
            yield here, command


def _option(option: Any) -> str:
    if option.param_type_name == "argument":
        if not option.help:
            return ""
        return f".TP\n.I {_escape(_metavar(option))}\n{_text(option.help)}\n"
    names = ", ".join(f"\\fB{_escape(flag)}\\fR" for flag in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" \\fI{_escape(_metavar(option))}\\fR"
    return f".TP\n{names}{value}\n{_text(option.help or '')}\n"


def _metavar(parameter: Any) -> str:
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if parameter.metavar is None and isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(member.value for member in kind)
    return str(parameter.metavar or parameter.name.upper().replace("_", "-"))


def _text(text: str) -> str:
    plain = re.sub(r"\[/?(bold|italic|dim|cyan|green|yellow|red)\]", "", text).replace("\\[", "[")
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", plain)]
    return "\n.PP\n".join(_escape(paragraph) for paragraph in paragraphs if paragraph)


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped)


if __name__ == "__main__":
    main()
