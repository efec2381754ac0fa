"""Requests to the privileged helper by its grammar, with hostile values where values go."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from holdfast.privileged.writes import BLOCK_ATTRIBUTES, QDISC_PARAMETERS, THP_ATTRIBUTES

Texts = st.SearchStrategy[str]

_PIECES = ("..", "/", ".", "\0", "\n", "\r", " ", "-", "@", "\\", "$(id)", ";id;", "é", "\u202e")
_HOSTILE = (
    "../../etc/passwd", "/etc/shadow", "net/../../../etc/passwd", "net..core", ".hidden", "-rf",
    "a/b", "a\nb", "a\0b", "", "x" * 300, "../" * 100, "/proc/self/mem", "%s%n", "a.service/../b",
)  # fmt: skip
_NUMBERS = st.one_of(st.integers(-1, 4), st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30]))


def _or_hostile(*good: str) -> Texts:
    """Mostly what fits, so that the other fields of the request are checked as well."""
    fitting = st.sampled_from(good)
    # Right at its end, or at its beginning: checks of one of them are not enough.
    climbing = st.builds(
        lambda way, name: way.replace("*", name),
        st.sampled_from(["../*", "../../../tmp/*", "/tmp/*", "a/../../*", "*/../*", "*\n", "\n*"]),
        fitting,
    )
    glued = st.lists(st.sampled_from([*good, *_PIECES]), max_size=5).map("".join)
    # Nested choices are made flat, each branch as likely as the next.
    return st.one_of(
        fitting, fitting, fitting, climbing, climbing,
        glued, st.sampled_from(_HOSTILE), st.text(max_size=20),
    )  # fmt: skip


def _mostly(*good: str) -> Texts:
    """Give what comes from a closed list, which most requests have to get right to get anywhere."""
    return st.sampled_from([*good * 3, "", "..", "../x", good[0].upper(), f"{good[0]}\n"])


def _qdiscs() -> st.SearchStrategy[Any]:
    names = sorted({name for known in QDISC_PARAMETERS.values() for name in known})
    return st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {"kind": _or_hostile(*QDISC_PARAMETERS)},
            optional={
                "parameters": st.dictionaries(
                    _or_hostile(*names), _or_hostile("", "100", "10mbit", "5ms"), max_size=3
                )
            },
        ),
    )


def _kinds() -> dict[str, dict[str, st.SearchStrategy[Any]]]:
    sysctls = ("net.ipv4.tcp_retries2", "net.core.somaxconn", "vm.swappiness", "kernel.panic")
    values = _or_hostile("1", "7", "4096 87380 16777216", "none", "kyber")
    return {
        # Not swap: what it does well it would do to this machine.
        "sysctl": {"name": _or_hostile(*sysctls, "kernel.core_pattern"), "value": values},
        "block": {
            "device": _or_hostile("vda", "loop0", "nvme0n1"),
            "diskseq": _mostly("", "", "1"),
            "attribute": _mostly(*BLOCK_ATTRIBUTES),
            "value": _mostly("none", "1", "7"),
        },
        "hugepages": {
            "attribute": _mostly(*THP_ATTRIBUTES),
            "value": _or_hostile("never", "madvise"),
        },
        "module": {
            "module": _or_hostile("nvme_core", "tcp_cubic", "kernel"),
            "parameter": _or_hostile("io_timeout", "beta"),
            "value": values,
        },
        "qdisc": {
            "interface": _or_hostile("lo", "eth0"),
            "ifindex": _NUMBERS,
            "root": _qdiscs(),
            "leaves": st.dictionaries(
                st.one_of(st.sampled_from(["0", "1", "2"]), _or_hostile("3")),
                _qdiscs(),
                max_size=2,
            ),
        },
        "link": {
            "interface": _or_hostile("lo", "eth0"),
            "ifindex": _NUMBERS,
            "txqueuelen": _NUMBERS,
        },
        **file_fields(),
    }


def _usually(*good: str) -> Texts:
    """Give what fits four times of five, for requests that have many values to get right."""
    return st.tuples(st.integers(0, 4), st.sampled_from(good[:2]), _or_hostile(*good)).map(
        lambda drawn: drawn[1] if drawn[0] else drawn[2]
    )


def file_fields() -> dict[str, dict[str, st.SearchStrategy[Any]]]:
    """Give the fields of holdfast's own files, by kind."""
    values = _usually("1", "4096 87380 16777216", "%h", '1", RUN+="/bin/id', "a;b", "-")
    limits = _usually("infinity", "65536", "1\nExecStartPre=+/bin/id", "1:2")
    profile = _usually("mine", "base", "mine\nkernel.core_pattern = |/x", "%n")
    rule = st.fixed_dictionaries(
        {
            "match": _usually("serial", "wwid", "md"),
            "settings": st.lists(
                st.tuples(
                    _usually(*BLOCK_ATTRIBUTES), _usually("none", "8", '8", RUN+="x', "$env{X}")
                ),
                min_size=1,
                max_size=2,
            ),
        },
        optional={"value": _usually("S3RIAL", "nvme.1d0f", '*", RUN+="/bin/id', "x%r", "[a-z]*")},
    )
    return {
        "sysctl.d": {
            "profile": profile,
            "settings": st.lists(
                st.tuples(
                    _usually("vm.swappiness", "net.core.somaxconn", "kernel.core_pattern"),
                    values,
                ),
                max_size=3,
            ),
        },
        "udev": {"profile": profile, "rules": st.lists(rule, max_size=3)},
        "tmpfiles.d": {
            "profile": profile,
            "huge_pages": st.lists(
                st.tuples(_mostly(*THP_ATTRIBUTES), _usually("never", "defer+madvise")),
                max_size=2,
            ),
            "modules": st.lists(
                st.tuples(
                    _usually("nvme_core", "nvme_core", "firmware_class"),
                    _usually("io_timeout", "max_retries", "path"),
                    values,
                ),
                max_size=2,
            ),
        },
        "limits": {
            "unit": _usually("cassandra.service", "memcached.service", "holdfast.service"),
            "limits": st.dictionaries(_mostly("nofile", "as", "exec"), limits, max_size=3),
        },
    }


def own_files() -> st.SearchStrategy[dict[str, Any]]:
    """Give writes of holdfast's own files that are whole, with values of all sorts."""
    return st.one_of(
        [
            st.fixed_dictionaries({"kind": st.just(kind), **fields})
            for kind, fields in file_fields().items()
        ]
    )


def tunings() -> st.SearchStrategy[dict[str, Any]]:
    """Give changes of settings that are nearly right."""
    knob = {
        "subsystem": _mostly("sysctl", "limits", "persistence", "block", "memory"),
        "target": _or_hostile("", "cassandra.service", "/etc/sysctl.d/90-holdfast.conf", "vda"),
        "name": _or_hostile("net.core.somaxconn", "nofile", "sysctl.d", "nomerges", "swap"),
        "value": _or_hostile("1", "off", "infinity", '{"settings":[]}', '[["/x",1]]'),
    }
    valued = st.fixed_dictionaries(knob)
    in_force = st.fixed_dictionaries(
        {**knob, "profile": st.just("mine"), "defined_at": _or_hostile("mine.toml:1")}
    )
    active = st.fixed_dictionaries(
        {
            "profile": _or_hostile("mine"),
            "policy": st.just("report"),
            "applied_at": st.just("2026-01-01T00:00:00Z"),
            "persist": st.booleans(),
            "digest": st.just(""),
            "settings": st.lists(in_force, max_size=1),
        }
    )
    change = st.fixed_dictionaries(
        {
            "do": st.just("tune_change"),
            "how": _mostly("apply", "follow"),
            "operation": _mostly("x"),
            "based_on": st.integers(0, 3),
            "active": active,
            "goal": st.lists(valued, max_size=2),
        }
    )
    others = st.sampled_from(
        [
            {"do": "tune_recover"},
            {"do": "tune_rollback", "operation": "x", "to": "first"},
            {"do": "tune_enforce", "knobs": []},
        ]
    )
    return st.one_of(change, change, change, others)


def writes() -> st.SearchStrategy[dict[str, Any]]:
    """Give writes with the fields of their kind, now and then with one missing or one too many."""

    def of_kind(kind: str, fields: dict[str, st.SearchStrategy[Any]]) -> Any:
        whole = st.fixed_dictionaries({"kind": st.just(kind), **fields})
        torn = st.fixed_dictionaries(
            {"kind": st.just(kind)}, optional={**fields, "path": _or_hostile("/etc/passwd")}
        )
        return st.one_of(whole, whole, whole, torn)

    shaped = st.one_of([of_kind(kind, fields) for kind, fields in _kinds().items()])
    return shaped.map(lambda value: {"do": "write", "write": value})


def booting() -> st.SearchStrategy[dict[str, Any]]:
    """Give requests about booting that are nearly right, of which none may come to anything."""
    text = _or_hostile("x", "0" * 32)
    paths = _or_hostile("/etc/passwd", "/dev/zero", "/proc/self/mem", "/")
    arming: dict[str, st.SearchStrategy[Any]] = {
        "nonce": text,
        "operation": text,
        "descriptor_path": paths,
        "source": st.fixed_dictionaries(
            {"kind": st.sampled_from(["staged", "network"])},
            optional={"path": paths, "url": _or_hostile("http://x/y")},
        ),
        "identity": st.lists(_or_hostile("hostname"), max_size=3),
        "status": st.fixed_dictionaries(
            {"listen": st.just("0.0.0.0:1")}, optional={"tokens": paths, "key": paths, "x": paths}
        ),
        "save_previous": paths,
        "ca": paths,
    }
    whole = {
        "do": "arm",
        "nonce": "0" * 32,
        "operation": "x",
        "descriptor_path": "/nowhere",
        "descriptor_sha256": "0" * 64,
        "source": {"kind": "network", "url": "http://x/y"},
    }
    others = st.fixed_dictionaries(
        {"do": st.sampled_from(["disarm", "boot_outcome", "reboot", "forget_lifeboat"])},
        optional={"nonce": text},
    )
    armings = st.fixed_dictionaries({}, optional=arming).map(lambda changes: whole | changes)
    return st.one_of(armings, others)


def lines() -> st.SearchStrategy[bytes]:
    """Give lines for the helper: requests that are nearly right, any JSON, any bytes."""
    text = _or_hostile("write", "kind", "do")
    anything = st.recursive(
        st.one_of(st.none(), st.booleans(), _NUMBERS, text),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)
        ),
        max_leaves=8,
    )
    wrapped = st.one_of(anything, anything.map(lambda value: {"do": "write", "write": value}))
    counted = st.one_of(
        st.fixed_dictionaries(
            {"do": st.just("open_files"), "mount_point": _or_hostile("/", "/proc")}
        ),
        st.fixed_dictionaries({"do": st.just("writers"), "directory": _or_hostile("/", "/tmp")}),
    )
    extreme = st.sampled_from(
        [
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'{"do":"write","write":' * 20_000,
            b'{"do":"write","write":{"kind":"link","interface":"lo","ifindex":1,"txqueuelen":'
            + b"9" * 5000
            + b"}}",
            b'{"do":"write","do":"open_files","mount_point":"/proc"}',
            b'{"do":"write","write":{"kind":"sysctl","name":"\\ud800","value":"1"}}',
            b"NaN",
            b"\xef\xbb\xbf{}",
        ]
    )
    encoded = st.one_of(writes(), writes(), writes(), tunings(), booting(), wrapped, counted).map(
        lambda value: json.dumps(value).encode()
    )
    return st.one_of(encoded, encoded, encoded, extreme, st.binary()).map(
        lambda line: line.replace(b"\n", b" ")
    )
