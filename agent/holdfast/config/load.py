"""Reads settings from the file, the environment and flags, and reports what is wrong with them."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from holdfast.config.findings import Finding
from holdfast.config.settings import Settings, flatten
from holdfast.node.storage.volumes import missing
from holdfast.text.wording import plain

DEFAULT_CONFIG_FILE = Path("/etc/holdfast/holdfast.toml")
PREFIX = "HOLDFAST_"
# Read by the command line as a client and by the tests; none of them is a setting of the daemon.
_OTHER_VARIABLES = frozenset(
    {
        f"{PREFIX}{name}"
        for name in ("CONFIG", "URL", "TOKEN", "TOKEN_FILE", "CLIENT_CERT", "CLIENT_KEY", "CA_FILE")
    }
)
_FLAGS = {"roots": "root"}
# Messages of the validation library that use its own terms, not those of a settings file.
_PLAIN_WORDS = {
    "model_type": "should be a table",
    "path_type": "should be a path",
    "too_short": "should have at least one entry",
}
_SPAN_MODULES = ("opentelemetry.sdk", "opentelemetry.exporter")
_TEST_PREFIX = f"{PREFIX}TEST_"


class ConfigError(Exception):
    """Settings are wrong; `messages` has a sentence for each mistake."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


@dataclass(frozen=True)
class _Layer:
    """The values of one source."""

    name: Literal["file", "environment", "flags"]
    values: dict[str, Any]
    file: Path | None = None

    def source(self, key: str) -> str:
        """Return the source of `key` in this layer, in the form of `Settings.sources`."""
        if self.file is not None:
            return str(self.file)
        return _variable(key) if self.name == "environment" else "flag"

    def blame(self, key: str) -> str:
        """Begin a sentence about `key`."""
        if self.file is not None:
            return f"{self.file}: `{key}`"
        if self.name == "environment":
            return f"Environment variable {_variable(key)}"
        return f"Flag --{_FLAGS.get(key, key).replace('_', '-').replace('.', '-')}"


def load_settings(
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Merge file < environment < `overrides` (from flags; None means not given) and validate.

    Without `config_file`, the default file is read if it exists. Raises `ConfigError`.
    """
    layers = [
        _file_layer(config_file),
        _environment_layer(os.environ if environ is None else environ),
        _Layer("flags", _without_none(overrides or {})),
    ]
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        _merge(merged, layer.values)
        sources |= {key: layer.source(key) for key in flatten(layer.values)}
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigError([_sentence(details, layers) for details in error.errors()]) from None
    settings._sources.update(sources)  # set once, here, where they are known
    return settings


def explain(
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Return all that is wrong with the settings, on their own and on this machine.

    An error keeps the daemon from starting; a warning is something it would start without.
    """
    try:
        settings = load_settings(config_file, overrides, environ=environ)
    except ConfigError as error:
        return [Finding("error", message) for message in error.messages]
    return check_machine(settings)


def check_machine(settings: Settings) -> list[Finding]:
    """Compare valid settings with this machine: missing roots, files that cannot be read."""
    findings: list[Finding] = []
    for number, root in enumerate(settings.roots):
        reason = missing(root)
        if reason is None:
            continue
        then = (
            f"; state would be kept in {settings.fallback_state_dir}, degraded"
            if number == 0 and settings.state_dir is None
            else ""
        )
        findings.append(Finding("warning", f"Root {root} {reason}{then}."))
    findings += _spans(settings)
    if settings.listen_address is None:
        return findings
    for key in ("certificate", "key", "client_ca"):
        file: Path | None = getattr(settings.tls, key)
        if file is not None and (reason := _unreadable(file)):
            findings.append(Finding("error", f"`tls.{key}` = {file} cannot be read: {reason}."))
    if not settings.loopback_trusted and (reason := _unreadable(settings.tokens_file)):
        if settings.listens_beyond_loopback:
            findings.append(
                Finding(
                    "error",
                    f"`listen` = {settings.listen!r} reaches beyond this machine, which needs "
                    f"tokens, but `tokens_file` = {settings.tokens_file} cannot be read: {reason}; "
                    "make one with `holdfast token create`, or listen on 127.0.0.1.",
                )
            )
        else:
            findings.append(
                Finding(
                    "warning",
                    f"`tokens_file` = {settings.tokens_file} cannot be read ({reason}), so over "
                    f"TCP only health and metrics will answer; make one with `holdfast token "
                    "create`, or use the unix socket.",
                )
            )
    return findings


def _spans(settings: Settings) -> list[Finding]:
    """Return what is in the way of exporting spans: never a reason not to start."""
    telemetry = settings.telemetry
    if not telemetry.endpoint:
        return []
    findings = []
    for key in ("ca_file", "headers_file"):
        file: Path | None = getattr(telemetry, key)
        if file is not None and (reason := _unreadable(file)):
            then = f"`telemetry.{key}` = {file} cannot be read: {reason}; no spans are exported."
            findings.append(Finding("warning", then))
    if not all(map(_installed, _SPAN_MODULES)):
        findings.append(
            Finding(
                "warning",
                "`telemetry.endpoint` needs modules that are not installed, so that no spans are "
                "exported: `pip install holdfast[otel]`.",
            )
        )
    return findings


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _file_layer(config_file: Path | None) -> _Layer:
    path = config_file or DEFAULT_CONFIG_FILE
    try:
        with path.open("rb") as file:
            return _Layer("file", tomllib.load(file), path)
    except FileNotFoundError:
        if config_file is None:
            return _Layer("file", {}, path)
        raise ConfigError([f"The settings file {path} does not exist."]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path} is not valid TOML: {error}."]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not UTF-8 text: {error}."]) from None
    except OSError as error:
        raise ConfigError([f"The settings file {path} cannot be read: {error.strerror}."]) from None


class _Environment(EnvSettingsSource):
    """Takes its variables from a mapping rather than from the process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name.lower(): value for name, value in environ.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._environ


def _environment_layer(environ: Mapping[str, str]) -> _Layer:
    ours = {
        name: value
        for name, value in environ.items()
        if name.upper().startswith(PREFIX)
        and name.upper() not in _OTHER_VARIABLES
        and not name.upper().startswith(_TEST_PREFIX)
    }
    known = {_variable(key) for key in _known_keys()}
    unknown = [
        f"Environment variable {name} is no setting of holdfast{_suggest(name.upper(), known)}."
        for name in sorted(ours)
        if name.upper() not in known
    ]
    if unknown:
        raise ConfigError(unknown)
    return _Layer("environment", dict(_Environment(ours)()))


def _known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _sentence(error: ErrorDetails, layers: list[_Layer]) -> str:
    """Turn a validation error into a sentence that names the file, variable or flag."""
    parts = [part for part in error["loc"] if isinstance(part, str)]
    indexes = [part for part in error["loc"] if isinstance(part, int)]
    key = ".".join(parts)
    layer = next((layer for layer in reversed(layers) if _has(layer.values, parts)), None)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if layer is None or not parts or message.startswith("`"):
        # About several settings together, which may come from different places.
        return _stop(message)
    if error["type"] == "extra_forbidden":
        return f"{layer.blame(key)} is no setting of holdfast{_suggest(key, _known_keys())}."
    if error["type"] == "value_error":
        return _stop(f"{layer.blame(key)} {message}")
    if error["type"] in _PLAIN_WORDS:
        message = _PLAIN_WORDS[error["type"]]
    elif message.startswith(("Input should", "List should", "Value should")):
        message = "should" + message.partition("should")[2]
    else:
        message = plain(error).replace("must ", "should ", 1)
    entry = f" entry {indexes[0] + 1}" if indexes else ""
    return f"{layer.blame(key)}{entry} {message}; it is {error['input']!r}."


def _stop(sentence: str) -> str:
    return sentence if sentence.endswith(".") else f"{sentence}."


def _suggest(name: str, known: list[str] | set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")


def _has(values: Any, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = _copy(value)


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _unreadable(file: Path) -> str | None:
    try:
        with file.open("rb"):
            return None
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
