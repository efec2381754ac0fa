"""The table `[reimage]` of the settings file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    field_validator,
)

from holdfast.config.addresses import split_address
from holdfast.config.confirm_when import ConfirmWhen
from holdfast.config.types import (
    AbsolutePath,
    OptionalPath,
    Section,
    Size,
    no_bool,
)

LockText = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{0,128}$")]
Seconds = Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=86_400)]


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
    seconds: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=3600)] = Field(
        default=60.0, description="How long one reboot asks for the lock before it is refused."
    )

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[!-~]+", value):
            raise ValueError(f"should be empty, or begin with https:// or http://, not {value!r}")
        return value


_PEER = re.compile(
    r"https://[A-Za-z0-9.:\[\]-]+/?|http://(127\.0\.0\.1|\[::1\]|localhost)(:[0-9]{1,5})?/?"
)


class PeerSettings(Section):
    """Other nodes that are asked for an image before its origin is; off without `urls`."""

    urls: Annotated[list[str], Field(max_length=256)] = Field(
        default=[],
        description="Where the API of each node is, such as `https://10.0.0.7:9918`; this node may "
        "be among them. Those of its zone are asked first, and those of other zones when the "
        "origin cannot be read.",
    )
    token_file: OptionalPath = Field(
        default=None,
        description="File with the token that peers are shown, of the scope `images`.",
    )
    ca_file: OptionalPath = Field(
        default=None,
        description="PEM file with the authorities of peers' certificates; `reimage.ca_file` or "
        "the system's unless set.",
    )
    wait_seconds: Seconds = Field(
        default=900.0,
        description="How long one image waits for peers in total before the origin is read.",
    )

    @field_validator("urls")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for url in value:
            if not _PEER.fullmatch(url):
                raise ValueError(
                    f"should have addresses such as https://10.0.0.7:9918, not {url!r}: the token "
                    "is sent there, so that http is for loopback only"
                )
        if len({url.rstrip("/") for url in value}) < len(value):
            raise ValueError("should not name a peer twice")
        return value


class ReimageSettings(Section):
    """Re-imaging in place."""

    serve_images: bool = Field(
        default=False,
        description="Give the staged image to callers with the scope `images` or `admin`.",
    )
    serve_bytes_per_second: Annotated[Size, Field(ge=1 << 20)] = Field(
        default=ByteSize(100 << 20),
        description="How fast images are given away, to all peers together.",
    )
    serve_pressure_percent: Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=100)] = Field(
        default=10.0,
        description="Nothing is read for peers while some task of this machine waits for I/O "
        "during more than this share of the time; 100: whatever the pressure.",
    )
    peers: PeerSettings = Field(default_factory=PeerSettings)

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
        "`zookeeper`, `elasticsearch`, `cassandra` or `kafka`), what it reads, and how long.",
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
    check_seconds: Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=86_400)] = Field(
        default=300.0, description="How long `reimage.check_command` may take."
    )
    status_listen: str = Field(
        default="auto",
        description="Where the imager reports its progress: ADDRESS:PORT; `auto`: as `listen` if "
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
    require_lifeboat: bool = Field(
        default=False,
        description="Arm nothing that a power cut could leave without a system that boots, "
        "whatever a request says. There is then no rollback to a kept system either: it is as "
        "large as the disk, which leaves no place for a lifeboat.",
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
