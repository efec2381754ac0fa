#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until a service is good several times in a row."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gate
short_description: Wait until a check is good several times in a row
version_added: 0.1.0
description:
  - A datastore that answers once may be on its way down again. The check is read every
    O(every_seconds) until it was good O(stable) times in a row. A reading that is not begins the
    count anew.
  - If that does not come about within O(within_seconds), the task fails with the last reading.
  - The daemon has the same checks for its own confirmation (C(reimage.confirm_when)). This module
    is for what only another host sees, such as the peers of the node.
author: The holdfast authors (@holdfast)
options:
  check:
    description:
      - V(command) is good if O(argv) ends with 0, and its output matches O(pattern) if that is set.
      - V(http) is good if O(url) answers 2xx, and its body matches O(pattern) if that is set.
      - V(redis) is good if the server at O(address) has loaded its data and, as a replica, is
        connected to its primary.
      - V(memcached) is good if the server at O(address) answers.
      - V(zookeeper) is good if the server at O(address) has a mode, such as follower.
    type: str
    required: true
    choices: [command, http, redis, memcached, zookeeper]
  argv:
    description: With O(check=command), the program and its arguments, run without a shell.
    type: list
    elements: str
  url:
    description: With O(check=http), what to fetch. Redirects are not followed.
    type: str
  address:
    description: C(HOST:PORT) of the server.
    type: str
  pattern:
    description: Regular expression (of Python) that must be found, a line at a time.
    type: str
  unwanted:
    description: Regular expression (of Python) that must not be found.
    type: str
  stable:
    description: Good readings in a row.
    type: int
    default: 3
  every_seconds:
    description: Seconds between readings.
    type: float
    default: 2
  within_seconds:
    description: Seconds until the check fails.
    type: float
    default: 300
  reading_seconds:
    description: Seconds that one reading may take.
    type: float
    default: 10
attributes:
  check_mode:
    description: Nothing is read.
    support: full
"""

EXAMPLES = r"""
- name: Wait until a peer sees the node as up and normal
  holdfast.agent.gate:
    check: command
    argv: [nodetool, status]
    pattern: '^UN\s+{{ address | regex_escape }}\s'
    unwanted: '^D'
  delegate_to: "{{ peer }}"

- name: Wait until the cluster is whole
  holdfast.agent.gate:
    check: http
    url: http://127.0.0.1:9200/_cluster/health
    pattern: '"status":"green"'
    within_seconds: 1800
"""

RETURN = r"""
readings:
  description: How often it was read.
  returned: always
  type: int
detail:
  description: The last reading.
  returned: always
  type: str
"""

import re
import socket
import time
import urllib.error
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule

MAX_BYTES = 1 << 20
DETAIL_CHARACTERS = 400


class NotGood(Exception):
    """What a reading found, in a clause."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:
        """Follow nothing."""


class Reader:
    """Reads the check once; returns what it read. Raises `NotGood`."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._seconds = module.params["reading_seconds"]

    def read(self) -> str:
        """Read once."""
        check = self._module.params["check"]
        try:
            text: str = getattr(self, f"_{check}")()
        except (OSError, ValueError) as error:
            raise NotGood(str(error) or error.__class__.__name__) from error
        pattern, unwanted = self._module.params["pattern"], self._module.params["unwanted"]
        if pattern is not None and not re.search(pattern, text, re.MULTILINE):
            raise NotGood(f"{pattern!r} was not found in: {_cut(text)}")
        found = re.search(unwanted, text, re.MULTILINE) if unwanted is not None else None
        if found is not None:
            raise NotGood(f"{unwanted!r} was found in: {_cut(text)}")
        return text

    def _command(self) -> str:
        # The limit is coreutils', so that a command that hangs leaves nothing behind.
        argv = ["timeout", f"{self._seconds:g}", *self._module.params["argv"]]
        code, printed, wrong = self._module.run_command(argv)
        if code != 0:
            raise NotGood(f"the command ended with {code}: {_cut(wrong or printed)}")
        return str(printed)

    def _http(self) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
        try:
            with opener.open(self._module.params["url"], timeout=self._seconds) as answer:
                return str(answer.read(MAX_BYTES).decode(errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                raise NotGood(f"the answer is {error.code}") from error

    def _redis(self) -> str:
        text = self._asked(b"PING\r\nINFO replication\r\nQUIT\r\n")
        if "+PONG" not in text:
            raise NotGood(f"it does not answer PING: {_cut(text)}")
        if "role:slave" in text and "master_link_status:up" not in text:
            raise NotGood("it is a replica that is not connected to its primary")
        if "role:" not in text:
            raise NotGood(f"it does not show its role: {_cut(text)}")
        return text

    def _memcached(self) -> str:
        text = self._asked(b"version\r\nquit\r\n")
        if not text.startswith("VERSION "):
            raise NotGood(f"it does not answer `version`: {_cut(text)}")
        return text

    def _zookeeper(self) -> str:
        text = self._asked(b"srvr")
        if not re.search(r"^Mode: ", text, re.MULTILINE):
            raise NotGood(f"it has no mode: {_cut(text)}")
        return text

    def _asked(self, question: bytes) -> str:
        host, port = self._module.params["address"].rsplit(":", 1)
        deadline = time.monotonic() + self._seconds
        text = b""
        with socket.create_connection((host.strip("[]"), int(port)), self._seconds) as connection:
            connection.sendall(question)
            while len(text) < MAX_BYTES and time.monotonic() < deadline:
                piece = connection.recv(65536)
                if not piece:
                    break
                text += piece
        return text.decode(errors="replace")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= DETAIL_CHARACTERS else f"{line[:DETAIL_CHARACTERS]} …"


def wait(module: AnsibleModule) -> dict[str, Any]:
    """Return once it was good often enough. Ends the module if time is up before."""
    reader, stable = Reader(module), module.params["stable"]
    deadline = time.monotonic() + module.params["within_seconds"]
    good, readings = 0, 0
    while True:
        readings += 1
        try:
            detail, good = _cut(reader.read()), good + 1
        except NotGood as reading:
            detail, good = str(reading), 0
        result: dict[str, Any] = {"changed": False, "readings": readings, "detail": detail}
        if good >= stable:
            return result
        if time.monotonic() + module.params["every_seconds"] > deadline:
            many = f"{good} of {stable} good readings in a row"
            module.fail_json(msg=f"The gate did not open in time, with {many}: {detail}", **result)
        time.sleep(module.params["every_seconds"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "check": {
                "type": "str",
                "required": True,
                "choices": ["command", "http", "redis", "memcached", "zookeeper"],
            },
            "argv": {"type": "list", "elements": "str"},
            "url": {"type": "str"},
            "address": {"type": "str"},
            "pattern": {"type": "str"},
            "unwanted": {"type": "str"},
            "stable": {"type": "int", "default": 3},
            "every_seconds": {"type": "float", "default": 2.0},
            "within_seconds": {"type": "float", "default": 300.0},
            "reading_seconds": {"type": "float", "default": 10.0},
        },
        required_if=[
            ("check", "command", ("argv",)),
            ("check", "http", ("url",)),
            ("check", "redis", ("address",)),
            ("check", "memcached", ("address",)),
            ("check", "zookeeper", ("address",)),
        ],
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, readings=0, detail="")
    module.exit_json(**wait(module))


if __name__ == "__main__":
    main()
