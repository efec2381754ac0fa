"""A stand-in for a datastore: maps a large file and reads its hot set, as a database would.

`python3 datastore.py FILE RESULT`: one pass over the hot set, whose cost is written to RESULT; then
it keeps the file mapped until it is asked to end. Runs in the machine, with nothing but Python.
"""

import json
import mmap
import os
import resource
import signal
import sys
import time

PAGE = mmap.PAGESIZE
RUN_PAGES = 64
"""Every other run of this many pages is hot."""


def bytes_read() -> int:
    """Return what this process had read from the device, its page faults included (proc(5))."""
    with open("/proc/self/io") as file:  # noqa: PTH123
        lines = dict(line.split(": ") for line in file)
    return int(lines["read_bytes"])


def main() -> None:
    path, result = sys.argv[1:]
    with open(path, "rb") as file:  # noqa: PTH123
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    # Only what is touched is read: a pass shows exactly what was not in memory.
    data.madvise(mmap.MADV_RANDOM)
    started, before = time.time(), bytes_read()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    pages = touched = 0
    for first in range(0, len(data) // PAGE, 2 * RUN_PAGES):
        for page in range(first, min(first + RUN_PAGES, len(data) // PAGE)):
            touched ^= data[page * PAGE]
            pages += 1
    reported = {
        "started": started,
        "seconds": time.time() - started,
        "hot_bytes": pages * PAGE,
        "read_bytes": bytes_read() - before,
        "major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults,
        "touched": touched,
    }
    # There once it is whole: others read it at any time.
    with open(f"{result}.new", "w") as file:  # noqa: PTH123
        json.dump(reported, file)
    os.rename(f"{result}.new", result)  # noqa: PTH104
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
