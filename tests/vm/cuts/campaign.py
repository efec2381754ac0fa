"""Many stories of machines whose power is cut, side by side; their results are kept."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.vm.cuts.cutting import CutError, Machine, Undisturbed, first_run, story, undisturbed
from tests.vm.cuts.offline import judged
from tests.vm.cuts.scenario import KINDS, Kind, Scenario, scenario
from tests.vm.imager.arming import IMAGER

_BOOT_NEW_EVERY = 5
"""Of that many stories one boots the new system as well; the others only compare its disk."""


def planned(number: int, kinds: Sequence[Kind]) -> tuple[Kind, int]:
    """Return of a story its machine and how many cuts it has."""
    return kinds[number % len(kinds)], random.Random(number).choice((1, 1, 2, 2, 3, 5))


class Results:
    """One line of JSON for each story that ended; only those with this imager count."""

    def __init__(self, path: Path, imager: str) -> None:
        self._path, self._imager = path, imager
        self._lock = threading.Lock()
        self.stories: dict[int, dict[str, Any]] = {}
        if path.exists():
            lines = map(json.loads, path.read_text().splitlines())
            self.stories = {line["story"]: line for line in lines if line["imager"] == imager}

    def add(self, line: dict[str, Any]) -> None:
        """Keep the result of a story."""
        with self._lock:
            self.stories[line["story"]] = line
            with self._path.open("a") as file:
                file.write(json.dumps({"imager": self._imager, **line}) + "\n")

    @property
    def cuts(self) -> int:
        """How many cuts there were."""
        return sum(line["cuts"] for line in self.stories.values())

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The stories of machines that did not come back."""
        return [line for line in self.stories.values() if line["error"] is not None]

    def summary(self) -> str:
        """Say in one line what came of it."""
        booted: Counter[str] = Counter()
        for line in self.stories.values():
            booted.update(loader.removeprefix("booted: ") for loader in line["booted"])
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(booted.items()))
        return (
            f"{self.cuts} cuts in {len(self.stories)} stories, {len(self.failed)} failed; "
            f"booted afterwards: {kinds}"
        )


class Campaign:
    """Cuts the power of machines of several kinds until there were as many cuts as asked for."""

    def __init__(self, directory: Path, *, states: int, kinds: Sequence[Kind] = KINDS) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(IMAGER.read_bytes()).hexdigest()
        self.results = Results(directory / "results.jsonl", digest[:16])
        self._work = directory / "work"
        self._states, self._kinds = states, kinds
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._taken: set[int] = set()

    def run(self, cuts: int, jobs: int) -> None:
        """Run `jobs` machines at a time. Raises `AssertionError` for a dead state in a record."""
        with ExitStack() as stack:
            self._machines = {kind: self._prepared(kind, stack) for kind in self._kinds}
            with ThreadPoolExecutor(jobs) as pool:
                for job in [pool.submit(self._work_off, cuts) for _ in range(jobs)]:
                    job.result()

    def _prepared(self, kind: Kind, stack: ExitStack) -> tuple[Scenario, Undisturbed]:
        """Record a run without a cut, and judge every state of it."""
        directory = self._work / str(kind)
        shutil.rmtree(directory, ignore_errors=True)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        armed = stack.enter_context(scenario(kind, directory))
        run = undisturbed(first_run(armed, directory / "first"))
        report = judged(armed, run.log, armed.armed, states=self._states // len(self._kinds))
        self._print(f"{kind}: {report} of {run.entries} recorded entries")
        assert not report.dead, "\n".join(report.dead)
        return armed, run

    def _work_off(self, cuts: int) -> None:
        while (number := self._next(cuts)) is not None:
            kind, planned_cuts = planned(number, self._kinds)
            self.results.add(self._told(number, planned_cuts, *self._machines[kind]))
            self._print(f"story {number}: {self.results.summary()}")

    def _next(self, cuts: int) -> int | None:
        with self._lock:
            if self.results.cuts >= cuts:
                return None
            done = self._taken | self.results.stories.keys()
            number = next(number for number in range(1 << 30) if number not in done)
            self._taken.add(number)
            return number

    def _told(self, number: int, cuts: int, armed: Scenario, run: Undisturbed) -> dict[str, Any]:
        machine = Machine(armed, self._work / f"story-{number}", random.Random(number))
        error = None
        try:
            story(machine, run, cuts, boot_new=number % _BOOT_NEW_EVERY == 0)
        except CutError as failure:
            error = str(failure)
        if error is None:
            machine.remove()
        return {
            "story": number,
            "kind": str(armed.kind),
            "cuts": machine.cuts,
            "boots": machine.boots,
            "booted": [line for line in machine.history if line.startswith("booted")],
            "error": error,
        }

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:.0f} s] {text}", flush=True)
