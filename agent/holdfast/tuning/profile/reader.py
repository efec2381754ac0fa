"""Reads a profile file into a layer, and reports where each mistake in it is."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.privileged.writes import Refused, is_unit, sysctl_path
from holdfast.tuning.profile.layers import (
    Entry,
    Layer,
    Mistake,
    Policy,
    ProfileError,
    Spot,
    Table,
    Value,
)
from holdfast.tuning.profile.schema import (
    NAMES,
    SELECTORS,
    ValueRule,
    rule_of,
)
from holdfast.tuning.profile.statements import Path, Where, locate

MAX_BYTES = 1 << 16
_TOP = ("profile", "variables", "sysctl", "block", "network", "memory", "limits", "modules")
_PROFILE_KEYS = ("description", "extends", "policy")
_WRAPPER = frozenset({"value", "when", "only_if_present", "unset"})
_VARIABLE = re.compile(r"[a-z][a-z0-9_]*")
PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_layer(name: str, file: str, content: bytes, *, builtin: bool) -> Layer:
    """Check a file's content. Raises `ProfileError` with everything that is wrong with it."""
    if len(content) > MAX_BYTES:
        raise ProfileError([Mistake(file, 0, "", f"is larger than {MAX_BYTES} bytes")])
    try:
        text = content.decode().replace("\r\n", "\n")
        document = tomllib.loads(text)
    except UnicodeDecodeError:
        raise ProfileError([Mistake(file, 0, "", "is not UTF-8 text")]) from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r"\(at line (\d+), column \d+\)", message)
        line = int(found[1]) if found else text.count("\n") + 1
        message = re.sub(r" \(at .*\)$", "", message)
        raise ProfileError([Mistake(file, line, "", f"is not valid TOML: {message}")]) from None
    except RecursionError:
        raise ProfileError([Mistake(file, 0, "", "is nested too deeply")]) from None
    return _Reader(name, file, text, document, builtin=builtin).layer()


class _Reader:
    def __init__(
        self, name: str, file: str, text: str, document: dict[str, Any], *, builtin: bool
    ) -> None:
        self._name = name
        self._file = file
        self._text = text
        self._builtin = builtin
        self._document = document
        self._where = locate(text)
        self._mistakes: list[Mistake] = []

    def layer(self) -> Layer:
        for key in self._document:
            if key not in _TOP:
                self._unknown((key,), "is no subsystem of holdfast", _TOP)
        head = self._table(("profile",))
        for key in head:
            if key not in _PROFILE_KEYS:
                self._unknown(("profile", key), "is not known here", _PROFILE_KEYS)
        layer = Layer(
            name=self._name,
            file=self._file,
            builtin=self._builtin,
            description=self._text_at(head, "description"),
            extends=self._extends(head),
            extends_spot=self._spot(("profile", "extends")),
            policy=self._policy(head),
            variables=self._variables(),
            tables=[*self._plain_tables(), *self._selected("block"), *self._selected("network")],
            text=self._text,
        )
        if self._mistakes:
            raise ProfileError(self._mistakes)
        return layer

    def _text_at(self, head: Mapping[str, Any], key: str) -> str:
        value = head.get(key, "")
        if not isinstance(value, str):
            self._wrong(("profile", key), "should be text")
            return ""
        return value

    def _extends(self, head: Mapping[str, Any]) -> list[str]:
        value = head.get("extends", [])
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._wrong(("profile", "extends"), "should be a list of names of profiles")
            return []
        for name in names:
            if not PROFILE_NAME.fullmatch(name):
                self._wrong(("profile", "extends"), f"names {name!r}, which no profile can be")
        if len(set(names)) < len(names):
            self._wrong(("profile", "extends"), "names a profile twice")
        return names

    def _policy(self, head: Mapping[str, Any]) -> Policy | None:
        value = head.get("policy")
        if value is None or value in ("report", "enforce"):
            policy: Policy | None = value
            return policy
        self._wrong(("profile", "policy"), f'should be "report" or "enforce", not {value!r}')
        return None

    def _variables(self) -> dict[str, tuple[str, Spot]]:
        found = {}
        for name, value in self._table(("variables",)).items():
            path = ("variables", name)
            if not _VARIABLE.fullmatch(name):
                self._wrong(path, "is no name for a variable: use small letters, digits and _")
            elif isinstance(value, bool) or not isinstance(value, str | int | float):
                self._wrong(path, "should be a number or an expression")
            else:
                found[name] = (str(value), self._spot(path))
        return found

    def _plain_tables(self) -> Iterable[Table]:
        if "sysctl" in self._document:
            yield self._one_table("sysctl", "", ("sysctl",), self._sysctls())
        if "memory" in self._document:
            values = self._table(("memory",))
            yield self._one_table("memory", "", ("memory",), _flat(values))
        for subsystem in ("limits", "modules"):
            for target in self._table((subsystem,)):
                path: Path = (subsystem, target)
                if subsystem == "limits" and not is_unit(target):
                    self._wrong(path, "is not the name of a service unit, such as a.service")
                    continue
                if subsystem == "modules" and not re.fullmatch(r"[A-Za-z0-9_]+", target):
                    self._wrong(path, "is not the name of a kernel module")
                    continue
                values = self._table(path)
                yield self._one_table(subsystem, target, path, _flat(values))

    def _sysctls(self) -> dict[str, tuple[Path, Any]]:
        """Take names as they are written: quoted, or as dotted keys, which TOML nests."""
        found: dict[str, tuple[Path, Any]] = {}

        def collect(values: Mapping[str, Any], path: Path, name: str) -> None:
            for key, value in values.items():
                full = f"{name}.{key}" if name else key
                if isinstance(value, dict) and not (_WRAPPER & value.keys()):
                    collect(value, (*path, key), full)
                else:
                    try:
                        canonical = ".".join(part.replace(".", "/") for part in sysctl_path(full))
                    except Refused as error:
                        self._mistakes.append(
                            self._spot((*path, key)).mistake(_clause(error, full))
                        )
                        continue
                    if canonical in found:
                        self._wrong((*path, key), "is set twice in this file")
                    found[canonical] = ((*path, key), value)

        collect(self._table(("sysctl",)), ("sysctl",), "")
        return found

    def _selected(self, subsystem: str) -> Iterable[Table]:
        tables = self._document.get(subsystem, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._wrong((subsystem,), f"is written [[{subsystem}]], with two brackets")
            return
        for number, values in enumerate(tables):
            path: Path = (subsystem, number)
            select = self._select(subsystem, (*path, "select"), values.get("select"))
            when = values.get("when")
            if when is not None and not isinstance(when, str):
                self._wrong((*path, "when"), "should be an expression, as text")
                when = None
            rest = {
                key: ((key,), value)
                for key, value in values.items()
                if key not in ("select", "when")
            }
            yield self._one_table(subsystem, "", path, rest, select=select, when=when)

    def _select(self, subsystem: str, path: Path, value: Any) -> dict[str, list[str] | bool]:
        known = SELECTORS[subsystem]
        if not isinstance(value, dict) or not value:
            self._wrong(path, f"should select devices, by {', '.join(known)}")
            return {}
        found: dict[str, list[str] | bool] = {}
        for key, wanted in value.items():
            where = (*path, key)
            if key not in known:
                hint = "; a name is not kept between boots" if key == "name" else ""
                self._unknown(where, f"is no way to select here{hint}", tuple(known))
                continue
            allowed = known[key]
            if allowed is bool:
                if not isinstance(wanted, bool):
                    self._wrong(where, "should be true or false")
                    continue
                found[key] = wanted
                continue
            words = [wanted] if isinstance(wanted, str) else wanted
            if (
                not isinstance(words, list)
                or not words
                or not all(isinstance(word, str) and word for word in words)
            ):
                self._wrong(where, "should be text, or a list of texts")
                continue
            if isinstance(allowed, tuple):
                for word in words:
                    if word not in allowed:
                        self._wrong(where, f"should be one of {', '.join(allowed)}, not {word!r}")
            found[key] = words
        return found

    def _one_table(
        self,
        subsystem: str,
        target: str,
        path: Path,
        values: Mapping[str, tuple[Path, Any]],
        *,
        select: Mapping[str, list[str] | bool] | None = None,
        when: str | None = None,
    ) -> Table:
        entries = []
        for name, (tail, value) in values.items():
            where = tail if subsystem == "sysctl" else (*path, *tail)
            rule = rule_of(subsystem, name)
            if rule is None:
                self._unknown(where, f"is not a setting of {subsystem}", NAMES[subsystem])
                continue
            entry = self._entry(name, where, value, rule)
            if entry is not None:
                entries.append(entry)
        spot = self._spot(path)
        return Table(subsystem, target, entries, spot, dict(select or {}), when)

    def _entry(self, name: str, path: Path, given: Any, rule: ValueRule) -> Entry | None:
        spot = self._spot(path)
        when: Any = None
        present: Any = None
        value = given
        if isinstance(given, dict) and (_WRAPPER & given.keys()):
            for key in given:
                if key not in _WRAPPER:
                    self._unknown((*path, key), "is not known here", tuple(sorted(_WRAPPER)))
            if given.get("unset") is True:
                if len(given) > 1:
                    self._wrong(path, "cannot be unset and have a value")
                return Entry(name, None, spot)
            if "unset" in given or "value" not in given:
                self._wrong(path, "needs a `value`, or `unset = true`")
                return None
            value, when, present = given["value"], given.get("when"), given.get("only_if_present")
            if when is not None and not isinstance(when, str):
                self._wrong(path, "has a `when` that is no expression; write it as text")
                return None
            if present is not None and not isinstance(present, bool):
                self._wrong(path, "has an `only_if_present` that is neither true nor false")
                return None
        problem = rule.problem(value)
        if problem is not None:
            self._wrong(path, problem)
            return None
        checked: Value = value
        return Entry(name, checked, spot, when, bool(present))

    def _table(self, path: Path) -> Mapping[str, Any]:
        value: Any = self._document
        for key in path:
            value = value.get(key, {})
        if not isinstance(value, dict):
            self._wrong(path, "should be a table")
            return {}
        return value

    def _spot(self, path: Path) -> Spot:
        where = self._nearest(path)
        return Spot(self._file, where.line, _shown(path), where.comment)

    def _nearest(self, path: Path) -> Where:
        for length in range(len(path), 0, -1):
            if path[:length] in self._where:
                return self._where[path[:length]]
        return Where(1, "")

    def _wrong(self, path: Path, message: str) -> None:
        self._mistakes.append(self._spot(path).mistake(message))

    def _unknown(self, path: Path, message: str, known: Iterable[str]) -> None:
        names = list(known)
        close = difflib.get_close_matches(str(path[-1]), names, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; there is {', '.join(names)}"
        self._wrong(path, message + (hint if names else ""))


def _flat(values: Mapping[str, Any]) -> dict[str, tuple[Path, Any]]:
    return {key: ((key,), value) for key, value in values.items()}


def _shown(path: Path) -> str:
    """Write a path as a person would: `sysctl.vm.swappiness`, `block[2].scheduler`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += f".{part}" if text else part
    return text


def _clause(error: Refused, name: str) -> str:
    return str(error).rstrip(".").replace(f"sysctl `{name}` ", "").replace(f"`{name}` ", "")
