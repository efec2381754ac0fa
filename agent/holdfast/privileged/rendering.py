"""holdfast's own configuration files: text from data, and data from text.

Other programs interpret these files. So each is parsed again before it is written and has to give
exactly the data it was made from, and a file that does not parse is not holdfast's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from holdfast.privileged.writes import (
    LimitsFileWrite,
    OwnFileWrite,
    SysctlFileWrite,
    TmpfilesFileWrite,
    UdevFileWrite,
    UdevRule,
)

_HEAD = "# Written by holdfast for profile {profile} (holdfast tune apply --persist).\n"
_TAIL = (
    "# Removed by `holdfast tune rollback`. Do not edit: change the profile and apply it again.\n"
)
_LIMITS_HEAD = (
    "# Written by holdfast (holdfast tune); removed by `holdfast tune rollback`. Do not edit.\n"
)
# Everything else could be a line break (systemd takes CR and NUL for one), or join two lines.
_PLAIN = re.compile(r"[\n\t -\[\]-~]*")
_PROFILE = re.compile(r"# Written by holdfast for profile ([A-Za-z0-9_.-]+) \(.*")
_SYSCTL = re.compile(r"([^ =#;]+) = (.+)")
_RULE = re.compile(r'ACTION=="add\|change", SUBSYSTEM=="block", (.*?), (ATTR\{queue/.*)')
_MATCHES = {
    "md": ('KERNEL=="md*", TEST=="md"', ""),
    "wwid": ('ENV{DEVTYPE}=="disk", ATTRS{wwid}=="', '"'),
    "serial": ('ENV{DEVTYPE}=="disk", ENV{ID_SERIAL_SHORT}=="', '"'),
}
_ATTRIBUTE = re.compile(r'ATTR\{queue/([a-z_]+)\}="([^"]*)"')
_HUGE_PAGES = re.compile(r"w /sys/kernel/mm/transparent_hugepage/([a-z]+) - - - - (.+)")
_MODULE = re.compile(r"w /sys/module/([^/]+)/parameters/([^/ ]+) - - - - (.+)")
_LIMIT = re.compile(r"Limit([A-Z]+)=(.+)")


class ForeignFileError(ValueError):
    """A file that holdfast did not write; the message is a clause."""


def render(write: OwnFileWrite) -> str | None:
    """Return the text of a file; None if there is none. Raises `ValueError`."""
    lines = list(_lines(write))
    if not lines:
        return None
    if isinstance(write, LimitsFileWrite):
        head = f"{_LIMITS_HEAD}[Service]\n"
    else:
        head = _HEAD.format(profile=write.profile) + _TAIL if write.profile else _TAIL
    text = head + "".join(f"{line}\n" for line in lines)
    unit = write.unit if isinstance(write, LimitsFileWrite) else ""
    if parse(write.kind, text, unit) != write:
        raise ValueError("the file would contain something else than was asked for")
    return text


def _lines(write: OwnFileWrite) -> Iterator[str]:
    match write:
        case SysctlFileWrite():
            yield from (f"{name} = {value}" for name, value in write.settings)
        case UdevFileWrite():
            for rule in write.rules:
                before, after = _MATCHES[rule.match]
                values = ", ".join(
                    f'ATTR{{queue/{name}}}="{value}"' for name, value in rule.settings
                )
                which = f"{before}{rule.value}{after}"
                yield f'ACTION=="add|change", SUBSYSTEM=="block", {which}, {values}'
        case TmpfilesFileWrite():
            for attribute, mode in write.huge_pages:
                yield f"w /sys/kernel/mm/transparent_hugepage/{attribute} - - - - {mode}"
            for module, parameter, value in write.modules:
                yield f"w /sys/module/{module}/parameters/{parameter} - - - - {value}"
        case LimitsFileWrite():
            for limit in sorted(write.limits):
                yield f"Limit{limit.upper()}={write.limits[limit]}"


def parse(kind: str, text: str, unit: str = "") -> OwnFileWrite:
    """Return the content of one of holdfast's files. Raises `ForeignFileError` if it is not one."""
    if not _PLAIN.fullmatch(text):
        raise ForeignFileError("has characters that holdfast never writes")
    found = (_PROFILE.fullmatch(line) for line in text.split("\n"))
    profile = next((match[1] for match in found if match), "")
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    try:
        match kind:
            case "sysctl.d":
                settings = [_groups(_SYSCTL, line) for line in lines]
                return SysctlFileWrite.model_validate({"profile": profile, "settings": settings})
            case "udev":
                return UdevFileWrite(profile=profile, rules=[_rule(line) for line in lines])
            case "tmpfiles.d":
                pages = [line for line in lines if _HUGE_PAGES.fullmatch(line)]
                rest = [line for line in lines if line not in pages]
                return TmpfilesFileWrite.model_validate(
                    {
                        "profile": profile,
                        "huge_pages": [_groups(_HUGE_PAGES, line) for line in pages],
                        "modules": [_groups(_MODULE, line) for line in rest],
                    }
                )
            case _:
                return _limits(unit, lines)
    except ValueError as error:
        raise ForeignFileError("has a line that holdfast never writes") from error


def _groups(pattern: re.Pattern[str], line: str) -> tuple[str, ...]:
    match = pattern.fullmatch(line)
    if match is None:
        raise ValueError(line)
    return match.groups()


def _rule(line: str) -> UdevRule:
    which, values = _groups(_RULE, line)
    settings = _ATTRIBUTE.findall(values)
    if ", ".join(f'ATTR{{queue/{name}}}="{value}"' for name, value in settings) != values:
        raise ValueError(line)
    for match, (before, after) in _MATCHES.items():
        value = which.removeprefix(before).removesuffix(after) if after else ""
        if which == f"{before}{value}{after}":
            return UdevRule.model_validate({"match": match, "value": value, "settings": settings})
    raise ValueError(line)


def _limits(unit: str, lines: list[str]) -> LimitsFileWrite:
    if lines and lines[0] != "[Service]":
        raise ValueError(lines[0])
    limits = [_groups(_LIMIT, line) for line in lines[1:]]
    named = {name.lower(): value for name, value in limits}
    if len(named) < len(limits):
        raise ValueError("a limit is there twice")
    return LimitsFileWrite.model_validate({"unit": unit, "limits": named})
