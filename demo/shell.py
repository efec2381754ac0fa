"""Runs commands in front of the spectator: prints each, runs it, and remembers what fell short."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.daemon.harness import dying_with_parent, free_port
from tests.support.waiting import until


class FellShortError(Exception):
    """A step did not do what it should have."""


class Demo:
    """One run: a daemon with a root, a state directory and a socket of its own."""

    def __init__(self, work: Path, root: Path) -> None:
        self.root = root
        self.work = work
        self.socket = work / "holdfast.sock"
        self.port = free_port()
        self.shortfalls: list[str] = []
        virtual = Path(sys.executable).parent
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")},
            "PATH": f"{virtual}:{os.environ['PATH']}",
            "HOLDFAST_SOCKET": str(self.socket),
        }
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)),
            base_url="http://localhost",
            timeout=60,
            trust_env=False,
        )

    def title(self, text: str) -> None:
        """Print what comes next."""
        bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
        print(f"\n{bold}# {text}{plain}", flush=True)

    def run(self, command: str, *, codes: Sequence[int] = (0,)) -> int:
        """Print a command line and run it in a shell; its output goes where ours goes.

        Returns its exit code, which must be one of `codes`.
        """
        green, plain = ("\033[32m", "\033[0m") if sys.stdout.isatty() else ("", "")
        print(f"{green}$ {command}{plain}", flush=True)
        # A broken pipe in `… | head` is no failure, so no pipefail; curl -f reports its own.
        done = subprocess.run(["bash", "-c", command], env=self.environment, check=False)
        if done.returncode not in codes:
            raise FellShortError(f"`{command}` ended with {done.returncode}")
        return done.returncode

    def curl(self, path: str, arguments: str = "", *, then: str = "") -> None:
        """Call the HTTP API over the unix socket, as anyone could."""
        options = f" {arguments}" if arguments else ""
        self.run(
            f'curl -fsS --unix-socket "$HOLDFAST_SOCKET"{options} http://localhost{path}{then}'
        )

    def expect(self, condition: bool, shortfall: str) -> None:
        """Remember a shortfall and continue: the rest is worth seeing too."""
        if not condition:
            self.shortfalls.append(shortfall)
            print(f"FELL SHORT: {shortfall}", flush=True)

    def last(self, kind: str) -> dict[str, Any]:
        """Return the result of the newest operation of a kind, which must have succeeded."""
        answer = self.http.get("/v1/operations", params={"kind": kind, "limit": 1}).json()
        newest = answer["operations"][0]["id"]
        operation: dict[str, Any] = self.http.get(f"/v1/operations/{newest}").json()
        if operation["state"] != "succeeded":
            raise FellShortError(f"{kind} {operation['state']}: {operation['error']}")
        result: dict[str, Any] = operation["result"]
        return result

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Run the daemon for as long as the block takes."""
        token = f"{self.work}/token"
        self.run(
            f"holdfast token create demo --scope operate --tokens-file {self.work}/tokens.json "
            f"> {token}"
        )
        command = [
            "holdfast",
            "serve",
            "--config",
            str(self.work / "holdfast.toml"),
        ]
        print(f"$ {shlex.join(command)} &", flush=True)
        with (self.work / "log").open("wb") as log:
            process = subprocess.Popen(
                dying_with_parent([str(Path(sys.executable).parent / "holdfast"), *command[1:]]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                process_group=0,  # Ctrl-C is for the demo, which then ends the daemon itself
            )
        try:
            until(lambda: self._answers(process), seconds=60, what="an answer of the daemon")
            yield
            self.title("stop the daemon")
            print(f"$ kill {process.pid}")
            process.terminate()
            code = process.wait(10)
            self.expect(code == 0, f"the daemon ended with {code} after SIGTERM")
            print("the daemon has ended")
        finally:
            self.http.close()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            log = (self.work / "log").read_text(errors="replace")
            raise FellShortError(f"the daemon ended at its start:\n{log}")
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False
