"""Starts the real daemon for a test, talks to it, and ends it without leaving anything behind."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import until

HOLDFAST = (sys.executable, "-m", "holdfast")
READY_SECONDS = 90.0  # far above the required 1.5 s: other tests measure, these only wait
STOP_SECONDS = 30.0
FINAL = frozenset({"succeeded", "failed", "cancelled", "interrupted"})
SCOPES = ("read", "operate", "admin", "images")


@dataclass(frozen=True)
class Tokens:
    """A token file and the secrets in it, by scope."""

    file: Path
    secrets: Mapping[str, str]


def create_tokens(directory: Path) -> Tokens:
    """Make a token file with one token of each scope, through the command line."""
    file = directory / "tokens.json"
    secrets: dict[str, str] = {}
    for scope in SCOPES:
        done = run_cli(
            "token", "create", f"test-{scope}", "--scope", scope, "--tokens-file", file, "--json"
        )
        assert done.returncode == 0, done.stderr
        secrets[scope] = json.loads(done.stdout)["token"]
    return Tokens(file, secrets)


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of holdfast or of a terminal."""
    dropped = ("HOLDFAST_", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_", "TERM")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return kept | extra


def run_cli(
    *arguments: str | bytes | Path,
    seconds: float = 60.0,
    wrapper: Sequence[str] = (),
    **extra: str,
) -> subprocess.CompletedProcess[str]:
    """Run `holdfast` with `arguments` in a pipe; `extra` are environment variables.

    `wrapper` is a command that runs the command behind it, such as `setpriv`.
    """
    return subprocess.run(
        [*wrapper, *HOLDFAST, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        stdin=subprocess.DEVNULL,
        timeout=seconds,
        check=False,
        env=clean_environment(**extra),
    )


def dying_with_parent(command: Sequence[str | Path]) -> list[str]:
    """Make a command line of which the process gets SIGTERM when ours ends, however it ends."""
    setpriv = shutil.which("setpriv")
    wrapper = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
    return [*wrapper, *map(str, command)]


def free_port() -> int:
    """Return a TCP port on which nothing listened a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def to_toml(settings: Mapping[str, Any], name: str = "") -> str:
    """Render settings as TOML; a mapping becomes a table below `name`, None is left out."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in settings.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            tables.append(f"\n[{name}{key}]\n{to_toml(value, f'{name}{key}.')}")
        else:
            lines.append(f"{key} = {json.dumps(value, default=str)}\n")
    return "".join(lines + tables)


@dataclass
class Daemon:
    """A `holdfast serve` process of a test's own.

    Files of the test go below `root` (or the other `roots`), which are on a disk file system.
    """

    directory: Path  # configuration, log, socket; short, as a socket's path has at most 107 bytes
    roots: list[Path]
    state_dir: Path
    port: int
    tokens: Tokens
    config: Path
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    wrapper: Sequence[str] = ()
    program: Sequence[str] = HOLDFAST
    # Set by tests that provoke an internal error on purpose; otherwise one fails the test.
    may_log_tracebacks: bool = False
    _clients: list[httpx.Client] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The first configured root."""
        return self.roots[0]

    @property
    def socket(self) -> Path:
        """The unix socket, trusted through its mode."""
        return self.directory / "holdfast.sock"

    @property
    def url(self) -> str:
        """The TCP address, where a bearer token is needed."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything the daemon wrote to standard output and error so far."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def http(self) -> httpx.Client:
        """A client over the unix socket; the same one each time."""
        if not self._clients:
            self.client()
        return self._clients[0]

    def client(
        self, scope: str | None = None, *, tcp: bool = False, seconds: float = 60.0
    ) -> httpx.Client:
        """Make a client, closed when the daemon is: over the socket, or over TCP with a token.

        A `scope` of `read`, `operate` or `admin` implies TCP; `tcp=True` alone sends no token.
        """
        if scope is None and not tcp:
            # Nothing here is TLS, and reading the authorities takes as long as a request.
            transport = httpx.HTTPTransport(uds=str(self.socket), verify=False)
            client = httpx.Client(
                transport=transport, base_url="http://holdfast", timeout=seconds, trust_env=False
            )
        else:
            headers = {"Authorization": f"Bearer {self.tokens.secrets[scope]}"} if scope else {}
            client = httpx.Client(
                base_url=self.url, headers=headers, timeout=seconds, trust_env=False, verify=False
            )
        self._clients.append(client)
        return client

    def cli(
        self, *arguments: str | bytes | Path, seconds: float = 60.0, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `holdfast` against this daemon's socket, in a pipe."""
        extra.setdefault("HOLDFAST_SOCKET", str(self.socket))
        return run_cli(*arguments, seconds=seconds, **extra)

    def start(self, method_path: str, body: object, **headers: str) -> dict[str, Any]:
        """POST a body that starts an operation, and return the operation as accepted."""
        response = self.http.post(method_path, json=body, headers=headers)
        assert response.status_code == 202, response.text
        operation: dict[str, Any] = response.json()
        return operation

    def finish(self, operation: Mapping[str, Any], *, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until an operation is final, and answer it."""

        def ended() -> dict[str, Any] | None:
            response = self.http.get(f"/v1/operations/{operation['id']}", params={"wait": 10})
            assert response.status_code == 200, response.text
            now: dict[str, Any] = response.json()
            return now if now["state"] in FINAL else None

        return until(ended, seconds=seconds, what=f"the end of {operation['kind']}")

    def run(self, path: str, body: object, *, seconds: float = 60.0) -> dict[str, Any]:
        """Start an operation, wait for it, and answer its result; it must succeed."""
        operation = self.finish(self.start(path, body), seconds=seconds)
        assert operation["state"] == "succeeded", operation
        result: dict[str, Any] = operation["result"]
        return result

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the daemon answers on its socket and, if it listens there, on TCP."""

        def ready() -> bool:
            code = self.process.poll()
            assert code is None, f"the daemon ended with {code} at its start:\n{self.log}"
            if not _accepts(self.socket):
                return False
            # Degraded daemons answer 503 on /readyz; they serve all the same.
            with suppress(httpx.TransportError):
                return self.http.get("/healthz").status_code == 200
            return False

        until(ready, seconds=seconds, what=f"an answer of the daemon on {self.socket}")

    def kill(self) -> None:
        """End the daemon with SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """End the daemon with SIGTERM and answer its exit code; kills it once time is up."""
        self._close_clients()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                # SIGQUIT would show nothing without faulthandler; the log has what there is.
                self.kill()
                raise AssertionError(
                    f"the daemon was still there {seconds:g} s after SIGTERM:\n{self.log}"
                ) from None
        return self.process.returncode

    def restart(self) -> None:
        """Start the daemon again, with the same files, after `stop` or `kill`."""
        assert self.process.poll() is not None, "stop or kill the daemon first"
        self._close_clients()
        self.process = _spawn(
            self.directory, self.config, self.environment, self.wrapper, self.program
        )
        self.wait_ready()

    def rewrite_config(self, change: Callable[[str], str]) -> None:
        """Change the configuration file; `restart` makes it count."""
        self.config.write_text(change(self.config.read_text()))

    def close(self) -> None:
        """End the daemon if it runs, and remove its files."""
        try:
            running = self.process.poll() is None
            code = self.stop()
            if running:
                assert code == 0, f"the daemon ended with {code} after SIGTERM:\n{self.log}"
            if not self.may_log_tracebacks:
                assert "Traceback (most recent call last)" not in self.log, self.log
        finally:
            self._close_clients()
            for directory in (self.directory, self.state_dir, *self.roots):
                shutil.rmtree(directory, ignore_errors=True)

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()


def _accepts(path: Path) -> bool:
    """Whether a process listens; asked without httpx, which leaks a socket when nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def _spawn(
    directory: Path,
    config: Path,
    environment: Mapping[str, str],
    wrapper: Sequence[str],
    program: Sequence[str],
) -> subprocess.Popen[bytes]:
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            dying_with_parent([*wrapper, *program, "serve", "--config", config]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            # A Ctrl-C in the terminal is for pytest, whose fixtures then end the daemon.
            process_group=0,
        )


def start_daemon(
    base: Path,
    tokens: Tokens,
    *,
    roots: Sequence[Path] | None = None,
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
    wrapper: Sequence[str] = (),
    program: Sequence[str] = HOLDFAST,
    wait: bool = True,
    **settings: Any,
) -> Daemon:
    """Start a daemon with its root in `base`, and wait until it answers.

    `settings` are keys of the configuration file (a mapping is a table) and win over what is
    chosen here; None leaves a key out. `user` is the id of an unprivileged user to run it as, for
    which this process must be root. `wrapper` is a command that runs the command behind it, such
    as `nsenter`; `program` one that is run in place of `holdfast`. `wait=False` is for daemons that
    ought to refuse to start, and for many that start at once.
    """
    directory = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))
    work = Path(tempfile.mkdtemp(prefix="daemon-", dir=base))
    chosen = list(roots) if roots is not None else [work / "data"]
    for root in chosen:
        root.mkdir(parents=True, exist_ok=True)
    token_file = directory / "tokens.json"
    shutil.copy(tokens.file, token_file)
    port = free_port()
    values: dict[str, Any] = {
        "roots": [str(root) for root in chosen],
        "state_dir": str(work / "state"),
        "listen": f"127.0.0.1:{port}",
        "socket": str(directory / "holdfast.sock"),
        "tokens_file": str(token_file),
        # Tests run on disks of any size and fill; those about the floor set their own.
        "data": {"free_space_floor": "0"},
    } | settings
    config = directory / "holdfast.toml"
    config.write_text(to_toml(values))
    surroundings = clean_environment(**(environment or {}))
    if user is not None:
        wrapper = (
            *wrapper,
            "setpriv",
            f"--reuid={user}",
            f"--regid={user}",
            "--clear-groups",
            "--",
        )
        for path in (directory, token_file, config, work, *chosen):
            os.chown(path, user, user)
    daemon = Daemon(
        directory=directory,
        roots=chosen,
        state_dir=Path(values["state_dir"] or chosen[0] / ".holdfast"),
        port=port,
        tokens=Tokens(token_file, tokens.secrets),
        config=config,
        process=_spawn(directory, config, surroundings, wrapper, program),
        environment=surroundings,
        wrapper=wrapper,
        program=program,
    )
    if wait:
        try:
            daemon.wait_ready()
        except BaseException:
            with suppress(AssertionError):
                daemon.close()
            raise
    return daemon


@contextmanager
def daemons(base: Path, tokens: Tokens) -> Iterator[Callable[..., Daemon]]:
    """Give a function like `start_daemon`, and end every daemon it started."""
    started: list[Daemon] = []

    def start(**settings: Any) -> Daemon:
        daemon = start_daemon(base, tokens, **settings)
        started.append(daemon)
        return daemon

    try:
        yield start
    finally:
        problems: list[BaseException] = []
        for daemon in reversed(started):
            try:
                daemon.close()
            except (AssertionError, OSError, subprocess.SubprocessError) as problem:
                problems.append(problem)
        if problems:
            raise problems[0]
