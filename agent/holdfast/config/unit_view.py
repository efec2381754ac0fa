"""What the daemon's unit lets it see, as far as the settings name paths that it needs.

The unit is read as a file, also where systemd does not run, as in the making of an image. What its
directives mean is in systemd.exec(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.config.settings import Settings

UNIT = "holdfast.service"
_DIRECTORIES = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
_HIDES = ("TemporaryFileSystem", "InaccessiblePaths")
_SHOWS = ("BindReadOnlyPaths", "BindPaths")
_WRITES = ("ReadWritePaths", "BindPaths")
_HOMES = ("/home", "/root", "/run/user")
_OWN = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib"}


@dataclass(frozen=True)
class UnitView:
    """The paths that a unit names, by directive."""

    paths: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def hides(self, path: Path) -> bool:
        """Whether the daemon does not see this path; the innermost directive counts."""
        hidden = [*self._named(_HIDES), *self.paths.get("ProtectHome", [])]
        return _depth(path, hidden) > _depth(path, self._named(_SHOWS))

    def writable(self, path: Path) -> bool:
        """Whether it may be written, where nothing may be but for exceptions."""
        if not self.paths.get("ProtectSystem"):
            return True
        return _depth(path, self._named(_WRITES)) >= 0

    def _named(self, directives: Sequence[str]) -> list[str]:
        return [path for name in directives for path in self.paths.get(name, [])]


def read_unit(system: Path = Path("/")) -> UnitView | None:
    """Read the daemon's unit and its drop-ins; None if it is not installed."""
    found = next(
        (
            system / directory / UNIT
            for directory in _DIRECTORIES
            if (system / directory / UNIT).is_file()
        ),
        None,
    )
    if found is None:
        return None
    drop_ins: dict[str, Path] = {}
    for directory in reversed(_DIRECTORIES):
        for path in (system / directory / f"{UNIT}.d").glob("*.conf"):
            drop_ins[path.name] = path
    paths: dict[str, list[str]] = {}
    for file in (found, *(drop_ins[name] for name in sorted(drop_ins))):
        for name, value in _assignments(file):
            _assign(paths, name, value)
    return UnitView(paths)


def hidden_settings(settings: Settings, view: UnitView) -> list[str]:
    """Return sentences on the paths of the settings that the daemon's unit hides from it."""
    reimage, tls = settings.reimage, settings.tls
    needed: list[tuple[str, Path | None]] = [
        *(("roots", root) for root in settings.roots),
        ("tls.certificate", tls.certificate),
        ("tls.key", tls.key),
        ("tls.client_ca", tls.client_ca),
        ("tokens_file", settings.tokens_file),
        ("tuning.profiles_dir", settings.tuning.profiles_dir),
        ("reimage.trusted_keys_dir", reimage.trusted_keys_dir),
        ("reimage.ca_file", reimage.ca_file),
        ("reimage.peers.ca_file", reimage.peers.ca_file),
        ("reimage.peers.token_file", reimage.peers.token_file),
        ("telemetry.ca_file", settings.telemetry.ca_file),
        ("telemetry.headers_file", settings.telemetry.headers_file),
        ("reimage.check_command", next((Path(word) for word in reimage.check_command), None)),
        ("reimage.before_reboot", next((Path(word) for word in reimage.before_reboot), None)),
    ]
    warnings = [
        f"`{key}` = {path} is hidden from {UNIT}: `systemctl edit holdfast`, and in [Service] "
        f"`BindReadOnlyPaths=-{path}`."
        for key, path in needed
        if path is not None and path.is_absolute() and view.hides(path)
    ]
    state = settings.state_dir or settings.roots[0] / ".holdfast"
    if not view.writable(state):
        warnings.append(
            f"The state directory {state} is read-only for {UNIT}: `systemctl edit holdfast`, and "
            f"in [Service] `ReadWritePaths=-{state}`."
        )
    return warnings


def _assign(paths: dict[str, list[str]], name: str, value: str) -> None:
    words = value.split()
    if name == "ProtectSystem":
        paths[name] = ["/"] if value == "strict" else []
    elif name == "ProtectHome":
        paths[name] = list(_HOMES) if value in ("yes", "true", "1", "on", "tmpfs") else []
    elif name in _OWN:
        paths.setdefault("BindPaths", []).extend(f"{_OWN[name]}/{word}" for word in words)
    elif name in (*_HIDES, *_SHOWS, *_WRITES):
        if not words:
            paths[name] = []
        # `-` where it need not exist, `+` within the unit's root, then options after colons.
        given = [word.lstrip("-+").split(":") for word in words]
        paths.setdefault(name, []).extend(
            words[1] if name in _SHOWS and len(words) > 1 and words[1] else words[0]
            for words in given
        )


def _assignments(file: Path) -> Iterator[tuple[str, str]]:
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return
    for line in text.replace("\\\n", " ").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", ";")):
            yield name.strip(), value.strip()


def _depth(path: Path, directories: Sequence[str]) -> int:
    """Return how many parts the innermost of these around a path has; -1 for none."""
    around = [Path(directory) for directory in directories if path.is_relative_to(directory)]
    return max((len(path.parts) for path in around), default=-1)
