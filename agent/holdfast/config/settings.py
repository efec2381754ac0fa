"""The settings themselves: names, types, defaults, and what values make sense together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ByteSize,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from holdfast.config.addresses import is_loopback, split_address
from holdfast.config.reimage_section import ReimageSettings
from holdfast.config.sections import (
    DataSettings,
    ManifestSettings,
    MemorySettings,
    NodeSettings,
    OperationSettings,
    PageCacheSettings,
    TelemetrySettings,
    TlsSettings,
    TransferSettings,
    TuningSettings,
)
from holdfast.config.types import (
    AbsolutePath,
    Number,
    OptionalPath,
    Size,
)


class Settings(BaseSettings):
    """Everything that can be set. Sizes are bytes, or text such as `64 MiB`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="HOLDFAST_",
        env_nested_delimiter="__",
        validate_default=False,
    )

    roots: Annotated[list[AbsolutePath], NoDecode, Field(min_length=1, max_length=64)] = Field(
        default=[Path("/mnt/data")],
        description="Directories of state; every path passed to holdfast must be in one of them.",
    )
    state_dir: OptionalPath = Field(
        default=None,
        description="holdfast's own state; `<first root>/.holdfast` unless set.",
    )
    fallback_state_dir: AbsolutePath = Field(
        default=Path("/var/lib/holdfast"),
        description="Where a minimal state is kept while the first root is missing.",
    )
    listen: str = Field(
        default="127.0.0.1:9918", description="TCP `ADDRESS:PORT`; empty turns TCP off."
    )
    socket: OptionalPath = Field(
        default=Path("/run/holdfast/holdfast.sock"),
        description="Unix socket; empty turns it off.",
    )
    socket_mode: Annotated[Number, Field(ge=0)] = Field(
        default=0o660,
        description="Mode of the unix socket: who may use holdfast without a token.",
    )
    helper: OptionalPath = Field(
        default=None,
        description="Unix socket of the privileged helper; empty: this process writes by itself.",
    )
    tls: TlsSettings = Field(default_factory=TlsSettings)
    tokens_file: AbsolutePath = Field(
        default=Path("/etc/holdfast/tokens.json"), description="Hashed bearer tokens."
    )
    loopback_trusted: bool = Field(
        default=False,
        description="Ask no token on TCP. For trying things out; only with a loopback address.",
    )
    host_names: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default=[],
        max_length=16,
        description="Names accepted in `Host` without a token, beside loopback addresses, "
        "`localhost` and `holdfast`; in lower case.",
    )
    max_body_bytes: Annotated[Size, Field(ge=1024, le=1 << 30)] = Field(
        default=ByteSize(1 << 20), description="The largest JSON body accepted."
    )
    max_record_bytes: Annotated[Size, Field(ge=1024, le=1 << 40)] = Field(
        default=ByteSize(1 << 30), description="The largest record file accepted as an upload."
    )
    node: NodeSettings = Field(default_factory=NodeSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    operations: OperationSettings = Field(default_factory=OperationSettings)
    pagecache: PageCacheSettings = Field(default_factory=PageCacheSettings)
    manifests: ManifestSettings = Field(default_factory=ManifestSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    tuning: TuningSettings = Field(default_factory=TuningSettings)
    reimage: ReimageSettings = Field(default_factory=ReimageSettings)
    transfer: TransferSettings = Field(default_factory=TransferSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values as given only: `load_settings` merges the layers and remembers them."""
        return (init_settings,)

    @field_validator("roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        """Take `a:b` as in PATH, which is how the environment gives a list."""
        return value.split(":") if isinstance(value, str) else value

    @field_validator("roots")
    @classmethod
    def _separate_roots(cls, roots: list[Path]) -> list[Path]:
        for number, root in enumerate(roots):
            for other in roots[:number]:
                if root == other:
                    raise ValueError(f"should not name {str(root)!r} twice")
                if root.is_relative_to(other) or other.is_relative_to(root):
                    raise ValueError(
                        f"should not contain one another: {str(other)!r} and {str(root)!r}"
                    )
        return roots

    @field_validator("socket_mode", mode="before")
    @classmethod
    def _octal(cls, value: Any) -> Any:
        """Read text as octal, which is how a mode is written everywhere else."""
        if isinstance(value, str):
            if not re.fullmatch(r"(0o)?[0-7]{3,4}", value):
                raise ValueError(f"should be an octal mode such as 0660, not {value!r}")
            return int(value.removeprefix("0o"), 8)
        return value

    @field_validator("socket_mode")
    @classmethod
    def _sane_mode(cls, mode: int) -> int:
        if mode & ~0o777 or mode & 0o600 != 0o600:
            raise ValueError(
                "should be an octal mode that lets the owner read and write, such as 0o660, "
                f"not {mode:#o}"
            )
        if mode & 0o002:
            raise ValueError(
                f"should not be {mode:#o}: a user who may write to the socket may do everything, "
                "so it cannot be open to all users"
            )
        return mode

    @field_validator("listen")
    @classmethod
    def _parse_listen(cls, value: str) -> str:
        if value:
            split_address(value)
        return value

    @model_validator(mode="after")
    def _fleet_group(self) -> Self:
        if self.reimage.fleet_lock.url and not re.fullmatch(r"[A-Za-z0-9.-]+", self.fleet_group):
            raise ValueError(
                f"`reimage.fleet_lock.group` is taken from `node.group` = {self.node.group!r}, and "
                "may have letters, digits, `.` and `-` only; set it"
            )
        return self

    @model_validator(mode="after")
    def _safe_imager_status(self) -> Self:
        wanted = self.reimage.status_listen
        if wanted in ("", "auto") or self.tls.enabled:
            return self
        if not is_loopback(split_address(wanted)[0]):
            raise ValueError(
                f"`reimage.status_listen` = {wanted!r} reaches beyond this machine, which needs "
                'TLS and tokens; set `tls.certificate` and `tls.key`, or turn it off with ""'
            )
        return self

    @model_validator(mode="after")
    def _safe_listener(self) -> Self:
        address = self.listen_address
        if address is None:
            if self.socket is None:
                raise ValueError(
                    "`listen` and `socket` are both off, so nobody could reach the daemon; "
                    "set one of them"
                )
            return self
        if is_loopback(address[0]):
            return self
        if self.loopback_trusted:
            raise ValueError(
                f"`loopback_trusted` is only for loopback addresses, and `listen` is "
                f"{self.listen!r}; turn it off and make tokens, or listen on 127.0.0.1"
            )
        if not self.tls.enabled:
            raise ValueError(
                f"`listen` = {self.listen!r} reaches beyond this machine, which needs TLS and "
                "tokens; set `tls.certificate` and `tls.key`, or listen on 127.0.0.1"
            )
        return self

    @property
    def fleet_group(self) -> str:
        """The group in which this node asks for the fleet's lock."""
        return self.reimage.fleet_lock.group or self.node.group or "default"

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """Host and port of the TCP listener, or None when it is off."""
        return split_address(self.listen) if self.listen else None

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether other machines can reach the TCP listener."""
        address = self.listen_address
        return address is not None and not is_loopback(address[0])

    def sources(self) -> Mapping[str, str]:
        """Return the source of the value of each setting (`operations.keep`).

        `default`, `flag`, the name of an environment variable, or the path of the settings file.
        """
        return {
            key: self._sources.get(key, "default") for key in flatten(self.model_dump(mode="json"))
        }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested tables into one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
