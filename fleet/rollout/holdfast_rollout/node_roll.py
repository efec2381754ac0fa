"""The workflow of one node: from the check to its release, step by step, and the ways back."""

from __future__ import annotations

from typing import Any, NoReturn

from holdfast_rollout.interfaces import Engine, Json
from holdfast_rollout.inventory import Inventory

DAY = 86_400.0
GO, BACK, ABORT = "go", "back", "abort"


class _Ended(Exception):  # noqa: N818 - the way out of the steps
    """The roll of this node has ended; `result` says how."""

    def __init__(self, result: Json) -> None:
        super().__init__(result.get("reason"))
        self.result = result


async def roll_node(engine: Engine, job: Json) -> Json:
    """Roll one node and report how it ended to the workflow of the roll.

    `job` has `roll`, `node`, `zone`, `attempt`, the `inventory`, and of earlier attempts their
    `operations`, the `boots` that these were armed in, and whether they left the node `disturbed`.
    The result has `outcome`: `done`,
    `failed`, `unknown` or `aborted`; `disturbed` if the node is not fit to serve, and `reason`.
    """
    course = _NodeRoll(engine, job)
    try:
        await course.run()
        result: Json = {"outcome": "done", "disturbed": False, "reason": course.note}
    except _Ended as end:
        result = {
            "outcome": end.result["outcome"],
            "disturbed": bool(end.result.get("disturbed")) or course.disturbed,
            "reason": end.result["reason"],
        }
    except Exception as error:  # the node's end, not the roll's
        reason = f"A step failed unexpectedly: {type(error).__name__}: {error}"
        result = {"outcome": "unknown", "disturbed": True, "reason": reason}
    await course.show(result["outcome"], reason=result["reason"], disturbed=result["disturbed"])
    attempt = {"operation": course.operation, "boot_before": course.boot_before}
    await course.send({"type": "end", **result, **attempt})
    return result


class _NodeRoll:
    """Takes the steps in order. Whatever it does is a step, so that a replay does the same."""

    def __init__(self, engine: Engine, job: Json) -> None:
        self._engine = engine
        self._job = job
        self._inventory = Inventory.model_validate(job["inventory"])
        self._key = f"{job['roll']}.{job['node']}.{job['attempt']}"
        self._asked = 0
        self._round = 0
        self._boot_id = ""
        self.operation: str | None = None
        self.boot_before = ""
        """The boot that the operation was armed in, or is to be; empty if it is not known."""
        self.disturbed = bool(job["disturbed"])
        self.note = ""

    async def run(self) -> None:
        """Roll the node. Raises `_Ended` unless it is done."""
        await self.show("checking")
        boots = self._job.get("boots", {})
        checked = await self._step("check", operations=self._job["operations"], boots=boots)
        self.boot_before = str(checked.get("boot_before", checked["boot_id"]))
        if checked.get("already"):
            self.operation = checked["operation"]
            if self.disturbed or self.operation in self._job["operations"]:
                await self._serve_again()
            self.note = "It ran the image already."
            return
        state = await self._stage(checked)
        if state in ("staged", "armed"):
            state = await self._change_system(state)
        else:
            # An earlier attempt went down, and was given up too early.
            self.disturbed = True
            state = await self._follow(self._inventory.times.boots)
        await self._settle(state)

    async def _stage(self, checked: Json) -> str:
        """Return the state of the attempt; an earlier one that is under way is continued."""
        state = str(checked.get("state", ""))
        if state and state != "staging":
            self.operation = checked["operation"]
            return state
        await self.show("staging")
        staged = await self._step("stage")
        self.operation = staged["operation"]
        return "staged"

    async def _change_system(self, state: str) -> str:
        """Drain, arm and reboot, once it is allowed; return where the node ended."""
        while True:
            await self.show("ready")
            answer = await self._ask("disturb")
            if answer == ABORT:
                await self._give_up(armed=state == "armed")
            self.disturbed = True
            followed = await self._go_down()
            if followed is not None:
                return followed
            state = "staged"
            await self._undrain()

    async def _go_down(self) -> str | None:
        """Return where the node ended; None if it was called back before it went down."""
        await self.show("draining")
        drained = await self._engine.step("drain", self._arguments())
        if drained["verdict"] == "end":
            await self._undrain()
            await self._withdraw(drained)
        if await self._ask("arm") != GO:
            return None
        await self.show("arming")
        armed = await self._engine.step("arm", self._arguments())
        if armed["verdict"] == "end":
            if armed["outcome"] != "failed":
                raise _Ended(armed)
            await self._undrain()
            await self._withdraw(armed)
        return await self._reboot()

    async def _reboot(self) -> str | None:
        deadline = await self._engine.now() + self._inventory.times.reboot
        while True:
            if await self._ask("reboot") != GO:
                await self._disarm()
                return None
            await self.show("rebooting")
            ordered = await self._engine.step("reboot", self._arguments())
            if ordered["verdict"] == "go":
                state = await self._follow(self._inventory.times.boots)
                if state not in ("armed", "disarmed"):
                    return state
                verdict = "held" if state == "armed" else "refused"
                ordered = {"verdict": verdict, "reason": self.note, "again": 0.0}
            late = await self._engine.now() + float(ordered.get("again", 0.0)) > deadline
            if ordered["verdict"] == "refused" or late:
                await self._disarm()
                await self._undrain()
                await self._withdraw({"outcome": "failed", "reason": ordered["reason"]})
            await self.show("held", reason=ordered["reason"])
            await self._engine.sleep(ordered["again"])

    async def _follow(self, seconds: float) -> str:
        await self.show("following")
        deadline = await self._engine.now() + seconds
        followed = await self._step("follow", deadline=deadline)
        self._boot_id = followed.get("boot_id", "")
        self.note = followed["reason"]
        return str(followed["state"])

    async def _settle(self, state: str) -> None:
        """Decide about the system that runs now. Raises `_Ended` unless the node is done."""
        if state == "failed":
            reason = self.note = f"The old system runs: {self.note}"
            await self._serve_again()
            raise _Ended({"outcome": "failed", "reason": reason})
        if state in ("booted", "confirmed"):
            await self.show("gating")
            gated = await self._step("gate")
            if gated["verdict"] == "go":
                await self._accept(state)
                return
            self.note = gated["reason"]
        elif state != "unconfirmed":
            raise _Ended({"outcome": "unknown", "reason": self.note, "disturbed": True})
        reason = f"The new system does not pass: {self.note}"
        if self._inventory.rules.on_failure == "rollback":
            await self._back(reason)
        raise _Ended({"outcome": "failed", "reason": reason, "disturbed": True})

    async def _accept(self, state: str) -> None:
        if state == "booted":
            await self.show("confirming")
            await self._step("confirm")
        await self._verify(self._inventory.image.descriptor_sha256)
        await self.show("releasing")
        await self._step("release")
        self.disturbed, self.note = False, ""

    async def _back(self, reason: str) -> None:
        """Put the kept system back. Raises `_Ended`."""
        await self.show("rolling back", reason=reason)
        self.operation = (await self._step("rollback"))["operation"]
        self._key += ".back"
        await self._step("arm")
        ordered = await self._step("reboot")
        deadline = await self._engine.now() + self._inventory.times.reboot
        while ordered["verdict"] == "held" and await self._engine.now() < deadline:
            await self._engine.sleep(ordered["again"])
            ordered = await self._step("reboot")
        if ordered["verdict"] != "go":
            raise _Ended(
                {
                    "outcome": "failed",
                    "reason": f"{reason} It does not go back: {ordered['reason']}",
                    "disturbed": True,
                }
            )
        state = await self._follow(self._inventory.times.boots)
        if state not in ("booted", "confirmed"):
            raise _Ended(
                {"outcome": "unknown", "reason": f"{reason} {self.note}", "disturbed": True}
            )
        gated = await self._step("gate")
        if gated["verdict"] != "go":
            why = f"{reason} Nor does the old one: {gated['reason']}"
            raise _Ended({"outcome": "failed", "reason": why, "disturbed": True})
        if state == "booted":
            await self._step("confirm")
        await self._verify(None)
        await self._step("release")
        self.disturbed = False
        raise _Ended({"outcome": "failed", "reason": f"{reason} The old system was put back."})

    async def _serve_again(self) -> None:
        """Gate and release the system that runs. Raises `_Ended` if it is not fit to serve."""
        gated = await self._step("gate")
        if gated["verdict"] != "go":
            why = f"{self.note} It does not pass: {gated['reason']}"
            raise _Ended({"outcome": "failed", "reason": why, "disturbed": True})
        await self._undrain()

    async def _verify(self, image: str | None) -> None:
        await self._step("verify", image=image, boot_before=self.boot_before, boot_id=self._boot_id)

    async def _undrain(self) -> None:
        await self.show("releasing")
        await self._step("release")
        self.disturbed = False
        self._round += 1  # what is done again after that has other keys

    async def _disarm(self) -> None:
        await self._step("disarm", number=self._asked)

    async def _give_up(self, *, armed: bool) -> None:
        """End the attempt before the node is disturbed. Raises `_Ended`."""
        if armed:
            await self._disarm()
        await self._withdraw({"outcome": "aborted", "reason": "The roll was aborted."})

    async def _withdraw(self, result: Json) -> NoReturn:
        """End the attempt on the node. Raises `_Ended` with the result."""
        cancelled = await self._engine.step("cancel", self._arguments())
        left = f" {cancelled['reason']}" if cancelled["verdict"] == "end" else ""
        raise _Ended({**result, "reason": f"{result['reason']}{left}"})

    async def _ask(self, purpose: str) -> str:
        """Ask the roll, and return its answer: `go`, `back` or `abort`."""
        self._asked += 1
        asks = {"type": "ask", "purpose": purpose, "number": self._asked}
        await self.send({**asks, "disturbed": self.disturbed})
        while True:
            message = await self._engine.receive(DAY)
            if message is not None and message["number"] == self._asked:
                return str(message["answer"])

    async def send(self, message: Json) -> None:
        """Send a message to the roll."""
        names = {name: self._job[name] for name in ("node", "attempt")}
        await self._engine.send(self._job["roll"], {**names, **message})

    async def show(self, state: str, **members: Any) -> None:
        """Publish where the node is."""
        moment = await self._engine.now()
        await self._engine.publish(
            f"node:{self._job['node']}",
            {
                "state": state,
                "zone": self._job["zone"],
                "attempt": self._job["attempt"],
                "operation": self.operation,
                "disturbed": self.disturbed,
                "reason": self.note,
                "since": moment,
                **members,
            },
        )

    def _arguments(self, **members: Any) -> Json:
        return {
            "roll": self._job["roll"],
            "node": self._job["node"],
            "zone": self._job["zone"],
            "key": f"{self._key}.{self._round}",
            "operation": self.operation,
            **members,
        }

    async def _step(self, name: str, **members: Any) -> Json:
        """Take a step; return its result. Raises `_Ended` with what ends the node's roll."""
        result = await self._engine.step(name, self._arguments(**members))
        if result["verdict"] == "end":
            raise _Ended(result)
        return result
