"""A daemon in namespaces of its own whose settings a test may change, and its profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support.daemon.harness import Daemon
from tests.support.machine.namespaces import Namespaces, own_namespaces

# Settings of the test's own network namespace, none as the kernel makes them.
SYSCTLS = {
    "net.ipv4.tcp_keepalive_time": "61",
    "net.ipv4.tcp_keepalive_probes": "4",
    "net.ipv4.tcp_keepalive_intvl": "11",
    "net.ipv4.tcp_retries2": "6",
    "net.ipv4.tcp_rmem": "4096 87380 16777216",
    "net.core.somaxconn": "4321",
}


def profile_text(sysctls: dict[str, Any] | None = None, rest: str = "", head: str = "") -> str:
    """Write a profile."""
    lines = [f'"{name}" = {_toml(value)}\n' for name, value in (sysctls or {}).items()]
    table = "[sysctl]\n" + "".join(lines) if lines else ""
    return f'[profile]\ndescription = "Of a test."\n{head}\n{table}\n{rest}\n'


def _toml(value: Any) -> str:
    return value if isinstance(value, str) and value.startswith("{") else f'"{value}"'


class Tuned:
    """A daemon, and the namespaces it is in."""

    def __init__(self, daemon: Daemon, ns: Namespaces, profiles: Path) -> None:
        self.daemon = daemon
        self.ns = ns
        self.profiles = profiles

    def profile(
        self,
        name: str,
        sysctls: dict[str, Any] | None = None,
        rest: str = "",
        head: str = "",
    ) -> None:
        """Write a profile of the operator's."""
        (self.profiles / f"{name}.toml").write_text(profile_text(sysctls, rest, head))

    def ask(self, what: str, **body: Any) -> httpx.Response:
        """POST to /v1/tuning."""
        return self.daemon.http.post(f"/v1/tuning/{what}", json=body)

    def plan(self, profile: str, **body: Any) -> dict[str, Any]:
        """Plan a profile."""
        return _answer(self.ask("plan", profile=profile, **body))

    def apply(self, profile: str, **body: Any) -> dict[str, Any]:
        """Apply a profile, which must succeed."""
        return _answer(self.ask("apply", profile=profile, **body))

    def rollback(self, to: str = "last") -> dict[str, Any]:
        """Roll back, which must succeed."""
        return _answer(self.ask("rollback", to=to))

    def state(self) -> dict[str, Any]:
        """Ask what is in force."""
        return _answer(self.daemon.http.get("/v1/tuning"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind, newest first."""
        return [event for event in self.state()["events"] if event["kind"] == kind]

    def refused(self, profile: str) -> dict[str, Any]:
        """Apply a profile, which must fail; return the problem, in words of holdfast's own."""
        response = self.ask("apply", profile=profile)
        assert response.status_code >= 400, response.text
        assert "pydantic" not in response.text
        assert "[type=" not in response.text
        problem: dict[str, Any] = response.json()
        return problem

    def sysctls(self, *names: str) -> dict[str, str]:
        """Read sysctls as the daemon's namespace has them."""
        return {name: self.ns.sysctl(name) for name in names or tuple(SYSCTLS)}


@contextmanager
def kept(*paths: str) -> Iterator[None]:
    """Write settings of the whole machine back that a test changes, in an order that works."""
    before = {path: Path(path).read_text().strip() for path in paths}
    try:
        yield
    finally:
        for _ in paths:
            for path, value in before.items():
                if Path(path).read_text().strip() != value:
                    with suppress(OSError):
                        Path(path).write_text(value)
        assert {path: Path(path).read_text().strip() for path in paths} == before


def _answer(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def tuned(start_daemon: Callable[..., Daemon], directory: Path, **settings: Any) -> Iterator[Tuned]:
    """Start a daemon in namespaces of its own."""
    with own_namespaces(directory / "scratch") as ns:
        yield start_in(start_daemon, directory, ns, **settings)


def start_in(
    start_daemon: Callable[..., Daemon], directory: Path, ns: Namespaces, **settings: Any
) -> Tuned:
    """Start a daemon in these namespaces, its profiles in `directory`."""
    profiles = directory / "profiles.d"
    profiles.mkdir(exist_ok=True)
    tuning = {
        "profiles_dir": str(profiles),
        "journal_dir": str(directory / "journal"),
        "check_seconds": 0.2,
    } | settings.pop("tuning", {})
    daemon = start_daemon(wrapper=ns.wrapper, tuning=tuning, **settings)
    return Tuned(daemon, ns, profiles)


def row_of(answer: dict[str, Any], name: str, target: str = "") -> dict[str, Any]:
    """Find a setting in a plan or an apply."""
    found: dict[str, Any] = next(
        setting
        for setting in answer["settings"]
        if (setting["name"], setting["target"]) == (name, target)
    )
    return found
