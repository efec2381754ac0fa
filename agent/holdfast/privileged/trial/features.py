"""Which features of a root's file system this kernel knows, where nothing can be mounted.

The kernel does not list what it knows of ext4 and XFS, so releases are compared: each feature with
the first mainline release that mounts it for writing. Distributions backport some to older kernels;
only mounting is certain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.privileged.trial.models import TrialRow

_Release = tuple[int, int]
# git tag --contains of the commit that added it to fs/ext4/ext4.h (EXT4_FEATURE_*_SUPP).
_EXT4: Mapping[str, _Release] = {
    "metadata_csum": (3, 18),
    "encrypt": (4, 1),
    "project": (4, 5),
    "metadata_csum_seed": (4, 4),
    "ea_inode": (4, 13),
    "large_dir": (4, 13),
    "casefold": (5, 2),
    "verity": (5, 4),
    "stable_inodes": (5, 5),
    "fast_commit": (5, 10),
    "orphan_file": (5, 15),
    "orphan_present": (5, 15),
}
# The same of fs/xfs/libxfs/xfs_format.h.
_XFS: Mapping[str, _Release] = {
    "crc": (3, 10),
    "ftype": (3, 10),
    "finobt": (3, 16),
    "sparse_inodes": (4, 2),
    "meta_uuid": (4, 3),
    "rmapbt": (4, 8),
    "reflink": (4, 9),
    "bigtime": (5, 10),
    "inobtcount": (5, 10),
    "needsrepair": (5, 12),
    "nrext64": (5, 19),
    "exchange": (6, 10),
    "parent": (6, 10),
    "metadir": (6, 13),
    "zoned": (6, 15),
}
_TABLES = {"ext2": _EXT4, "ext3": _EXT4, "ext4": _EXT4, "xfs": _XFS}
_UNNAMED = ("0x", "ro_compat:")
"""How the descriptor begins the bits of features that were not known when it was made."""
# Their kernels have many features of later releases.
_BACKPORTS = re.compile(r"\.(el|fc|amzn)\d|-(default|azure:)")
_LATER = "Stage the image (mode `staged`): then the kernel itself decides."


def features_row(
    image: Mapping[str, Any], kernel: str, sys: Path = Path("/sys"), *, decides: bool
) -> TrialRow | None:
    """Compare the features of an image's root with a kernel; None where none are known.

    `image` is a descriptor, `kernel` a release such as `6.1.0-18-amd64`. With `decides` nothing
    else is tried, so that a feature that is too new fails.
    """
    root = image.get("root") or {}
    kind, features = root.get("file_system"), root.get("features") or []
    if not isinstance(kind, str) or not features:
        return None
    missing = _missing(kind, features, kernel, sys)
    if missing is None:
        return None
    if not missing:
        return TrialRow(
            check="features",
            outcome="passed",
            detail=f"Kernel {kernel} is new enough for the features of the root ({kind}).",
        )
    certain = decides and not _BACKPORTS.search(kernel)
    return TrialRow(
        check="features",
        outcome="failed" if certain else "warning",
        detail=f"The root ({kind}) has features that kernel {kernel} may not know: "
        f"{', '.join(missing)}.",
        advice=_LATER if decides else "The trial once the image is staged is certain.",
    )


def _missing(kind: str, features: Sequence[str], kernel: str, sys: Path) -> list[str] | None:
    """Return clauses about what is too new; None where nothing is known of this kind."""
    if kind == "btrfs":
        known = sys / "fs/btrfs/features"
        if not known.is_dir():
            return None
        names = {entry.name for entry in known.iterdir()}
        # Every kernel has the first one, and lists it only for a file system.
        return [
            feature for feature in features if feature != "mixed_backref" and feature not in names
        ]
    table = _TABLES.get(kind)
    release = re.match(r"(\d+)\.(\d+)", kernel)
    if table is None or release is None:
        return None
    running = (int(release[1]), int(release[2]))
    missing = [
        f"{feature} (from {table[feature][0]}.{table[feature][1]} on)"
        for feature in features
        if feature in table and table[feature] > running
    ]
    return missing + [feature for feature in features if feature.startswith(_UNNAMED)]
