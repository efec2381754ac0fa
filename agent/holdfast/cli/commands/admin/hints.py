"""What to type next, printed by `holdfast serve` once the daemon is ready."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence


def print_hints(addresses: Sequence[str]) -> None:
    """Print command lines to paste into another terminal, for the addresses listened on.

    `HOLDFAST_TOKEN_FILE`, when it is set, is taken for the file with a token for TCP.
    """
    lines = [_unix(address) for address in addresses if address.startswith("unix:")]
    lines += [_tcp(address) for address in addresses if not address.startswith("unix:")]
    text = "\n".join(line for group in lines for line in group)
    print(f"\nholdfast is ready. To try it from another terminal:\n\n{text}\n", file=sys.stderr)


def _unix(address: str) -> list[str]:
    path = shlex.quote(address.removeprefix("unix:"))
    curl = 'curl --unix-socket "$S" http://localhost'
    json = "-H 'Content-Type: application/json' -d"
    load = '{"dump": "latest"}'
    command = f'{shlex.quote(_program())} --socket "$S"'
    return [
        f"  S={path}",
        f"  {curl}/",
        f"  {curl}/v1/pagecache",
        # This one waits for its end, so that there is a dump to load when all are pasted at once.
        f"  {command} pagecache dump",
        f"  {curl}/v1/pagecache/loads {json} '{load}'",
        f"  {curl}/v1/manifests {json} '{{}}'",
        f"  {curl}/v1/operations",
        f"  {command} pagecache show",
    ]


def _tcp(url: str) -> list[str]:
    token_file = os.environ.get("HOLDFAST_TOKEN_FILE")
    lines = [f"  curl {url}/metrics"]
    if token_file:
        token = f'-H "Authorization: Bearer $(cat {shlex.quote(token_file)})"'
        lines.append(f"  curl {token} {url}/v1/node")
    return lines


def _program() -> str:
    name = sys.argv[0]
    return "holdfast" if name.endswith("__main__.py") else name
