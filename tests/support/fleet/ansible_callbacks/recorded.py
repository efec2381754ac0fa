"""Writes each result of a playbook as a line of JSON, for tests."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: recorded
type: notification
short_description: write results as lines of JSON
description: For tests.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """The callback, as Ansible loads it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "recorded"

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write("ignored" if ignore_errors else "failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write("unreachable", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._write("skipped", result)

    def _write(self, kind: str, result: Any) -> None:
        line = {
            "kind": kind,
            "task": result._task.get_name().rpartition(" : ")[2],
            "run": str(result._task._uuid),
            "host": result._host.get_name(),
            "result": json.loads(self._dump_results(result._result)),
        }
        with open(os.environ["HOLDFAST_TEST_RESULTS"], "a") as file:  # noqa: PTH123
            file.write(json.dumps(line) + "\n")
