"""The inventory file: which nodes become which image, and what may stop it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from holdfast_rollout.windows import Window

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
_Name = Annotated[str, Field(pattern=NAME)]
_Seconds = Annotated[float, Field(gt=0)]
_Argv = Annotated[list[str], Field(min_length=1)]


class InventoryError(Exception):
    """The inventory cannot be used; the message is one sentence for each fault."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(_Section):
    """One node, by URL or by a unix socket of this machine."""

    name: _Name
    zone: _Name
    url: str | None = None
    socket: str | None = None

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.url is None) == (self.socket is None):
            raise ValueError(f"node {self.name} needs either `url` or `socket`")
        return self


class Access(_Section):
    """How nodes are called. Files are read when they are needed, and their content kept nowhere."""

    token_file: str | None = None
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None


class Image(_Section):
    """What the nodes become; the members are those of `POST /v1/reimage/stage`."""

    descriptor: str
    descriptor_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    signature: str | None = None
    content: str | None = None
    mode: Literal["staged", "network"] = "staged"
    identity: list[str] | None = None
    manifest: str | None = None
    sample_percent: float | None = None
    grow_root: bool | None = None
    save_previous: bool | None = None
    allow_unprotected: bool | None = None
    """Without a lifeboat, where a node has no place for one."""


class Rules(_Section):
    """What bounds a roll, and what stops it."""

    per_zone: Annotated[int, Field(ge=1)] = 1
    """Nodes of a zone that may be disturbed at a time."""
    total: Annotated[int, Field(ge=1)] | None = None
    """Nodes that may be disturbed at a time in all zones."""
    zones_at_once: Annotated[int, Field(ge=1)] = 1
    canary: Annotated[int, Field(ge=0)] = 1
    """Nodes of the first zone that have to be done before any other is disturbed."""
    max_failed: Annotated[int, Field(ge=0)] = 0
    max_unknown: Annotated[int, Field(ge=0)] = 0
    ahead: Annotated[int, Field(ge=1)] = 8
    """Nodes that are checked and staged, and not yet disturbed, at a time."""
    windows: list[str] = []
    recheck_seconds: _Seconds = 30.0
    """How often windows and alerts are read again while they hold the roll."""
    on_failure: Literal["leave", "rollback"] = "leave"
    """What becomes of a node whose new system does not pass: the old one needs `save_previous`."""

    @field_validator("windows")
    @classmethod
    def _known_windows(cls, texts: list[str]) -> list[str]:
        for text in texts:
            Window.parse(text)
        return texts


class Times(_Section):
    """How long a step may take, in seconds."""

    poll: _Seconds = 30.0
    """Between two requests to a node while it is waited for."""
    answer: _Seconds = 300.0
    """How long a node that does not answer is called for a step."""
    stage: _Seconds = 7200.0
    reboot: _Seconds = 1800.0
    """How long a reboot that the node holds back is tried."""
    boots: _Seconds = 3600.0
    """From the order to reboot to the new system, checked by itself."""


class Hook(_Section):
    """A command on the controller: a program and its arguments, without a shell."""

    command: _Argv
    seconds: _Seconds = 600.0


class Hooks(_Section):
    """What is run for a node before it is disturbed, and once it is back."""

    drain: Hook | None = None
    release: Hook | None = None


class Gate(_Section):
    """What has to hold once a node is back: a command, a URL, or a query to Prometheus."""

    command: _Argv | None = None
    url: str | None = None
    query: str | None = None
    prometheus: str | None = None
    stable: Annotated[int, Field(ge=1)] = 3
    every_seconds: _Seconds = 10.0
    within_seconds: _Seconds = 900.0

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(each is not None for each in (self.command, self.url, self.query)) != 1:
            raise ValueError("a gate has one of `command`, `url` and `query`")
        if (self.query is None) != (self.prometheus is None):
            raise ValueError("a gate with `query` needs `prometheus`, and only such a one")
        return self


class AlertSource(_Section):
    """Alerts that hold the roll while one of them fires."""

    alertmanager: str | None = None
    prometheus: str | None = None
    matchers: list[str] = []
    """Alertmanager: its matchers, such as `severity="page"`. Prometheus: names of alerts."""
    ca_file: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.alertmanager is None) == (self.prometheus is None):
            raise ValueError("alerts need either `alertmanager` or `prometheus`")
        return self


class Inventory(_Section):
    """A whole roll."""

    roll: _Name
    image: Image
    nodes: Annotated[list[Node], Field(min_length=1)]
    access: Access = Access()
    rules: Rules = Rules()
    times: Times = Times()
    hooks: Hooks = Hooks()
    gates: list[Gate] = []
    alerts: list[AlertSource] = []
    notify: Hook | None = None
    """A command that receives each event as JSON on its standard input."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [node.name for node in self.nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"nodes are there twice: {', '.join(twice)}")
        if self.rules.on_failure == "rollback" and not self.image.save_previous:
            raise ValueError('`on_failure = "rollback"` needs `save_previous = true` in `image`')
        return self

    @property
    def zones(self) -> dict[str, list[Node]]:
        """The nodes by zone, both in the order of the file."""
        zones: dict[str, list[Node]] = {}
        for node in self.nodes:
            zones.setdefault(node.zone, []).append(node)
        return zones

    def changed_since(self, first: Inventory) -> list[str]:
        """Return the members that count from a roll's first run, and are others now."""
        now, then = self._settled(), first._settled()
        return [name for name in now if now[name] != then[name]]

    def _settled(self) -> dict[str, Any]:
        """Return what a roll decides by; the rest is read again by each run."""
        return {
            "image": self.image,
            "nodes": [(node.name, node.zone) for node in self.nodes],
            "rules": self.rules.model_dump(exclude={"windows", "recheck_seconds"}),
            "times": self.times,
        }

    def node(self, name: str) -> Node:
        """Return a node by name. Raises `KeyError`."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


def read_inventory(path: Path) -> Inventory:
    """Read a TOML or YAML file. Raises `InventoryError`."""
    try:
        text = path.read_text(encoding="utf-8")
        document: Any = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise InventoryError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InventoryError(f"{path} is not valid: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise InventoryError(f"{path} has no members; it needs `roll`, `image` and `nodes`.")
    return parse_inventory(document, str(path))


def parse_inventory(document: Any, name: str) -> Inventory:
    """Check the content of an inventory. Raises `InventoryError`."""
    try:
        return Inventory.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(_fault(dict(each)) for each in error.errors())
        raise InventoryError(f"{name}: {faults}.") from error


def _fault(error: dict[str, Any]) -> str:
    where = ".".join(map(str, error["loc"]))
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"`{where}`: {message}" if where else message
