"""What is shown: a roll, three faults, and what an operator does about the one that stops it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime

from rich.console import Console

from demo.fleet.controller import Controller, show_command
from demo.fleet.measure import Timekeeper, figures, show
from demo.fleet.nodes import REFUSAL, Fleet, FleetNode
from demo.fleet.report import report
from tests.support.daemon.harness import HOLDFAST, clean_environment

AWAY_SECONDS = 8.0
DONE, STOPPED = 0, 3
"""Exit codes of the rollout: all nodes are done; it waits for an operator."""
_ENDED = ("done", "failed")
_FAILED = 3
"""Exit code of `holdfast reimage show` for an attempt that failed."""


class FellShortError(Exception):
    """A step did not do what it should have."""


class Story:
    """The roll of one fleet, with its faults."""

    def __init__(self, fleet: Fleet, controller: Controller, began: datetime) -> None:
        self._fleet = fleet
        self._controller = controller
        self._began = began
        first, second = fleet.zone("a"), fleet.zone("b")
        self._late = first[-1]
        """Its daemon is away for a while."""
        self._orphan = first[min(1, len(first) - 1)]
        """It is down when the controller is killed."""
        self._broken = second[min(1, len(second) - 1)]
        """It comes back as the old system."""
        self._notes: list[str] = []
        self._ended = threading.Event()

    def run_without_faults(self, out: Console) -> bool:
        """Show a roll that nothing disturbs; return whether every node is done."""
        title("Stage ahead, then the canary, then zone after zone")
        self._expect("run", self._controller.run(), DONE)
        return self._report(out)

    def measure(self, out: Console, page: int) -> bool:
        """Show a roll that nothing disturbs, and what it cost; return whether that is in order."""
        title("Stage ahead, then the canary, then zone after zone")
        with Timekeeper(page) as times:
            self._expect("run", self._controller.run(), DONE)
        if not self._report(out):
            return False
        times.complete(self._controller.nodes())
        title("What it cost")
        measured = figures(self._fleet, self._controller, times)
        show(measured, out)
        excess = measured.excess()
        for sentence in excess:
            say(f"ABOVE THE LIMIT: {sentence}")
        return not excess

    def run(self, out: Console) -> bool:
        """Show all of it; return whether every node is done. Raises `FellShortError`."""
        absence = threading.Thread(target=self._leave)
        absence.start()
        try:
            self._plan()
            self._kill()
            self._stop()
            self._repair()
            return self._report(out, self._broken)
        finally:
            self._ended.set()
            absence.join()

    def _plan(self) -> None:
        title("The roll, before any node is called")
        self._expect("plan", self._controller.call("plan"), DONE)

    def _kill(self) -> None:
        title("Stage ahead, then the canary, then zone a")
        say(
            "Zones are columns, nodes are cells. The canary goes alone, then two at a time.",
            f"Watch {self._late.name}: its daemon is killed while it stages, and is away for "
            f"{AWAY_SECONDS:.0f} s. It is called until it answers.",
            f"Watch {self._orphan.name}: once it is down, the controller is killed (SIGKILL).",
        )
        self._broken.end = "failed"
        code = self._controller.run(kill=lambda: self._orphan.boots > 0)
        self._show_notes()
        if code >= 0:
            raise FellShortError(f"the roll ended with {code} before {self._orphan.name} was down")
        say("The controller is gone. What is down comes up by itself; no other node is disturbed.")

    def _stop(self) -> None:
        title("The controller again: the same command")
        say(
            "It reads its database, and continues in the middle of a node: no step is taken twice.",
            f"{self._orphan.name} came up without it. Then zone b: {self._broken.name} will come "
            "back as the old system, and the roll has to stop.",
        )
        self._expect("run", self._controller.run(), STOPPED)
        self._show_notes()
        ended = {name for name, state in self._controller.states().items() if state in _ENDED}
        for node in self._fleet.nodes:
            if node.name not in ended and node.helper.calls("arm"):
                raise FellShortError(f"{node.name} was armed, and the roll stopped before it")
        say("Exit code 3: it waits for an operator. No node was armed after the failure.")

    def _repair(self) -> None:
        title("The operator: what happened, the fix, and the same command once more")
        self._expect("status", self._controller.call("status"), DONE)
        self._show_node(self._broken)
        say(f"The operator repairs the disk's controller of {self._broken.name}, and resumes.")
        self._broken.end = "confirmed"
        self._expect("resume", self._controller.call("resume"), DONE)
        self._expect("run", self._controller.run(), DONE)

    def _report(self, out: Console, twice: FleetNode | None = None) -> bool:
        title("How it ended")
        nodes = self._fleet.nodes
        lacking = report(nodes, self._controller.states(), self._began, out)
        if twice is not None:
            say(f"{twice.name} has two boots: one of them back into the old system.")
        wrong = [node.name for node in nodes if _steps(node) != [1 + (node is twice)] * 3]
        if wrong:
            say(f"NOT ONCE EACH: arming, the order to reboot or the boot of {', '.join(wrong)}")
        if lacking:
            say(f"NOT DONE: {', '.join(lacking)}")
        return not lacking and not wrong

    def _leave(self) -> None:
        """Have the late node's daemon be away once it stages."""
        while not self._ended.wait(0.02):
            if self._late.job.get("state") == "staging":
                break
        else:
            return
        # For a part of the image to be there.
        if self._ended.wait(1.5):
            return
        self._note(f"the daemon of {self._late.name} was killed")
        self._late.leave(AWAY_SECONDS)
        self._late.settle()
        self._note(f"the daemon of {self._late.name} was started again, and resumes the download")

    def _show_node(self, node: FleetNode) -> None:
        show_command(f"ssh {node.name} holdfast reimage show")
        done = subprocess.run(
            [*HOLDFAST, "reimage", "show"],
            env=clean_environment(
                HOLDFAST_SOCKET=str(node.socket), TERM=os.environ.get("TERM", "dumb")
            ),
            check=False,
        )
        self._expect("reimage show", done.returncode, _FAILED)
        if REFUSAL not in str(node.status["reason"]):
            raise FellShortError(f"{node.name} reports another reason: {node.status['reason']}")

    def _expect(self, command: str, code: int, wanted: int) -> None:
        if code != wanted:
            raise FellShortError(f"`{command}` ended with {code}, not {wanted}")

    def _note(self, text: str) -> None:
        """Remember what happened; a view that is redrawn in place must not be written into."""
        seconds = (datetime.now(UTC) - self._began).total_seconds()
        self._notes.append(f"{int(seconds) // 60}:{int(seconds) % 60:02}  {text}")

    def _show_notes(self) -> None:
        while self._notes:
            print(f"  {self._notes.pop(0)}", flush=True)


def _steps(node: FleetNode) -> list[int]:
    """Return how often a node was armed, ordered to reboot, and booted."""
    return [node.helper.calls("arm"), node.helper.calls("reboot"), node.boots]


def title(text: str) -> None:
    """Print what comes next."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}# {text}{plain}", flush=True)


def say(*lines: str) -> None:
    """Print sentences for the spectator."""
    print("\n".join(lines), flush=True)
