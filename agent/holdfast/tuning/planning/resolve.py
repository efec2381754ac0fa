"""From a profile to settings of this machine: conditions, selectors, inheritance, arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast.tuning.planning.couplings import EXCLUSIONS
from holdfast.tuning.planning.inventory import Inventory
from holdfast.tuning.planning.knobs import Knob, Subsystem
from holdfast.tuning.profile.expressions import ExpressionError, Number, evaluate, fill
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
from holdfast.tuning.profile.library import Lineage
from holdfast.tuning.profile.schema import rule_of
from holdfast.tuning.subsystems import qdiscs
from holdfast.tuning.subsystems.limits import Limits


@dataclass(frozen=True)
class Wanted:
    """What a profile wants of one knob."""

    knob: Knob
    value: str
    """As it would be observed."""
    profile: str
    """Of which layer."""
    spot: Spot
    only_if_present: bool


@dataclass(frozen=True)
class Resolved:
    """All that a profile wants of this machine."""

    profile: str
    policy: Policy
    digest: str
    """Of the profile's files."""
    wanted: Sequence[Wanted]
    notes: Sequence[str]
    """Sentences on parts of the profile that mean nothing here."""


@dataclass(frozen=True)
class _Candidate:
    layer: Layer
    entry: Entry
    text: str | None


def resolve(lineage: Lineage, machine: Inventory, subsystems: Mapping[str, Subsystem]) -> Resolved:
    """Work out what a profile means here. Raises `ProfileError`."""
    return _Resolver(lineage, machine, subsystems).resolve()


def digest_of(lineage: Lineage) -> str:
    """Return an identity of the content of the files of a profile and its parents."""
    whole = hashlib.sha256()
    for layer in lineage.layers:
        whole.update(f"{layer.name}\0{len(layer.text)}\0{layer.text}".encode())
    return whole.hexdigest()


class _Resolver:
    def __init__(
        self, lineage: Lineage, machine: Inventory, subsystems: Mapping[str, Subsystem]
    ) -> None:
        self._lineage = lineage
        self._machine = machine
        self._subsystems = subsystems
        self._mistakes: list[Mistake] = []
        self._notes: list[str] = []
        self._candidates: dict[Knob, list[_Candidate]] = {}

    def resolve(self) -> Resolved:
        variables = self._variables()
        for layer in self._lineage.layers:
            for table in layer.tables:
                self._take(layer, table, variables)
        wanted = [
            setting
            for knob, some in self._candidates.items()
            for setting in self._decide(knob, some)
        ]
        wanted = self._without_excluded(wanted)
        if self._mistakes:
            raise ProfileError(self._mistakes)
        order = list(self._subsystems)
        wanted.sort(key=lambda setting: (order.index(setting.knob.subsystem), setting.knob))
        return Resolved(
            self._lineage.name,
            self._lineage.policy,
            digest_of(self._lineage),
            wanted,
            self._notes,
        )

    def _variables(self) -> dict[str, Number]:
        variables = dict(self._machine.variables)
        builtin = frozenset(variables)
        for layer in self._lineage.layers:
            for name, (text, spot) in layer.variables.items():
                if name in builtin:
                    self._mistakes.append(spot.mistake("is a variable that holdfast sets"))
                    continue
                try:
                    variables[name] = evaluate(text, variables)
                except ExpressionError as error:
                    self._mistakes.append(spot.mistake(f"cannot be computed: {error}"))
                    variables[name] = 0
        return variables

    def _take(self, layer: Layer, table: Table, variables: Mapping[str, Number]) -> None:
        if not self._holds(table.when, table.spot, variables):
            self._notes.append(f"{table.spot.place}: left out, as `{table.when}` does not hold.")
            return
        targets = list(self._targets(table))
        if not targets:
            self._notes.append(f"{table.spot.place}: `select` matches nothing on this machine.")
        for entry in table.entries:
            if not self._holds(entry.when, entry.spot, variables):
                self._notes.append(
                    f"{entry.spot.place}: left out, as `{entry.when}` does not hold."
                )
                continue
            for target, queues in targets:
                knob = Knob(table.subsystem, target, entry.name)
                text = self._text(knob, entry, queues, variables)
                self._candidates.setdefault(knob, []).append(_Candidate(layer, entry, text))

    def _targets(self, table: Table) -> Iterator[tuple[str, int]]:
        """Yield each target, and for interfaces the number of its queues."""
        match table.subsystem:
            case "block":
                for device in self._machine.select_devices(table.select):
                    yield device.described.name, 0
            case "network":
                for link in self._machine.select_links(table.select):
                    yield link.name, link.tx_queues
            case _:
                yield table.target, 0

    def _holds(self, when: str | None, spot: Spot, variables: Mapping[str, Number]) -> bool:
        if when is None:
            return True
        try:
            return bool(evaluate(when, variables))
        except ExpressionError as error:
            self._mistakes.append(spot.mistake(f"has a `when` that cannot be computed: {error}"))
            return False

    def _text(
        self, knob: Knob, entry: Entry, queues: int, variables: Mapping[str, Number]
    ) -> str | None:
        """Write a value as it would be observed; None for one that is unset, or wrong."""
        if entry.value is None:
            return None
        try:
            value = _filled(entry.value, variables)
            rule = rule_of(knob.subsystem, knob.name)
            problem = rule.problem(value) if rule is not None else None
            if problem is not None:
                raise ValueError(f"comes to a wrong value here: it {problem}")
            if knob.name == "qdisc" and knob.subsystem == "network":
                return _qdisc(value, queues)
            return self._subsystems[knob.subsystem].canonical(knob, _plain(value))
        except ValueError as error:
            clause = f"cannot be computed: {error}" if isinstance(error, ExpressionError) else error
            self._mistakes.append(entry.spot.mistake(str(clause)))
            return None

    def _decide(self, knob: Knob, candidates: Sequence[_Candidate]) -> Iterator[Wanted]:
        """Choose the value of the layer that inherits from the others, or report a disagreement."""
        ancestors = self._lineage.ancestors
        overridden = frozenset[str]().union(
            *(ancestors[candidate.layer.name] for candidate in candidates)
        )
        left = [candidate for candidate in candidates if candidate.layer.name not in overridden]
        # Within one file what is written later counts.
        by_layer = {candidate.layer.name: candidate for candidate in left}
        first, *others = by_layer.values()
        for other in others:
            if other.text != first.text:
                self._mistakes.append(
                    other.entry.spot.mistake(
                        f"contradicts {first.entry.spot.place} ({other.text} against {first.text}"
                        f"{f' for {knob.target}' if knob.target else ''}); set it in "
                        f"{self._lineage.name} to decide"
                    )
                )
                return
        if first.text is not None:
            yield Wanted(
                knob,
                first.text,
                first.layer.name,
                first.entry.spot,
                first.entry.only_if_present,
            )

    def _without_excluded(self, wanted: list[Wanted]) -> list[Wanted]:
        """Leave out what an heir excludes with another setting that the kernel couples."""
        by_name = {
            setting.knob.name: setting for setting in wanted if setting.knob.subsystem == "sysctl"
        }
        dropped: set[Knob] = set()
        for exclusion in EXCLUSIONS:
            one, other = by_name.get(exclusion.one), by_name.get(exclusion.other)
            if one is None or other is None or not exclusion.excludes(one.value, other.value):
                continue
            ancestors = self._lineage.ancestors
            if one.profile in ancestors[other.profile]:
                one, other = other, one
            if other.profile in ancestors[one.profile]:
                dropped.add(other.knob)
                self._notes.append(
                    f"{other.spot.place}: {other.knob.name} is left out, as {one.knob.name} of "
                    f"{one.spot.place} excludes it."
                )
            else:
                self._mistakes.append(
                    one.spot.mistake(
                        f"excludes {other.knob.name} of {other.spot.place}: {exclusion.reason}; "
                        "unset one of the two"
                    )
                )
        return [setting for setting in wanted if setting.knob not in dropped]


def _filled(value: Value, variables: Mapping[str, Number]) -> Value:
    if isinstance(value, dict):
        return {
            name: fill(parameter, variables) if isinstance(parameter, str) else parameter
            for name, parameter in value.items()
        }
    return fill(value, variables) if isinstance(value, str) else value


def _plain(value: Value) -> str:
    if isinstance(value, bool):
        return "Y" if value else "N"
    return str(value)


def _qdisc(value: Value, queues: int) -> str:
    given = {"kind": value} if not isinstance(value, dict) else dict(value)
    kind = str(given.pop("kind"))
    if kind == "mq" and queues < 2:
        raise ValueError("asks for mq, but the interface has one queue")
    parameters = {
        name: "" if parameter is True else str(parameter) for name, parameter in given.items()
    }
    return qdiscs.desired(kind, parameters, queues=queues)


def is_file(knob: Knob) -> bool:
    """Whether a knob is a file, which a boot does not revert."""
    return knob.subsystem in (Limits.name, "persistence")
