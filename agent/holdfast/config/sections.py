"""The tables of the settings file, but for that of re-imaging."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    field_validator,
    model_validator,
)

from holdfast.config.addresses import split_address
from holdfast.config.types import (
    AbsolutePath,
    Number,
    OptionalPath,
    Section,
    Size,
    no_bool,
)
from holdfast.storage.space import AUTO, parse_floor


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
        return str(no_bool(value)) if isinstance(value, int) else value

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
        default=6, description="Dumps retained; the oldest go first."
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


class MemorySettings(Section):
    """Caches in memory."""

    roots: Annotated[list[AbsolutePath], Field(max_length=16)] = Field(
        default=[],
        description="Directories on tmpfs that can be saved to the data volume and restored.",
    )

    @field_validator("roots")
    @classmethod
    def _separate(cls, roots: list[Path]) -> list[Path]:
        for number, root in enumerate(roots):
            if root == Path("/"):
                raise ValueError("should not be the root of the file system")
            for other in roots[:number]:
                if root.is_relative_to(other) or other.is_relative_to(root):
                    raise ValueError(f"should not overlap: {str(other)!r} and {str(root)!r}")
        return roots


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
    check_seconds: Annotated[float, BeforeValidator(no_bool), Field(ge=0.1, le=86_400)] = Field(
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
        "firmware identifies EC2; empty: no requests.",
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
        default=8,
        description="Data connections that a pull begins with; up to 32 as long as the rate grows.",
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


_COLLECTOR = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?")
_HERE = re.compile(r"http://(127\.[0-9.]+|\[::1\]|localhost)(:[0-9]+)?(/|$)")
_TRACES = "/v1/traces"


class TelemetrySettings(Section):
    """Spans for a collector of OpenTelemetry; off without `endpoint`."""

    endpoint: str = Field(
        default="",
        description="A collector's OTLP/HTTP receiver, such as `http://127.0.0.1:4318`, without "
        "`/v1/traces`; empty: no spans. Needs `pip install holdfast[otel]`, which the Debian "
        "package has.",
    )
    ca_file: OptionalPath = Field(
        default=None,
        description="PEM file with the authorities of its certificate; the system's unless set.",
    )
    headers_file: OptionalPath = Field(
        default=None,
        description="File with headers for it, such as a token, one `Name: value` a line.",
    )
    sample: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=1)] = Field(
        default=1.0,
        description="Share of the traces that begin here and are recorded; callers who send a "
        "`traceparent` decide for theirs.",
    )

    @field_validator("endpoint")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not _COLLECTOR.fullmatch(value):
            raise ValueError(
                "should be empty, or an address such as http://127.0.0.1:4318 without user, query "
                f"or fragment, not {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _secret(self) -> Self:
        plain = self.endpoint.startswith("http:") and not _HERE.match(self.endpoint)
        if plain and self.headers_file is not None:
            raise ValueError(
                f"`telemetry.headers_file` would be sent in the clear to {self.endpoint}; use https"
            )
        return self

    @property
    def url(self) -> str:
        """Where spans are posted."""
        base = self.endpoint.rstrip("/")
        return base if base.endswith(_TRACES) else base + _TRACES
