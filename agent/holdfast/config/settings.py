"""The settings themselves: names, types, defaults, and what values make sense together."""

from __future__ import annotations

import ipaddress
import os.path
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
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

from holdfast.config.confirm_when import ConfirmWhen
from holdfast.space import AUTO, parse_floor


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"should be an absolute path, not {str(path)!r}")
    if "\0" in str(path):
        raise ValueError("should not contain a NUL character")
    return Path(os.path.normpath(path))


def _no_bool(value: Any) -> Any:
    # bool is an int to Python; in a settings file `true` for a number is a mistake.
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


def _none_if_empty(value: Any) -> Any:
    return None if value == "" else value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
OptionalPath = Annotated[AbsolutePath | None, BeforeValidator(_none_if_empty)]
Number = Annotated[int, BeforeValidator(_no_bool)]
Size = Annotated[ByteSize, BeforeValidator(_no_bool)]


class Section(BaseModel, defer_build=True):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSettings(Section):
    """TLS of the TCP listener; off unless `certificate` and `key` are set."""

    certificate: OptionalPath = Field(default=None, description="PEM file with the chain.")
    key: OptionalPath = Field(default=None, description="PEM file with the private key.")
    client_ca: OptionalPath = Field(
        default=None,
        description="PEM file with authorities; clients must then show a certificate of theirs.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise ValueError(f"`tls.certificate` and `tls.key` go together; set tls.{missing} too")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("`tls.client_ca` needs `tls.certificate` and `tls.key` as well")
        return self

    @property
    def enabled(self) -> bool:
        """Whether the TCP listener speaks TLS."""
        return self.certificate is not None


class DataSettings(Section):
    """What holdfast may take of the data volume."""

    free_space_floor: str = Field(
        default=AUTO,
        description="Space of the state directory's volume that holdfast leaves free, whatever it "
        "writes: a size, a percentage such as `5 %`, or `auto`: the larger of 5 % and 10 GiB, and "
        "no more than 10 % for the sake of 10 GiB.",
    )

    @field_validator("free_space_floor", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        """Take a number of bytes as well."""
        return str(_no_bool(value)) if isinstance(value, int) else value

    @field_validator("free_space_floor")
    @classmethod
    def _floor(cls, value: str) -> str:
        parse_floor(value)
        return value


class OperationSettings(Section):
    """How long work is run and remembered."""

    max_running: Annotated[Number, Field(ge=1, le=64)] = Field(
        default=4, description="Operations that run at the same time; others wait their turn."
    )
    keep: Annotated[Number, Field(ge=1, le=1_000_000)] = Field(
        default=1000, description="Finished operations remembered."
    )
    keep_days: Annotated[Number, Field(ge=1, le=36_500)] = Field(
        default=90, description="Days a finished operation is remembered."
    )


class PageCacheSettings(Section):
    """Dumps and loads of the page cache."""

    dumps_kept: Annotated[Number, Field(ge=1, le=10_000)] = Field(
        default=5, description="Dumps retained; the oldest go first."
    )
    reserve_bytes: Size = Field(
        default=ByteSize(1 << 30), description="Memory a load leaves available."
    )


class ManifestSettings(Section):
    """Manifests, and how files are read for them."""

    kept: Annotated[Number, Field(ge=1, le=10_000)] = Field(
        default=20, description="Manifests retained; the oldest go first."
    )
    reader: Literal["auto", "io_uring", "pread", "buffered"] = Field(
        default="auto",
        description="How files are read: the best way that works, or one of the ways.",
    )


class TuningSettings(Section):
    """Kernel settings by profile."""

    profile: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$")] = Field(
        default="",
        description="Profile for a node on which none was ever applied; empty for none.",
    )
    profiles_dir: AbsolutePath = Field(
        default=Path("/etc/holdfast/profiles.d"),
        description="Profiles of your own, `NAME.toml`; they win over those of the same name.",
    )
    journal_dir: OptionalPath = Field(
        default=None,
        description="Where is recorded what settings were before: a directory on the system's disk "
        "that only root can write; `/var/lib/holdfast-helper/…` unless set. The helper has an "
        "option of this name.",
    )
    reapply: bool = Field(
        default=True, description="Apply the profile in force again after a boot."
    )
    check_seconds: Annotated[float, BeforeValidator(_no_bool), Field(ge=0.1, le=86_400)] = Field(
        default=10.0, description="Look for drift this often."
    )


LabelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
LabelText = Annotated[str, Field(pattern=r"^[\x20-\x7e]{0,128}$")]


class NodeSettings(Section):
    """What this node is to its operator."""

    cluster: LabelText = Field(default="", description="The cluster that it belongs to.")
    group: LabelText = Field(
        default="", description="Its part of the cluster: one of which few go down at a time."
    )
    labels: Annotated[dict[LabelName, LabelText], Field(max_length=16)] = Field(
        default={}, description="Names and values of your own, for metrics and `GET /v1/node`."
    )
    metadata: str = Field(
        default="auto",
        description="Where EC2's metadata service is; `auto`: at its usual address, if the "
        "firmware says that this is EC2; empty: ask nobody.",
    )

    @field_validator("metadata")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        if value not in ("", "auto") and not re.fullmatch(r"http://[0-9A-Za-z.:\[\]-]+", value):
            raise ValueError(f"should be `auto`, empty, or http://ADDRESS[:PORT], not {value!r}")
        return value


class TransferSettings(Section):
    """State transfer from node to node."""

    listen: str = Field(
        default="",
        description="Where destinations fetch what this node offers: ADDRESS:PORT, with TLS "
        "always; empty: nothing is offered.",
    )
    addresses: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default=[],
        max_length=16,
        description="Addresses or names of this node for tickets; empty: that of "
        "`transfer.listen`, or if it is a wildcard those of the interfaces.",
    )
    connections: Annotated[Number, Field(ge=1, le=32)] = Field(
        default=8, description="Data connections of a pull."
    )

    @field_validator("listen")
    @classmethod
    def _parse_listen(cls, value: str) -> str:
        if value and split_address(value)[1] == 0:
            raise ValueError(f"should have a port that stays, as tickets name it, not {value!r}")
        return value

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of the data listener, or None when it is off."""
        return split_address(self.listen) if self.listen else None


LockText = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{0,128}$")]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=86_400)]


class FleetLockSettings(Section):
    """The lock manager (FleetLock) that is asked before a reboot; off without `url`."""

    url: str = Field(
        default="", description="Where it is, without `/v1/…`; empty: nobody is asked."
    )
    id: LockText = Field(
        default="", description="How this node calls itself there; its own id unless set."
    )
    group: LockText = Field(
        default="", description="Whose slots it takes; `node.group` unless set, or `default`."
    )
    seconds: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=3600)] = Field(
        default=60.0, description="How long one reboot asks for the lock before it is refused."
    )

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[!-~]+", value):
            raise ValueError(f"should be empty, or begin with https:// or http://, not {value!r}")
        return value


class ReimageSettings(Section):
    """Re-imaging in place."""

    window: Annotated[list[str], Field(max_length=64)] = Field(
        default=[],
        description="Maintenance windows: [DAYS] [DATE] FROM-TO ZONE, such as `Sat,Sun 02:00-06:00 "
        "Europe/Berlin`. The machine goes down only while one is open; empty: at any time.",
    )
    fleet_lock: FleetLockSettings = Field(default_factory=FleetLockSettings)
    confirm_when: Annotated[list[ConfirmWhen], Field(max_length=32)] = Field(
        default=[],
        description="What has to be good `stable` times in a row before a new system is confirmed: "
        "tables with `check` (`command`, `http`, `unit`, `redis`, `memcached`, `postgresql`, "
        "`zookeeper` or `elasticsearch`), what it reads, and how long.",
    )
    before_reboot: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        max_length=64,
        description="Run before the machine goes down, as the daemon's user, to drain it; it must "
        "end with 0. A program and its arguments; empty for none.",
    )
    before_reboot_seconds: Seconds = Field(
        default=300.0, description="How long `reimage.before_reboot` may take."
    )

    check_command: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        max_length=64,
        description="Run in the new system before it is confirmed, as the daemon's user; it must "
        "end with 0. A program and its arguments; empty for none.",
    )
    check_seconds: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=86_400)] = Field(
        default=300.0, description="How long `reimage.check_command` may take."
    )
    status_listen: str = Field(
        default="auto",
        description="Where the imager tells how far it is: ADDRESS:PORT; `auto`: as `listen` if "
        "that reaches beyond this machine; empty: nowhere but on the console. Needs `tls`.",
    )
    ca_file: OptionalPath = Field(
        default=None, description="PEM file with authorities to trust for https image sources."
    )
    sources: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(
        default=[],
        max_length=256,
        description="Prefixes of the URLs that images are fetched from, such as "
        "`https://images.example.org/linux/` or `s3://bucket/images/`, for redirects too. Empty: "
        "from anywhere, and then only callers with the scope `admin` may plan.",
    )
    trusted_keys_dir: AbsolutePath = Field(
        default=Path("/etc/holdfast/trusted-keys.d"),
        description="Public keys, `NAME.pem`, whose signatures of descriptors are taken; read at "
        "each request.",
    )
    require_signature: bool = Field(
        default=False,
        description="Take no descriptor that is not signed by a trusted key, whatever its SHA-256.",
    )
    allow_kexec: bool = Field(
        default=False,
        description="Have the running kernel start the imager where no boot loader can boot it "
        "once. Without a firmware in between some devices do not start again; never on Xen.",
    )
    imager: AbsolutePath = Field(
        default=Path("/usr/lib/holdfast/imager/holdfast-imager"),
        description="The program that writes images; in a checkout target/imager/holdfast-imager.",
    )

    @field_validator("window", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Take one window as text."""
        return [value] if isinstance(value, str) and value else value or []

    @field_validator("window")
    @classmethod
    def _windows(cls, value: list[str]) -> list[str]:
        if value:
            from holdfast.reimage.interlock.window import (  # noqa: PLC0415 - slow to import
                parse_window,
            )

            for text in value:
                parse_window(text)
        return value

    @field_validator("sources")
    @classmethod
    def _prefixes(cls, value: list[str]) -> list[str]:
        if value:
            from holdfast.reimage.images.sources.allowed import (  # noqa: PLC0415 - slow to import
                AllowedSources,
            )

            AllowedSources(value)
        return value

    @field_validator("status_listen")
    @classmethod
    def _address(cls, value: str) -> str:
        if value not in ("", "auto"):
            split_address(value)
        return value


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
        description="Directories of state; every path given to holdfast must lie in one of them.",
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
    tuning: TuningSettings = Field(default_factory=TuningSettings)
    reimage: ReimageSettings = Field(default_factory=ReimageSettings)
    transfer: TransferSettings = Field(default_factory=TransferSettings)
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
                        f"should not lie in one another: {str(other)!r} and {str(root)!r}"
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
                f"should not be {mode:#o}: whoever may write to the socket may do everything, "
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


def split_address(text: str) -> tuple[str, int]:
    """Split `ADDRESS:PORT` (`[::1]:80` for IPv6). Raises `ValueError` with a clear sentence."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(
            f"should be ADDRESS:PORT with a port up to 65535, for example 127.0.0.1:9918, "
            f"not {text!r}"
        )
    if host == "localhost":
        return host, int(port)
    with suppress(ValueError):
        if bracketed == (ipaddress.ip_address(host).version == 6):
            return host, int(port)
    raise ValueError(
        f"should begin with an IPv4 address, an IPv6 address in brackets or localhost, not {text!r}"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
