"""The controller's view of a machine, live: states, progress, what its console shows.

On a terminal it is redrawn in place; elsewhere each change is a line.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

STATES = ("idle", "staging", "staged", "armed", "rebooting", "imaging", "booted", "confirmed")
_POLL_SECONDS = 1.0
_REST_SECONDS = 8.0
"""After a request that got no answer in time: an emulated machine may be busy for long."""
_CONSOLE_LINES = 8
_LOG_LINES = 6
# Cursor movements, colours and other control characters, of GRUB and of systemd.
_CONTROL = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>c])|[\x00-\x08\x0b-\x1f\x7f]")


class MachineView:
    """Polls a machine and shows it until it is closed. Used as a context manager.

    `status` returns the answer of `GET /v1/reimage` or raises `httpx.HTTPError`; `console` returns
    what the serial console printed so far.
    """

    def __init__(
        self,
        name: str,
        status: Callable[[], dict[str, Any]],
        console: Callable[[], str],
        *,
        terminal: Console | None = None,
    ) -> None:
        self._name = name
        self._status = status
        self._console = console
        self._out = terminal or Console(highlight=False)
        self._began = time.monotonic()
        self._step = "switching it on"
        self._state = "idle"
        self._seen = {"idle"}
        self._answers = False
        self._progress: dict[str, Any] = {}
        self._log: list[str] = []
        self._ended = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._live = Live(
            get_renderable=self._render,
            console=self._out,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> MachineView:
        self._poller.start()
        if self._out.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._live.stop()
        self._poller.join()

    def step(self, text: str) -> None:
        """Show what the controller does now."""
        self._step = text
        self._note(text)

    def note(self, text: str) -> None:
        """Add a line to what happened so far."""
        self._note(f"  {text}")

    def _note(self, text: str) -> None:
        line = f"{self._clock()}  {text}"
        self._log.append(line)
        if not self._out.is_terminal:
            print(line, flush=True)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{minutes:02}:{seconds:02}"

    def _poll(self) -> None:
        pause = _POLL_SECONDS
        while not self._ended.wait(pause):
            try:
                answer = self._status()
            except (httpx.HTTPError, AssertionError, ValueError) as error:
                self._answers = False
                pause = _REST_SECONDS if isinstance(error, httpx.ReadTimeout) else _POLL_SECONDS
                continue
            pause = _POLL_SECONDS
            self._answers = True
            self._observe(answer)

    def _observe(self, answer: dict[str, Any]) -> None:
        state, progress = answer["state"], answer.get("progress") or {}
        if state != self._state:
            self._note(f"  state: {state}")
        self._state, self._progress = state, progress
        self._seen.add(state)

    # What is drawn.

    def _render(self) -> RenderableType:
        screen = self._console()[-8000:]
        lines = [_CONTROL.sub("", line).rstrip() for line in screen.splitlines()]
        lines = [line for line in lines if line][-_CONSOLE_LINES:]
        width = max(40, self._out.width - 4)
        shown = [line[:width] for line in lines]
        shown += [""] * (_CONSOLE_LINES - len(shown))
        log = self._log[-_LOG_LINES:]
        return Group(
            Text(f"{self._name}   {self._clock()}   {self._step}", style="bold"),
            self._states(),
            self._bar(),
            Panel(
                Text("\n".join(shown), no_wrap=True),
                title="the machine's console",
                title_align="left",
                border_style="dim",
            ),
            Text("\n".join(log + [""] * (_LOG_LINES - len(log))), style="dim", no_wrap=True),
        )

    def _states(self) -> Text:
        line = Text()
        for number, state in enumerate(STATES):
            if number:
                line.append(" → ", style="dim")
            if state == self._state:
                line.append(f" {state} ", style="bold reverse" if self._answers else "reverse dim")
            else:
                line.append(state, style="green" if state in self._seen else "dim")
        if self._state not in STATES:
            line.append(f"   {self._state}", style="bold red")
        return line

    def _bar(self) -> RenderableType:
        done = int(self._progress.get("bytes_done") or 0)
        expected = int(self._progress.get("bytes_expected") or 0)
        if not self._answers:
            return Text("no answer over HTTPS at the moment", style="dim")
        if not expected:
            return Text("it answers over HTTPS", style="dim")
        table = Table.grid(padding=(0, 1))
        share = min(1.0, done / expected)
        table.add_row(
            Text(str(self._progress["phase"]).replace("_", " "), style="bold"),
            ProgressBar(total=1.0, completed=share, width=40),
            Text(
                f"{share:.0%}  {done >> 20} of {expected >> 20} MiB  "
                f"{int(self._progress.get('bytes_per_second') or 0) >> 20} MiB/s"
            ),
        )
        return table
