"""The lock names a version for everything that is needed, and one that is allowed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[3]


def test_the_lock_fits_the_project() -> None:
    needed: list[str] = []
    for name in ("pyproject.toml", "client/pyproject.toml"):
        project = tomllib.loads((CHECKOUT / name).read_text())["project"]
        needed += project["dependencies"]
        needed += project.get("optional-dependencies", {}).get("dev", [])
    client = f"holdfast-client=={project['version']}"
    needed.remove(client)  # of this checkout
    locked = {
        canonicalize_name(match["name"]): match["version"]
        for line in (CHECKOUT / "packaging" / "constraints.txt").read_text().splitlines()
        if (match := re.fullmatch(r"(?P<name>[\w.-]+)==(?P<version>\S+)", line))
    }
    for requirement in map(Requirement, needed):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in the lock; run make lock"
        assert requirement.specifier.contains(version), f"{requirement}, but the lock has {version}"
