"""Settings: read once from file, environment and flags, validated once, then passed around."""

from holdfast.config.findings import Finding
from holdfast.config.load import (
    DEFAULT_CONFIG_FILE,
    ConfigError,
    explain,
    load_settings,
)
from holdfast.config.sections import (
    OperationSettings,
    PageCacheSettings,
    TlsSettings,
)
from holdfast.config.settings import Settings
from holdfast.config.statedir import StateDir, StateDirError, prepare_state_dir

__all__ = [
    "DEFAULT_CONFIG_FILE",
    "ConfigError",
    "Finding",
    "OperationSettings",
    "PageCacheSettings",
    "Settings",
    "StateDir",
    "StateDirError",
    "TlsSettings",
    "explain",
    "load_settings",
    "prepare_state_dir",
]
