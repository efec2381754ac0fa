"""A check of `reimage.confirm_when`: what is read, and how often it has to be good."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CheckKind = Literal[
    "command",
    "http",
    "unit",
    "redis",
    "memcached",
    "postgresql",
    "zookeeper",
    "elasticsearch",
    "cassandra",
    "kafka",
]
_NEEDED = {
    "command": ("command",),
    "http": ("url",),
    "elasticsearch": ("url",),
    "unit": ("unit",),
    "cassandra": ("command", "address"),
}
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
_HOST = re.compile(r"[A-Za-z0-9.:-]+")
_URL = re.compile(r"https?://[!-~]+")
_UNIT = re.compile(r"[A-Za-z0-9:_.@-]{1,250}\.(service|target|mount|socket|timer)")


class ConfirmWhen(BaseModel):
    """One check."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: CheckKind
    address: str = Field(
        default="",
        description="HOST:PORT of a datastore; for `cassandra` the address of this node, without "
        "a port, as nodetool shows it.",
    )
    url: str = ""
    unit: str = Field(default="", description="Of systemd, such as cassandra.service.")
    command: list[Annotated[str, Field(min_length=1)]] = Field(default=[], max_length=64)
    stable: Annotated[int, Field(ge=1, le=1000)] = 3
    every_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 2.0
    within_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        needed = _NEEDED.get(self.check, ("address",))
        for name in ("address", "url", "unit", "command"):
            given = bool(getattr(self, name))
            if given != (name in needed):
                verb = "needs" if name in needed else "has no"
                raise ValueError(f"`reimage.confirm_when`: a check `{self.check}` {verb} `{name}`")
        form_of_address = (_ADDRESS, "127.0.0.1:6379")
        if self.check == "cassandra":
            form_of_address = (_HOST, "10.0.0.7")
        for value, form, example in (
            (self.address, *form_of_address),
            (self.url, _URL, "http://127.0.0.1:8080/health"),
            (self.unit, _UNIT, "cassandra.service"),
        ):
            if value and not form.fullmatch(value):
                raise ValueError(f"`reimage.confirm_when` has {value!r}; write it as {example}")
        return self

    @property
    def target(self) -> str:
        """What is read, for a person."""
        return self.url or self.unit or " ".join(self.command[:1]) or self.address
