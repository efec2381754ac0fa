"""Imports run one way: `cli, api → capabilities → what they share`; and few files name them all."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast

PACKAGE = Path(holdfast.__file__).parent
ABOVE = {"api", "cli", "capabilities", "daemon", "main_loop"}
# What root does for a change of settings is decided where such changes are understood, and two
# settings are parsed by the code that uses them.
KNOWN = {
    "privileged/client.py": {"tuning"},
    "privileged/helper.py": {"tuning"},
    "privileged/wire.py": {"tuning"},
    "config/reimage_section.py": {"reimage"},
}


def imported(path: Path) -> Iterator[str]:
    """Yield the parts of holdfast that a module imports, wherever in it: `memory`, `daemon`, …"""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "holdfast":
            names = [f"holdfast.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            names = [node.module or ""]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "holdfast" and rest:
                yield rest.partition(".")[0]


CAPABILITIES = set(imported(PACKAGE / "capabilities.py")) - {"api", "capability"}
SHARED = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - CAPABILITIES - ABOVE


def modules(*places: str) -> list[Path]:
    """Return the modules of packages, or single files, of holdfast."""
    found = []
    for place in places:
        path = PACKAGE / place
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


def test_the_table_has_all_capabilities() -> None:
    assert {"pagecache", "manifests", "memory", "transfer", "tuning", "reimage"} <= CAPABILITIES
    assert {"operations", "metrics", "privileged", "node", "config"} <= SHARED


@pytest.mark.parametrize("capability", sorted(CAPABILITIES))
def test_a_capability_imports_no_other_and_nothing_above_it(capability: str) -> None:
    forbidden = (CAPABILITIES - {capability}) | ABOVE
    for path in modules(capability):
        assert not forbidden & set(imported(path)), path


@pytest.mark.parametrize("package", sorted(SHARED))
def test_what_capabilities_share_knows_none_of_them(package: str) -> None:
    for path in modules(package):
        known = KNOWN.get(str(path.relative_to(PACKAGE)), set())
        assert (CAPABILITIES | ABOVE) & set(imported(path)) == known, path


def test_nothing_but_the_table_names_the_capabilities() -> None:
    general = ("daemon.py", "main_loop.py", "capability.py", "api/app.py", "api/server.py")
    for path in modules(*general, "api/services.py", "api/contract", "api/http"):
        assert not CAPABILITIES & set(imported(path)), path


def test_routes_and_commands_do_not_import_the_daemon() -> None:
    for path in modules("api/routes", "cli"):
        if path.name != "serve.py":
            assert not {"daemon", "main_loop", "capabilities"} & set(imported(path)), path
