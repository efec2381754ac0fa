"""Fills a memcached with items, and reads them back: `python3 memcached_items.py fill|read`.

Runs in the machine, with nothing but Python. `read` prints flags, end by the clock and digest of
the value of each item that is there, what memcached counted, and the time.
"""

import hashlib
import json
import socket
import sys
import time

ITEMS = 20_000
SHORT = 100
"""Items that live for a second."""
BATCH = 100
PATIENCE_SECONDS = 300


def value(number: int) -> bytes:
    return b"value %d " % number * (1 + number % 300)


def connect() -> socket.socket:
    """Connect to memcached, which systemd takes for started before it listens."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", 11211), PATIENCE_SECONDS)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def ask(connection: socket.socket, request: bytes, end: bytes) -> bytes:
    connection.sendall(request)
    answer = b""
    while not answer.endswith(end):
        piece = connection.recv(1 << 20)
        if not piece:
            sys.exit(f"memcached closed the connection after {answer[-100:]!r}")
        answer += piece
    return answer


def fill(connection: socket.socket) -> None:
    for begin in range(0, ITEMS, BATCH):
        items = [
            b"set key-%d %d %d %d noreply\r\n%s\r\n" % (n, n % 7, 36_000 + n, len(text), text)
            for n in range(begin, begin + BATCH)
            for text in [value(n)]
        ]
        ask(connection, b"".join(items) + b"mn\r\n", b"MN\r\n")
    short = b"".join(b"set short-%d 0 1 1 noreply\r\nx\r\n" % n for n in range(SHORT))
    ask(connection, short + b"mn\r\n", b"MN\r\n")


def items(connection: socket.socket, names: list[bytes]) -> dict[str, list[object]]:
    found = {}
    for begin in range(0, len(names), BATCH):
        asked = b"".join(b"mg %s f t v k\r\n" % name for name in names[begin : begin + BATCH])
        now = time.time()
        answer = ask(connection, asked + b"mn\r\n", b"MN\r\n")
        while answer != b"MN\r\n":
            head, _, answer = answer.partition(b"\r\n")
            if head.startswith(b"EN"):
                continue
            size, flags, ttl, key = head.split()[1:]
            text, answer = answer[: int(size)], answer[int(size) + 2 :]
            digest = hashlib.sha256(text).hexdigest()[:16]
            found[key[1:].decode()] = [int(flags[1:]), now + int(ttl[1:]), digest]
    return found


def main() -> None:
    with connect() as connection:
        if sys.argv[1] == "fill":
            fill(connection)
            return
        long = items(connection, [b"key-%d" % n for n in range(ITEMS)])
        now = time.time()
        stats = dict(
            line.split()[1:3]
            for line in ask(connection, b"stats\r\n", b"END\r\n").decode().splitlines()[:-1]
        )
        short = items(connection, [b"short-%d" % n for n in range(SHORT)])
    counted = {name: int(stats[name]) for name in ("get_hits", "get_misses", "curr_items")}
    print(json.dumps({"items": long, "short": len(short), "now": now} | counted))


if __name__ == "__main__":
    main()
