"""Root's settings of tuning, for the process with root's rights."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from holdfast.config import ConfigError, load_settings
from holdfast.config.load import DEFAULT_CONFIG_FILE
from holdfast.config.sections import TuningSettings
from holdfast.node.paths.guarded import why_unguarded

log = logging.getLogger(__name__)


def tuning_of_root(config_file: Path | None) -> TuningSettings:
    """Read the settings file; without one that only root can have written, return the defaults."""
    path = config_file or DEFAULT_CONFIG_FILE
    try:
        why = why_unguarded(path, {0, os.geteuid()})
        if why is None:
            return load_settings(config_file).tuning
    except (OSError, ConfigError) as error:
        why = str(error)
    log.warning("the settings file %s does not count for tuning: %s", path, why)
    return TuningSettings()
