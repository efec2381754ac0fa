"""The operator's commands, gates and alerts, over processes and HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import suppress
from typing import Any

import httpx

from holdfast_rollout.interfaces import Json, Reading
from holdfast_rollout.inventory import AlertSource, Gate, Hook, Inventory

log = logging.getLogger(__name__)

_HTTP_SECONDS = 15.0
_OUTPUT_BYTES = 2000


class RealSurroundings:
    """What an inventory names besides the nodes."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    async def hook(self, name: str, variables: dict[str, str]) -> Reading:
        """Run a hook; good if there is none."""
        hook: Hook | None = getattr(self._inventory.hooks, name)
        if hook is None:
            return Reading(good=True)
        return await run(hook.command, hook.seconds, {**variables, "HOLDFAST_HOOK": name})

    async def gate(self, number: int, variables: dict[str, str]) -> Reading:
        """Read a gate once."""
        gate = self._inventory.gates[number]
        if gate.command is not None:
            return await run(gate.command, gate.within_seconds, variables)
        if gate.url is not None:
            return await _answers(_filled(gate.url, variables))
        return await _holds(gate, variables)

    async def alerts(self) -> Reading:
        """Read all sources; good if none fires, and not if one cannot be read."""
        for source in self._inventory.alerts:
            reading = await _alerts(source)
            if not reading.good:
                return reading
        return Reading(good=True)

    async def notify(self, event: Json) -> None:
        """Pass an event on to the command; a failure is logged, and stops nothing."""
        hook = self._inventory.notify
        if hook is None:
            return
        reading = await run(hook.command, hook.seconds, {}, json.dumps(event).encode())
        if not reading.good:
            log.warning("`notify` failed: %s", reading.detail)


async def run(
    command: list[str], seconds: float, variables: dict[str, str], given: bytes = b""
) -> Reading:
    """Run a program; good if it ends with 0 in time. The detail is the end of its output."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    except OSError as error:
        return Reading(good=False, detail=f"{command[0]}: {error.strerror}")
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate(given)
    except TimeoutError:
        return Reading(good=False, detail=f"{command[0]} did not end within {seconds:g} s")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    shown = output[-_OUTPUT_BYTES:].decode(errors="replace").strip()
    if process.returncode == 0:
        return Reading(good=True, detail=shown)
    return Reading(good=False, detail=f"{command[0]} ended with {process.returncode}: {shown}")


async def _answers(url: str) -> Reading:
    try:
        async with _http() as http:
            answer = await http.get(url)
    except httpx.HTTPError as error:
        return Reading(good=False, detail=f"{url}: {str(error) or type(error).__name__}")
    return Reading(good=answer.is_success, detail=f"{url} answers {answer.status_code}")


async def _holds(gate: Gate, variables: dict[str, str]) -> Reading:
    """Evaluate a query; it holds if it returns anything, and no zero."""
    query = _filled(gate.query or "", variables)
    try:
        async with _http() as http:
            found = await _json(http, f"{gate.prometheus}/api/v1/query", {"query": query})
        series = found["data"]["result"]
        values = [float(each["value"][1]) for each in series]
    except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError) as error:
        return Reading(good=False, detail=f"{gate.prometheus} cannot be asked: {error!r}")
    good = bool(values) and all(values)
    return Reading(good=good, detail=f"{query} is {values if values else 'nothing'}")


async def _alerts(source: AlertSource) -> Reading:
    try:
        async with _http(source.ca_file) as http:
            names = await _firing(http, source)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, OSError) as error:
        where = source.alertmanager or source.prometheus
        return Reading(good=False, detail=f"Alerts cannot be read from {where}: {error!r}.")
    if not names:
        return Reading(good=True)
    return Reading(good=False, detail=f"Alerts fire: {', '.join(sorted(set(names)))}.")


async def _firing(http: httpx.AsyncClient, source: AlertSource) -> list[str]:
    if source.alertmanager is not None:
        query = {"active": "true", "silenced": "false", "inhibited": "false"}
        matchers = [("filter", each) for each in source.matchers]
        url = f"{source.alertmanager}/api/v2/alerts"
        found = await _json(http, url, [*query.items(), *matchers])
        return [str(each["labels"]["alertname"]) for each in found]
    found = await _json(http, f"{source.prometheus}/api/v1/alerts", {})
    names = [
        str(each["labels"]["alertname"])
        for each in found["data"]["alerts"]
        if each["state"] == "firing"
    ]
    return [name for name in names if not source.matchers or name in source.matchers]


def _http(ca_file: str | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_HTTP_SECONDS, verify=ca_file or True, trust_env=False)


async def _json(http: httpx.AsyncClient, url: str, query: Any) -> Any:
    answer = await http.get(url, params=query)
    answer.raise_for_status()
    return answer.json()


def _filled(text: str, variables: dict[str, str]) -> str:
    """Put the node's name and zone where `{node}` and `{zone}` are."""
    for name in ("node", "zone", "roll"):
        text = text.replace(f"{{{name}}}", variables.get(f"HOLDFAST_{name.upper()}", ""))
    return text
