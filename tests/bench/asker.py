"""Asks the daemon's endpoints at a steady pace, in a process of its own, until its input ends.

`python -m tests.bench.asker PORT INTERVAL ENDPOINT…` writes a JSON object of endpoint to
milliseconds. Apart from the process that runs the benchmark, whose threads would hold it up.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time
from contextlib import closing


def ask(port: int, interval: float, endpoints: list[str]) -> dict[str, list[float]]:
    """Ask in turn, and time each answer from when it was due to be asked for."""
    found: dict[str, list[float]] = {endpoint: [] for endpoint in endpoints}
    number = 0
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        due = time.monotonic()
        while True:
            due += interval
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                return found
            endpoint = endpoints[number % len(endpoints)]
            connection.request("GET", endpoint)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"{endpoint} answered {response.status}")
            found[endpoint].append(1e3 * (time.monotonic() - due))
            number += 1


if __name__ == "__main__":
    print(json.dumps(ask(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])))
