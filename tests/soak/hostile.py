"""Clients that would take the daemon from others: one cheap process, as many connections.

    python -m tests.soak.hostile PORT SECONDS CONNECTIONS

Each kind has a number of connections that it keeps open and a rate at which it opens new ones, so
that the machine itself is not what fails. They come from 40 addresses of 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

_ADDRESSES = 40
_GIVE_UP_SECONDS = 20.0
_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(40)
"""The first bytes of a TLS handshake, and then no more."""
_TOKEN = b"Authorization: Bearer hf_wrong\r\n"
_HOST = b"Host: 127.0.0.1\r\n"

Kind = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
counted: Counter[str] = Counter()


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Send nothing at all."""
    await reader.read()


async def half_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begin a handshake and leave it."""
    writer.write(_HELLO)
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a head byte by byte."""
    for byte in itertools.cycle(b"GET / HTTP/1.1\r\n" + _HOST + b"X-Long: " + b"y" * 10_000):
        writer.write(bytes([byte]))
        await writer.drain()
        if reader.at_eof():
            return
        await asyncio.sleep(0.5)


async def oversized(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send more than any request needs: one thing of these."""
    many = b"&".join(b"%x" % number for number in range(1500))
    writer.write(
        random.choice(
            (
                b"GET /?" + many + b" HTTP/1.1\r\n" + _HOST + b"Accept: text/html\r\n\r\n",
                b"GET /healthz?" + many + b" HTTP/1.1\r\n" + _HOST + b"\r\n",
                b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n",
                b"GET / HTTP/1.1\r\n" + _HOST + b"a: b\r\n" * 10_000 + b"\r\n",
                b"GET / HTTP/1.1\r\n" + _HOST + b"Accept: " + b"a/b," * 4000 + b"\r\n\r\n",
                b"B" * 15_000 + b" / HTTP/1.1\r\n" + _HOST + b"\r\n",
                b"POST / HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n"
                + b"1\r\nx\r\n" * 20_000,
            )
        )
    )  # fmt: skip
    await reader.read()


async def refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask with a wrong token, many times on one connection."""
    writer.write((b"GET /v1/node HTTP/1.1\r\n" + _HOST + _TOKEN + b"\r\n") * 50)
    await reader.read()


async def slow_reader(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask for much, and read none of it."""
    sock: ssl.SSLSocket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write((b"GET / HTTP/1.1\r\n" + _HOST + b"Accept: text/html\r\n\r\n") * 200)
    await asyncio.sleep(_GIVE_UP_SECONDS)


async def upload(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announce a large body, send some of it, and hang up in its middle."""
    writer.write(
        b"PUT /v1/pagecache/dumps/01JDZZZZZZZZZZZZZZZZZZZZZZ/content HTTP/1.1\r\n"
        + _HOST + _TOKEN + b"Content-Length: 900000000\r\n\r\n"
    )  # fmt: skip
    for _ in range(16):
        writer.write(bytes(16_384))
        await writer.drain()
        await asyncio.sleep(0.05)


KINDS: tuple[tuple[Kind, float, float, bool], ...] = (
    # kind, its share of the connections, new connections a second, with TLS
    (silent, 0.60, 60.0, False),
    (half_open, 0.20, 20.0, False),
    (drip, 0.06, 4.0, True),
    (slow_reader, 0.06, 4.0, True),
    (oversized, 0.04, 4.0, True),
    (refused, 0.02, 4.0, True),
    (upload, 0.02, 2.0, True),
)


async def attack(port: int, seconds: float, connections: int) -> None:
    """Run all kinds against a port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    end = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(
        *(
            _keep(
                partial(_one, kind, port, context if tls else None),
                max(1, round(connections * share)),
                rate,
                end,
            )
            for kind, share, rate, tls in KINDS
        )
    )


async def _keep(
    connect: Callable[[], Coroutine[Any, Any, None]], most: int, rate: float, end: float
) -> None:
    """Keep up to `most` connections of a kind open, with at most `rate` new ones a second."""
    loop = asyncio.get_running_loop()
    open_now: set[asyncio.Task[None]] = set()
    while loop.time() < end:
        if len(open_now) < most:
            task = loop.create_task(connect())
            open_now.add(task)
            task.add_done_callback(open_now.discard)
        counted["most open"] = max(counted["most open"], len(open_now))
        await asyncio.sleep(1 / rate)
    for task in open_now:
        task.cancel()
    await asyncio.gather(*open_now, return_exceptions=True)


async def _one(kind: Kind, port: int, context: ssl.SSLContext | None) -> None:
    address = f"127.0.1.{random.randrange(1, _ADDRESSES + 1)}"
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, local_addr=(address, 0)
        )
    except OSError:
        counted[f"{kind.__name__} not connected"] += 1
        return
    counted[kind.__name__] += 1
    with suppress(OSError, TimeoutError, asyncio.CancelledError):
        await asyncio.wait_for(kind(reader, writer), 60)
    writer.transport.abort()


def main() -> None:
    """Attack, and print what was done as JSON."""
    port, seconds, connections = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever the caller has
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    asyncio.run(attack(port, seconds, connections))
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
