# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules on a node that may be away, or another system than a moment ago."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

_DISCOVERED = "discovered_interpreter_"


class Away(Exception):
    """The node, or the daemon on it, did not answer; the text says why."""


class Remote:
    """Runs modules of this collection on the node of a task."""

    def __init__(
        self, action: ActionBase, task_vars: Mapping[str, Any], common: Mapping[str, Any]
    ) -> None:
        """Prepare to run modules; `common` are the arguments that every one of them receives."""
        self._action = action
        self._task_vars = dict(task_vars)
        self._common = common

    def run(self, name: str, arguments: Mapping[str, Any], *, anew: bool) -> dict[str, Any]:
        """Return the result of a module, which may have failed. Raises `Away` without one.

        With `anew` the node may be another system by now: nothing is taken over from the connection
        before.
        """
        if anew:
            self._reset()
        try:
            answer: dict[str, Any] = self._action._execute_module(
                module_name=f"holdfast.agent.{name}",
                module_args={**self._common, **arguments},
                task_vars=self._task_vars,
            )
        # Also what comes of a temporary directory that cannot be made while the node goes down.
        except AnsibleError as error:
            self._forget_directory()
            raise Away(_line(str(error))) from error
        self._clean_up()
        if answer.get("unreachable") or answer.get("away"):
            raise Away(_line(str(answer.get("msg") or "The daemon does not answer.")))
        if answer.get("failed") and "module_stdout" in answer:
            # It was cut off, or found no Python: a module that ran has an answer of its own.
            text = " ".join(
                str(answer.get(member) or "")
                for member in ("msg", "module_stderr", "module_stdout")
            )
            raise Away(_line(text))
        return answer

    def _reset(self) -> None:
        """Connect anew, and discover the interpreter of the new system."""
        facts = dict(self._task_vars.get("ansible_facts") or {})
        kept = {name: value for name, value in facts.items() if not name.startswith(_DISCOVERED)}
        self._task_vars["ansible_facts"] = kept
        self._forget_directory()
        try:
            self._action._connection.reset()
        except (AttributeError, AnsibleError):
            # A connection that cannot be reset has no persistent one behind it, or is broken.
            return

    def _clean_up(self) -> None:
        """Remove the temporary directory, which may be gone with its system at the next call."""
        shell = self._action._connection._shell
        # The answer of the module counts, also where the connection broke behind it.
        with contextlib.suppress(AnsibleError):
            self._action._remove_tmp_path(shell.tmpdir)
        self._forget_directory()

    def _forget_directory(self) -> None:
        self._action._connection._shell.tmpdir = None


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else f"{line[:500]} …"
