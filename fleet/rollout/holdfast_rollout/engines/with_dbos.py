"""Rolls as DBOS workflows, on SQLite or PostgreSQL: durable, without a server of their own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy
from dbos import (
    DBOS,
    DBOSClient,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    SetWorkflowID,
)

from holdfast_rollout.interfaces import Json
from holdfast_rollout.inventory import Inventory
from holdfast_rollout.node_roll import roll_node
from holdfast_rollout.roll import node_workflow, roll_fleet
from holdfast_rollout.steps import STEPS, Context

WORKFLOW_VERSION = "1"
"""Grows when the order of calls in a workflow changes: DBOS resumes what has the same version."""
_NAME = "holdfast-rollout"
_TOPIC = "mailbox"
_POLL_SECONDS = 1.0
_current: dict[str, Any] = {}


class EngineError(Exception):
    """The database cannot be used, or the roll is another process's; the message says so."""


class DbosEngine:
    """The engine as one workflow sees it."""

    async def step(self, name: str, arguments: Json) -> Json:
        """Run a step; its result is in the database before this returns."""
        result: Json = await DBOS.run_step_async({"name": name}, _step, name, arguments)
        return result

    async def start_node(self, workflow: str, job: Json) -> None:
        """Start the workflow of a node, once for each id."""
        with SetWorkflowID(workflow):
            await DBOS.start_workflow_async(_node, job)

    async def send(self, workflow: str, message: Json) -> None:
        """Put a message into the mailbox of a workflow, once."""
        await DBOS.send_async(workflow, message, _TOPIC)

    async def receive(self, seconds: float) -> Json | None:
        """Take the oldest message of the own mailbox."""
        message: Json | None = await DBOS.recv_async(_TOPIC, timeout_seconds=seconds)
        return message

    async def now(self) -> float:
        """Return the POSIX time, recorded."""
        moment: float = await DBOS.run_step_async({"name": "now"}, _now)
        return moment

    async def sleep(self, seconds: float) -> None:
        """Wait; after a restart for what is left of it."""
        await DBOS.sleep_async(seconds)

    async def publish(self, key: str, members: Json) -> None:
        """Show where the workflow is, here and to others by an event."""
        board = _context().board
        kind, _, name = key.partition(":")
        if kind == "node":
            board.node(name, members)
        else:
            board.roll(members)
        await DBOS.set_event_async(key, members)


def _context() -> Context:
    context: Context = _current["context"]
    return context


async def _step(name: str, arguments: Json) -> Json:
    return await STEPS[name](_context(), arguments)


async def _now() -> float:
    return _context().clock.now()


@DBOS.workflow(name="holdfast.roll", max_recovery_attempts=None)
async def _fleet(document: Json) -> Json:
    return await roll_fleet(DbosEngine(), document)


@DBOS.workflow(name="holdfast.node", max_recovery_attempts=None)
async def _node(job: Json) -> Json:
    return await roll_node(DbosEngine(), job)


def run_roll(
    url: str, inventory: Inventory, context: Context, watch: Callable[[Callable[[], bool]], int]
) -> int:
    """Run a roll in this process, from its beginning or from where it was; return the exit code.

    `watch` returns that code when it is time to leave; it is called with what returns whether the
    roll has ended. Of a roll that has not, the process ends here and now, as if it was killed:
    DBOS records a workflow that is cancelled in order as failed, and resumes one that is not.
    Raises `EngineError`.
    """
    with _alone(url, inventory.roll):
        _refuse_changes(url, inventory)
        ended = _launch(url, inventory, context)
        try:
            code = watch(ended.is_set)
        except BaseException:
            traceback.print_exc()
            code = 1
        if not ended.is_set():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        DBOS.destroy()
        return code


def _launch(url: str, inventory: Inventory, context: Context) -> threading.Event:
    """Start or resume the workflows of a roll; return what is set once it has ended."""
    _current["context"] = context
    config: DBOSConfig = {
        "name": _NAME,
        "system_database_url": url,
        "application_version": WORKFLOW_VERSION,
        # A process resumes what has its executor's name: its own roll, and no other.
        "executor_id": inventory.roll,
        "serializer": DBOSPortableJSONSerializer(),
        "log_level": "ERROR",
        "notification_listener_polling_interval_sec": 0.2,
    }
    try:
        DBOS(config=config)
        DBOS.launch()
        with SetWorkflowID(inventory.roll):
            handle = DBOS.start_workflow(_fleet, inventory.model_dump(mode="json"))
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        DBOS.destroy()
        raise EngineError(f"The database cannot be used: {_first_line(error)}") from error
    ended = threading.Event()
    threading.Thread(target=_await, args=(handle, ended), daemon=True).start()
    return ended


def _refuse_changes(url: str, inventory: Inventory) -> None:
    """Raise `EngineError` if the roll began with another inventory, which it would decide by.

    Before the launch, which resumes what is there.
    """
    rolls = DbosRolls(url)
    try:
        document = rolls.began_with(inventory.roll)
    except sqlalchemy.exc.DBAPIError:
        return  # Without tables there is no roll; the launch makes them, or says what is wrong.
    finally:
        rolls.close()
    changed = inventory.changed_since(Inventory.model_validate(document)) if document else []
    if changed:
        raise EngineError(
            f"The roll {inventory.roll} began with other {' and '.join(changed)}, and these do not "
            "change during a roll: put them back, or abort it and give the new one another name."
        )


def _await(handle: Any, ended: threading.Event) -> None:
    with suppress(Exception):  # of a workflow that failed, or of a database that went away
        handle.get_result(polling_interval_sec=_POLL_SECONDS)
        ended.set()


@contextmanager
def _alone(url: str, roll: str) -> Iterator[None]:
    """Hold a lock of the database for a roll. Raises `EngineError` if another process does.

    Of SQLite it is a file lock beside the database, of PostgreSQL an advisory lock: both end with
    the process, however it ends.
    """
    held = f"Another process runs the roll {roll}; `status`, `pause` and `abort` reach it."
    address = sqlalchemy.make_url(url)
    if address.get_backend_name() == "sqlite":
        with open(f"{address.database}.{roll}.lock", "w", encoding="ascii") as file:  # noqa: PTH123
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise EngineError(held) from error
            file.write(str(os.getpid()))
            file.flush()
            yield
        return
    number = int.from_bytes(hashlib.sha256(roll.encode()).digest()[:8], "big", signed=True)
    engine = sqlalchemy.create_engine(address.set(drivername="postgresql+psycopg"))
    try:
        options = {"isolation_level": "AUTOCOMMIT"}
        with engine.connect().execution_options(**options) as connection:
            query = sqlalchemy.text("SELECT pg_try_advisory_lock(:number)")
            if not connection.execute(query, {"number": number}).scalar():
                raise EngineError(held)
            yield
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise EngineError(f"The database cannot be used: {_first_line(error)}") from error
    finally:
        engine.dispose()


class DbosRolls:
    """Rolls of a database, seen and commanded from any process. Methods raise `EngineError`."""

    def __init__(self, url: str) -> None:
        try:
            self._client = DBOSClient(
                system_database_url=url,
                serializer=DBOSPortableJSONSerializer(),
                retry_connection_errors=False,
            )
        except Exception as error:
            raise EngineError(f"The database cannot be used: {_first_line(error)}") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.destroy()

    def began_with(self, roll: str) -> Json | None:
        """Return the inventory of a roll's first run; None if there is no such roll.

        Raises `sqlalchemy.exc.DBAPIError` if the database has no tables yet.
        """
        for known in self._client.list_workflows(workflow_ids=[roll]):
            if known.input is not None:
                document: Json = known.input["args"][0]
                return document
        return None

    def command(self, roll: str, command: str, **members: Any) -> None:
        """Send a command to a roll: `pause`, `resume` or `abort`."""
        self._require(roll)
        message = {"type": "command", "command": command, **members}
        self._client.send(roll, message, _TOPIC)

    def status(self, inventory: Inventory) -> tuple[Json, dict[str, Json]]:
        """Return the summary of a roll, and the members of each node that was started."""
        self._require(inventory.roll)
        summary = self._client.get_event(inventory.roll, "roll", timeout_seconds=0) or {}
        nodes: dict[str, Json] = {}
        prefix = f"{inventory.roll}:"
        started = {
            each.workflow_id
            for each in self._client.list_workflows(
                name="holdfast.node", load_input=False, load_output=False
            )
            if each.workflow_id.startswith(prefix)
        }
        for node in inventory.nodes:
            attempt = 1
            while node_workflow(inventory.roll, node.name, attempt + 1) in started:
                attempt += 1
            workflow = node_workflow(inventory.roll, node.name, attempt)
            if workflow in started:
                shown = self._client.get_event(workflow, f"node:{node.name}", timeout_seconds=0)
                nodes[node.name] = shown or {}
        return summary, nodes

    def _require(self, roll: str) -> None:
        try:
            found = self._client.list_workflows(workflow_ids=[roll])
        except Exception as error:
            raise EngineError(f"The database cannot be used: {_first_line(error)}") from error
        if not found:
            raise EngineError(f"There is no roll {roll} in this database.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
