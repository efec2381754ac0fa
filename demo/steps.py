"""The steps of `make demo`: page cache, manifests, and a tuning plan."""

from __future__ import annotations

import shlex

from demo.sample import CHUNK, FLIPPED, FLIPPED_AT, SAMPLE
from demo.shell import Demo
from tests.support.waiting import until

DIFFERENCES = 3
"""The exit code of a check that found some, and of a plan that would change something."""
REQUIRED_RECALL = 0.99


def show_session(demo: Demo, *, ours: bool) -> None:
    """Dump, evict and load, and show the page cache in between."""
    root = shlex.quote(str(demo.root))
    demo.title("what is in memory now")
    demo.curl("/", then=" | head -n 40")
    demo.run("holdfast pagecache show")

    demo.title("dump: record which pages are in memory, over plain HTTP")
    demo.curl(
        "/v1/pagecache/dumps",
        "-X POST -H 'Content-Type: application/json' -H 'Idempotency-Key: demo-dump' -d '{}'",
    )
    newest = demo.http.get("/v1/operations", params={"limit": 1}).json()["operations"][0]["id"]
    demo.curl(f"/v1/operations/{newest}/events", "-N -H 'Accept: text/plain'")
    dumped = demo.last("pagecache.dump")
    demo.run("holdfast pagecache list")
    demo.expect(dumped["pages"] > 0, f"nothing of {demo.root} was in memory: read some of it first")

    demo.title("evict: drop it, as a reboot would")
    demo.run(f"holdfast pagecache evict --sync {root}")
    evicted = demo.last("pagecache.evict")
    demo.run("holdfast pagecache show --depth 0 --top 0")
    if ours:
        demo.expect(
            evicted["retained"] <= 0.01 * evicted["resident_before"],
            f"{evicted['retained']} of {evicted['resident_before']} bytes stayed in memory",
        )

    demo.title("load: read it back")
    demo.run("holdfast pagecache load latest")
    loaded = demo.last("pagecache.load")
    demo.run("holdfast pagecache show")

    # What counts is what the load found when it asked the kernel at its end: later the machine may
    # reclaim pages that nobody uses, as hosts of virtual machines like to do.
    there = loaded["loaded"] + loaded["already_resident"]
    recall = there / dumped["bytes"] if dumped["bytes"] else 0.0
    print(f"\nrecall: {100 * recall:.3f} % of the {dumped['pages']:,} dumped pages are back")
    demo.expect(
        recall >= REQUIRED_RECALL,
        f"a recall of {100 * recall:.2f} % is under {100 * REQUIRED_RECALL:.0f} %: "
        f"missing {loaded['missing']}, skipped {loaded['skipped_bytes_by_reason']}, "
        f"stopped by {loaded['stopped']}",
    )

    demo.title("what a monitoring system sees, over TCP")
    address = f"http://127.0.0.1:{demo.port}"
    # Residency is sampled in the background once a scraper asks.
    until(
        lambda: "holdfast_pagecache_resident_bytes{" in demo.http.get("/metrics").text,
        seconds=20,
        what="a sample of residency in the metrics",
    )
    shown = "(build_info|pagecache_resident|read_bytes|operation_(expected|progress)_bytes"
    demo.run(
        f"curl -fsS {address}/metrics | "
        f"grep -E '^holdfast_{shown}|operation_last_duration|operations_finished.*succeeded)'"
    )
    demo.run(
        f'curl -fsS -H "Authorization: Bearer $(cat {demo.work}/token)" '
        f"'{address}/v1/operations?state=succeeded&limit=1'"
    )


def show_manifests(demo: Demo, *, ours: bool) -> None:
    """Record all files with their digests, and check whether they are still the same."""
    demo.title("manifest: record every file with its digest")
    demo.run("holdfast manifest build")
    built = demo.last("manifest.build")
    demo.run("holdfast manifest show")

    demo.title("verify: read everything and compare")
    if not ours:
        # Others may be writing to these files.
        if demo.run("holdfast manifest verify", codes=(0, DIFFERENCES)) == DIFFERENCES:
            print("\nfiles were changed meanwhile, or could not be read")
        return
    demo.expect(built["ok"] == len(SAMPLE), f"{built['ok']} of {len(SAMPLE)} files have a digest")
    demo.run("holdfast manifest verify")

    demo.title("one byte in a large file goes bad")
    path = demo.root / FLIPPED
    with path.open("rb") as file:
        file.seek(FLIPPED_AT)
        (byte,) = file.read(1)
    write = f"dd of={shlex.quote(str(path))} bs=1 seek={FLIPPED_AT} conv=notrunc status=none"
    demo.run(f"printf '\\x{byte ^ 1:02x}' | {write}")
    code = demo.run("holdfast manifest verify", codes=(0, DIFFERENCES))
    print(f"\nexit code {code}: {'files differ' if code else 'all is well'}")
    found = [(each["path"], each["ranges"]) for each in demo.last("manifest.verify")["findings"]]
    begin = FLIPPED_AT // CHUNK * CHUNK
    demo.expect(
        code == DIFFERENCES and found == [(FLIPPED, [[begin, begin + CHUNK]])],
        f"the verification ended with {code} and found {found}",
    )

    demo.title("repaired")
    demo.run(f"printf '\\x{byte:02x}' | {write}")
    demo.run("holdfast manifest verify")


def show_tuning(demo: Demo) -> None:
    """Plan a profile: what it would change on this machine, and who recommends it."""
    demo.title("tuning: what the profile for Cassandra would change on this machine")
    code = demo.run("holdfast tune plan cassandra", codes=(0, DIFFERENCES))
    print(f"\nexit code {code}: {'it would change something' if code else 'nothing to change'}")
    print("nothing was changed; `sudo holdfast tune apply cassandra` changes all of it, or nothing")
