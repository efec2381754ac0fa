"""Settings: what it costs to watch them, and how long a plan, an apply and a rollback take."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.context import Context
from tests.bench.figures import Section, below
from tests.bench.service import processor_seconds
from tests.support.daemon.harness import Daemon, create_tokens, daemons
from tests.support.machine.loops import loop
from tests.support.machine.namespaces import Namespaces, own_namespaces

IDLE_SHARE = 0.2
"""Per cent of a core, for watching alone."""
_IDLE_SECONDS = 60.0
_SETTLE_SECONDS = 3.0
_ROUNDS = 15
_SYSCTLS = {
    "net.core.somaxconn": "4321",
    "net.ipv4.ip_default_ttl": "65",
    "net.ipv4.ip_local_port_range": "10240 65000",
    "net.ipv4.tcp_fin_timeout": "33",
    "net.ipv4.tcp_keepalive_intvl": "11",
    "net.ipv4.tcp_keepalive_probes": "4",
    "net.ipv4.tcp_keepalive_time": "61",
    "net.ipv4.tcp_max_syn_backlog": "4096",
    "net.ipv4.tcp_mtu_probing": "1",
    "net.ipv4.tcp_orphan_retries": "3",
    "net.ipv4.tcp_retries1": "4",
    "net.ipv4.tcp_retries2": "6",
    "net.ipv4.tcp_rmem": "4096 87380 16777216",
    "net.ipv4.tcp_sack": "0",
    "net.ipv4.tcp_slow_start_after_idle": "0",
    "net.ipv4.tcp_syn_retries": "5",
    "net.ipv4.tcp_synack_retries": "4",
    "net.ipv4.tcp_timestamps": "0",
    "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.tcp_wmem": "4096 65536 16777216",
}
_BLOCK = {"scheduler": "mq-deadline", "nr_requests": "64", "read_ahead_kb": "512", "nomerges": "2"}


def benchmark(context: Context) -> Iterator[Section]:
    """Measure a daemon that watches settings in namespaces of its own."""
    work = context.work / "tuning"
    work.mkdir()
    tokens = create_tokens(work)
    profiles = work / "profiles.d"
    profiles.mkdir()
    image = work / "disk.img"
    (profiles / "bench.toml").write_text(_profile(image))
    with (
        own_namespaces(work / "scratch") as ns,
        loop(image),
        daemons(work, tokens) as start,
    ):
        ns.pair("hf0", "hg0", "numtxqueues", "4")
        daemon = start(
            wrapper=ns.wrapper, tuning={"profiles_dir": str(profiles)}, log_level="warning"
        )
        yield _times(daemon, ns, work)
        yield _idle(daemon)


def _profile(image: Path) -> str:
    sysctls = "".join(f'"{name}" = "{value}"\n' for name, value in _SYSCTLS.items())
    block = "".join(f'{name} = "{value}"\n' for name, value in _BLOCK.items())
    return (
        f'[sysctl]\n{sysctls}[[block]]\nselect = {{ backing_file = "{image}" }}\n{block}'
        '[[network]]\nselect = { name = "hf0" }\ntxqueuelen = 500\n'
        'qdisc = { kind = "pfifo", limit = 100 }\n'
    )


def _times(daemon: Daemon, ns: Namespaces, work: Path) -> Section:
    settings = len(_SYSCTLS) + len(_BLOCK) + 2
    section = Section(
        "Settings, applied",
        f"{settings} settings: {len(_SYSCTLS)} sysctls, a disk's queue, an interface with four "
        "queues. Over HTTP, from the request to the answer; `sysctl -p` as a whole process, for "
        "the sysctls alone: it neither journals nor reads back.",
        "ms",
    )
    plain = work / "plain.conf"
    plain.write_text("".join(f"{name} = {value}\n" for name, value in _SYSCTLS.items()))
    took: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        for name, path, body in (
            ("plan", "plan", {"profile": "bench"}),
            ("apply", "apply", {"profile": "bench"}),
            ("apply again, nothing to write", "apply", {"profile": "bench"}),
            ("rollback", "rollback", {}),
        ):
            began = time.monotonic()
            daemon.http.post(f"/v1/tuning/{path}", json=body).raise_for_status()
            took.setdefault(name, []).append(1000 * (time.monotonic() - began))
        began = time.monotonic()
        subprocess.run([*ns.wrapper, "sysctl", "-q", "-p", plain], check=True, capture_output=True)
        took.setdefault("sysctl -p", []).append(1000 * (time.monotonic() - began))
    for name, values in took.items():
        section.add(name, values)
    return section


def _idle(daemon: Daemon) -> Section:
    section = Section(
        "Settings, watched",
        f"The same settings in force and checked every 10 s; nobody asks anything for "
        f"{_IDLE_SECONDS:g} s. Before that, as long without a profile. All processes of the "
        "daemon together, and those it starts.",
        "% of a core",
    )
    without = _share(daemon)
    daemon.http.post("/v1/tuning/apply", json={"profile": "bench"}).raise_for_status()
    watching = _share(daemon)
    section.add("without a profile", [without])
    section.add("with the profile", [watching])
    daemon.http.post("/v1/tuning/rollback").raise_for_status()
    section.verdicts.append(
        below("watching, processor", max(0.0, watching - without), IDLE_SHARE, "% of a core")
    )
    return section


def _share(daemon: Daemon) -> float:
    time.sleep(_SETTLE_SECONDS)
    before, began = processor_seconds(daemon), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return 100 * (processor_seconds(daemon) - before) / (time.monotonic() - began)
