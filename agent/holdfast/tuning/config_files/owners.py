"""Others on this machine that set the same: sysctl.d, tuned, udev rules, systemd-networkd."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from holdfast.node.paths.files import read_text
from holdfast.privileged.config_files import path_of
from holdfast.privileged.writes import sysctl_path
from holdfast.tuning.config_files.sysctl_files import SysctlFiles
from holdfast.tuning.planning import values
from holdfast.tuning.planning.knobs import Knob

_SYSCTL = (
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
)
_UDEV = ("etc/udev/rules.d", "run/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d")
_NETWORK = ("etc/systemd/network", "run/systemd/network", "usr/lib/systemd/network")
_TUNED = ("etc/tuned", "usr/lib/tuned", "etc/tuned/profiles", "usr/lib/tuned/profiles")
_RULE = re.compile(r'ATTR\{(?:\.\./)*queue/([a-z_]+)\}\s*:?=\s*"([^"]*)"')
_MOST_BYTES = 1 << 20
# Sections of systemd.network(5) that set a queueing discipline, by tc's name of it.
_SECTIONS = {
    "fairqueueing": "fq",
    "fairqueueingcontrolleddelay": "fq_codel",
    "tokenbucketfilter": "tbf",
    "pfifofast": "pfifo_fast",
    "pfifo": "pfifo",
    "bfifo": "bfifo",
    "cake": "cake",
    "qdisc": "a qdisc",
}
# What tuned.conf(5) calls them: (section type, option).
_TUNED_OPTIONS = {
    ("block", "scheduler"): ("disk", "elevator"),
    ("block", "read_ahead_kb"): ("disk", "readahead"),
    ("memory", "transparent_hugepages"): ("vm", "transparent_hugepages"),
    ("network", "txqueuelen"): ("net", "txqueuelen"),
}


class Owners:
    """Reads what others are configured to set; made anew for each plan."""

    def __init__(self, system_root: Path = Path("/")) -> None:
        self._root = system_root

    def conflicts(self, knob: Knob, desired: str) -> list[str]:
        """Name who sets a knob otherwise, a clause for each."""
        found = list(self._tuned_conflicts(knob, desired))
        match knob.subsystem:
            case "sysctl":
                found += self._sysctl_conflicts(knob, desired)
            case "block":
                found += self._udev_conflicts(knob, desired)
            case "network":
                found += self._networkd_conflicts(knob, desired)
        return found

    @property
    def notes(self) -> list[str]:
        """Sentences on who is active."""
        if not self._tuned_profiles:
            return []
        return [
            f"tuned is active with profile {' '.join(self._tuned_profiles)}: it may write its "
            "values back; turn it off, or leave these settings out of one of the two."
        ]

    def _sysctl_conflicts(self, knob: Knob, desired: str) -> Iterator[str]:
        for setting in self._sysctls.of(sysctl_path(knob.name)):
            if values.equal(knob.name, setting.value, desired):
                continue
            said = f"{setting.file} sets it to {setting.value}"
            if setting.pattern:
                # Where a file names a setting itself, also one of holdfast's, no pattern counts.
                said += f" with {setting.pattern}"
            elif setting.file.name > _our_name():
                said += " and is read after holdfast's file"
            yield said

    def _udev_conflicts(self, knob: Knob, desired: str) -> Iterator[str]:
        for file, value in self._udev.get(knob.name, ()):
            if value != desired:
                yield f"{file} sets it to {value} for some devices"

    def _networkd_conflicts(self, knob: Knob, desired: str) -> Iterator[str]:
        for file, names, kinds in self._networks:
            if names and not any(fnmatchcase(knob.target, name) for name in names):
                continue
            for kind in kinds:
                if knob.name == "qdisc" and kind not in desired.replace(":", "").split():
                    yield f"{file} (systemd-networkd) sets {kind}"

    def _tuned_conflicts(self, knob: Knob, desired: str) -> Iterator[str]:
        key = ("sysctl", knob.name)
        if knob.subsystem != "sysctl":
            key = _TUNED_OPTIONS.get((knob.subsystem, knob.name), ("", ""))
        value = self._tuned.get(key)
        if value is not None and value.strip('">').split() != desired.split():
            yield f"tuned ({' '.join(self._tuned_profiles)}) sets it to {value}"

    @cached_property
    def _sysctls(self) -> SysctlFiles:
        files = [*self._files(_SYSCTL, ".conf"), self._root / "etc/sysctl.conf"]
        ours = path_of("sysctl.d")
        return SysctlFiles((file, _lines(file)) for file in files if file != ours)

    @cached_property
    def _udev(self) -> Mapping[str, Sequence[tuple[Path, str]]]:
        found: dict[str, list[tuple[Path, str]]] = {}
        for file in self._files(_UDEV, ".rules"):
            if file == path_of("udev"):
                continue
            for line in _lines(file):
                if not line.startswith("#"):
                    for match in _RULE.finditer(line):
                        found.setdefault(match[1], []).append((file, match[2]))
        return found

    @cached_property
    def _networks(self) -> list[tuple[Path, list[str], list[str]]]:
        found = []
        for file in self._files(_NETWORK, ".network"):
            names: list[str] = []
            kinds: list[str] = []
            section = ""
            for line in _lines(file):
                if line.startswith("["):
                    section = line.strip("[]").lower()
                    if section in _SECTIONS:
                        kinds.append(_SECTIONS[section])
                elif section == "match" and line.startswith("Name="):
                    names += line.removeprefix("Name=").split()
            if kinds:
                found.append((file, names, kinds))
        return found

    @cached_property
    def _tuned_profiles(self) -> list[str]:
        """The profiles of tuned, if it runs."""
        pid = read_text(self._root / "run/tuned/tuned.pid")
        if pid is None or not (self._root / "proc" / pid).exists():
            return []
        return (read_text(self._root / "etc/tuned/active_profile") or "").split()

    @cached_property
    def _tuned(self) -> Mapping[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        for name in self._tuned_profiles:
            self._read_tuned(name, found, depth=0)
        return found

    def _read_tuned(self, name: str, found: dict[tuple[str, str], str], *, depth: int) -> None:
        files = (self._root / where / name / "tuned.conf" for where in _TUNED)
        file = next((path for path in files if path.is_file()), None)
        if file is None or depth > 8 or "/" in name:
            return
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read_string("\n".join(_lines(file)))
        except configparser.Error:
            return
        for parent in parser.get("main", "include", fallback="").replace(",", " ").split():
            self._read_tuned(parent, found, depth=depth + 1)
        for section in parser.sections():
            kind = parser.get(section, "type", fallback=section)
            for option, value in parser.items(section):
                if value:
                    found[(kind, option)] = value.strip()

    def _files(self, directories: Sequence[str], suffix: str) -> list[Path]:
        """Return files in the order in which they are read; of one name the first counts."""
        by_name: dict[str, Path] = {}
        for directory in directories:
            try:
                entries = list((self._root / directory).iterdir())
            except OSError:
                continue
            for entry in entries:
                if entry.suffix == suffix:
                    by_name.setdefault(entry.name, entry)
        return [by_name[name] for name in sorted(by_name)]


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.replace("\\\n", " ").splitlines()]


def _our_name() -> str:
    return path_of("sysctl.d").name
