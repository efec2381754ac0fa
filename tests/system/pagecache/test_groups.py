"""Residency by table, index and kind of file; its sums leave nothing out."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.oracles.residency import PAGE, evict, pinned
from tests.support.capabilities.pagecache import DUMPS, SHOW
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.servers.postgres import USER, Postgres, needs_postgres

BYS = ("table", "index", "file-kind")
ID = "5a1c395e9e3e11eb8ae3b1d5f3b3d0aa"
_FIGURES = ("files", "bytes", "resident")


def grouped(daemon: Daemon, by: str, path: Path, **query: Any) -> dict[str, Any]:
    """Return the groups of the only report, of which the sums were checked."""
    response = daemon.http.get(SHOW, params={"by": by, "path": str(path), "top": 1000, **query})
    assert response.status_code == 200, response.text
    (report,) = response.json()["reports"]
    found: dict[str, Any] = report["grouped"]
    assert found["by"] == by
    for figure in _FIGURES:
        listed = sum(group[figure] for group in found["groups"])
        assert listed + found["rest"][figure] == report["total"][figure]
    residents = [group["resident"] for group in found["groups"]]
    assert residents == sorted(residents, reverse=True)
    return found


def pages(found: Mapping[str, Any]) -> dict[tuple[str | None, str | None], int]:
    """Return resident pages by store and by name or kind, of groups that have some."""
    return {
        (group["store"], group["kind"] or group["name"]): group["resident"] // PAGE
        for group in found["groups"]
        if group["resident"]
    }


@pytest.fixture(scope="module")
def stores(shared_daemon: Daemon) -> Iterator[Path]:
    """Lay out three stores, with as many pages of each file in memory as its number says."""
    top = shared_daemon.root / "stores"
    table, index = f"cass/data/shop/orders-{ID}", "es/indices/uuid/0/index"
    wanted = {
        f"{table}/nb-1-big-Data.db": 20,
        f"{table}/nb-1-big-Index.db": 5,
        f"{table}/nb-1-big-Filter.db": 2,
        f"{table}/nb-1-big-SAI+aa+by_mail+Meta.db": 3,
        f"{table}/.by_zip/nb-1-big-Data.db": 4,
        f"{table}/snapshots/last/nb-0-big-Data.db": 6,
        "cass/commitlog/CommitLog-7-1700000000000.log": 7,
        f"{index}/segments_4": 1,
        f"{index}/_3.cfs": 11,
        f"{index}/_4_Lucene90_0.dvd": 8,
        "es/indices/uuid/0/translog/translog-5.tlog": 2,
        "rocks/MANIFEST-000004": 1,
        "rocks/000012.sst": 9,
        "rocks/000013.log": 3,
        # They only resemble those of a store.
        "logs/000014.log": 2,
        "logs/_9.cfs": 1,
        "logs/16384": 1,
        "notes": 1,
    }
    with ExitStack() as stack:
        for name, count in wanted.items():
            path = write_file(top / name, 24 * PAGE)
            evict(path)
            stack.enter_context(pinned(path, range(count)))
        yield top


def test_what_is_in_memory_of_each_store(shared_daemon: Daemon, stores: Path) -> None:
    kinds = pages(grouped(shared_daemon, "file-kind", stores))
    assert kinds == {
        ("cassandra", "data"): 30,
        ("cassandra", "index"): 5,
        ("cassandra", "filter"): 2,
        ("cassandra", "secondary_index"): 3,
        ("cassandra", "commitlog"): 7,
        ("lucene", "compound"): 11,
        ("lucene", "doc_values"): 8,
        ("lucene", "commit"): 1,
        ("lucene", "translog"): 2,
        ("rocksdb", "sst"): 9,
        ("rocksdb", "log"): 3,
        ("rocksdb", "manifest"): 1,
        (None, None): 5,
    }
    found = grouped(shared_daemon, "table", stores)
    assert pages(found) == {
        ("cassandra", "shop.orders"): 40,
        ("cassandra", None): 7,
        ("lucene", "stores/es/indices/uuid/0"): 22,
        ("rocksdb", "stores/rocks"): 13,
        (None, None): 5,
    }
    paths = {group["name"]: group["path"] for group in found["groups"]}
    assert paths["shop.orders"] == str(stores / f"cass/data/shop/orders-{ID}")
    assert paths["stores/rocks"] == str(stores / "rocks")
    assert pages(grouped(shared_daemon, "index", stores)) == {
        ("cassandra", "shop.orders"): 5,
        ("cassandra", "shop.orders.by_mail"): 3,
        ("cassandra", "shop.orders.by_zip"): 4,
        ("cassandra", None): 35,
        ("lucene", "stores/es/indices/uuid/0"): 22,
        ("rocksdb", None): 13,
        (None, None): 5,
    }


def test_a_part_of_a_store_is_still_of_it(shared_daemon: Daemon, stores: Path) -> None:
    assert pages(grouped(shared_daemon, "table", stores / "cass/data/shop")) == {
        ("cassandra", "shop.orders"): 40
    }
    sst = stores / "rocks/000012.sst"
    assert pages(grouped(shared_daemon, "file-kind", sst)) == {("rocksdb", "sst"): 9}
    assert pages(grouped(shared_daemon, "file-kind", stores / "logs/000014.log")) == {
        (None, None): 2
    }


def test_those_that_are_not_listed_are_summed(shared_daemon: Daemon, stores: Path) -> None:
    found = grouped(shared_daemon, "file-kind", stores, top=3)
    assert [group["kind"] for group in found["groups"]] == ["data", "compound", "sst"]
    assert found["rest"]["groups"] == 10
    assert found["rest"]["resident"] == 37 * PAGE
    nothing = grouped(shared_daemon, "table", stores, top=0)
    assert (nothing["groups"], nothing["rest"]["resident"]) == ([], 87 * PAGE)


@pytest.mark.parametrize("by", BYS)
def test_names_of_any_bytes(shared_daemon: Daemon, by: str) -> None:
    keyspace = os.fsencode(shared_daemon.root / "odd") + b"/sh\xffp"
    table = keyspace + b"/t\n\xfe-" + ID.encode()
    Path(os.fsdecode(table)).mkdir(parents=True, exist_ok=True)
    for name in (b"nb-1-big-Data.db", b"nb-1-big-\xff.db", b"\xff\xfe"):
        Path(os.fsdecode(table + b"/" + name)).write_bytes(bytes(PAGE))
    found = grouped(shared_daemon, by, shared_daemon.root / "odd")
    assert {group["store"] for group in found["groups"]} == {"cassandra", None}
    if by == "table":
        (group,) = (group for group in found["groups"] if group["store"])
        assert base64.b64decode(group["name_b64"]) == b"sh\xffp.t\n\xfe"
        assert base64.b64decode(group["path_b64"]) == table
        shown = shared_daemon.cli("pagecache", "show", shared_daemon.root / "odd", "--by", "table")
        assert shown.returncode == 0, shown.stderr
        assert "cassandra" in shown.stdout
        assert "other" in shown.stdout


def test_the_command_line_names_them(shared_daemon: Daemon, stores: Path) -> None:
    shown = shared_daemon.cli("pagecache", "show", stores, "--by", "table")
    assert shown.returncode == 0, shown.stderr
    assert "shop.orders" in shown.stdout
    assert "(no table)" in shown.stdout
    assert shown.stdout.index("shop.orders") < shown.stdout.index("rocks")
    local = shared_daemon.cli(
        "pagecache", "show", "--by", "file-kind", "--top", "2", "--local", "--root", stores,
        "--state-dir", shared_daemon.directory / "local",
    )  # fmt: skip
    assert local.returncode == 0, local.stderr
    assert "compound" in local.stdout
    assert "11 more" in local.stdout
    wrong = shared_daemon.cli("pagecache", "show", "--by", "tables")
    assert wrong.returncode == 2


@pytest.fixture(scope="module")
def postgres(shared_daemon: Daemon) -> Iterator[Postgres]:
    """Fill a real server with tables, indexes, large values and a tablespace."""
    top = shared_daemon.root / "postgres"
    data, sockets, space = top / "data", shared_daemon.directory / "pg", top / "space"
    for path in (data, sockets, space):
        path.mkdir(mode=0o700, parents=True)
        if os.geteuid() == 0:
            os.chown(path, USER, USER)
    for path in (shared_daemon.directory, *top.parents, top):
        if path.stat().st_uid == os.geteuid() and path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | 0o111)
    server = Postgres(data, sockets)
    server.run(
        "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"
    )
    server.start()
    try:
        server.run("psql", "-qc", 'CREATE DATABASE "Käse"')
        server.run("psql", "-qc", f"CREATE TABLESPACE fast LOCATION '{space}'")
        server.run(
            "psql", "-q", "-d", "Käse", "-v", "ON_ERROR_STOP=1", "-c",
            """
            CREATE SCHEMA "shöp";
            CREATE TABLE "shöp"."or ders" (id int PRIMARY KEY, note text);
            ALTER TABLE "shöp"."or ders" ALTER note SET STORAGE EXTERNAL;
            INSERT INTO "shöp"."or ders"
              SELECT n, repeat(chr(65 + n % 26), 4000) FROM generate_series(1, 500) n;
            CREATE INDEX by_note ON "shöp"."or ders" (left(note, 10));
            CREATE TABLE moved (n int) TABLESPACE fast;
            INSERT INTO moved SELECT generate_series(1, 1000);
            CREATE TABLE before (n int);
            INSERT INTO before SELECT generate_series(1, 1000);
            CREATE TABLE gone (n int);
            """,
        )  # fmt: skip
        # Their rows in the catalogue have several versions, of which one is there.
        server.run("psql", "-q", "-d", "Käse", "-c", "ALTER TABLE before RENAME TO after")
        server.run("psql", "-q", "-d", "Käse", "-c", "DROP TABLE gone")
        server.run(
            "psql", "-q", "-d", "Käse", "-c",
            "BEGIN; ALTER TABLE after RENAME TO never; ROLLBACK; CHECKPOINT;",
        )  # fmt: skip
        yield server
    finally:
        server.stop()


def relations(server: Postgres) -> dict[str, tuple[str, str]]:
    """Ask the server for the file, the kind and the whole name of each relation with a file."""
    lines = server.run(
        "psql", "-d", "Käse", "-AtF", "|", "-c",
        "SELECT pg_relation_filepath(c.oid), relkind, current_database() || '.' || nspname || '.' "
        "|| relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE pg_relation_filepath(c.oid) LIKE 'base/%' OR reltablespace NOT IN (0, 1664)",
    ).splitlines()  # fmt: skip
    found = {}
    for line in lines:
        path, kind, name = line.split("|")
        found[path] = (kind, name)
    return found


@needs_postgres
def test_relations_of_a_real_postgresql_have_their_names(
    shared_daemon: Daemon, postgres: Postgres
) -> None:
    truth = relations(postgres)
    indexes = {name for kind, name in truth.values() if kind == "i"}
    assert len(indexes) > 100
    found = grouped(shared_daemon, "index", postgres.data.parent)
    assert found["notes"] == []
    named = {group["name"]: group for group in found["groups"] if group["name"]}
    ours = {name for name in named if name.startswith("Käse.")}
    assert ours == indexes
    for path, (kind, name) in truth.items():
        if kind == "i":
            assert named[name]["bytes"] == (postgres.data / path).stat().st_size
            assert named[name]["path"] == str(postgres.data)
    # Shared relations, and the databases that nobody connected to.
    assert "global.pg_catalog.pg_database_oid_index" in named
    assert "template0.pg_catalog.pg_class_oid_index" in named

    tables = {
        group["name"]: group
        for group in grouped(shared_daemon, "table", postgres.data.parent)["groups"]
    }
    orders = "Käse.shöp.or ders"
    own = [path for path, (_, name) in truth.items() if name.startswith(orders)]
    own += [path for path, (_, name) in truth.items() if name.startswith("Käse.shöp.by_note")]
    toast = [path for path, (_, name) in truth.items() if "or ders" in owner_of(postgres, name)]
    files = {file for path in {*own, *toast} for file in forks(postgres.data / path)}
    assert len(toast) == 2
    assert tables[orders]["bytes"] == sum(file.stat().st_size for file in files)
    assert tables[orders]["files"] == len(files)
    assert {"Käse.public.moved", "Käse.public.after"} <= set(tables)
    assert not {"Käse.public.before", "Käse.public.never", "Käse.public.gone"} & set(tables)

    kinds = {
        group["kind"]
        for group in grouped(shared_daemon, "file-kind", postgres.data.parent)["groups"]
    }
    expected = {"table", "index", "toast", "catalog", "fsm", "vm", "wal", "status", "control", None}
    assert kinds == expected


def owner_of(server: Postgres, name: str) -> str:
    """Return the table whose large values a relation of `pg_toast` has, by the server; or ''."""
    relation = name.rpartition(".")[2]
    if not relation.startswith("pg_toast_"):
        return ""
    return server.run(
        "psql", "-d", "Käse", "-Atc",
        f"SELECT relname FROM pg_class WHERE oid = {relation.split('_')[2]}",
    ).strip()  # fmt: skip


def forks(path: Path) -> list[Path]:
    return [path, *path.parent.glob(f"{path.name}_*"), *path.parent.glob(f"{path.name}.*")]


@needs_postgres
def test_what_is_in_memory_of_a_table_and_nothing_more_for_looking(
    shared_daemon: Daemon, postgres: Postgres
) -> None:
    files = {name: postgres.data / path for path, (_, name) in relations(postgres).items()}
    postgres.stop()
    try:
        for path in postgres.data.parent.rglob("*"):
            if path.is_file() and path.stat().st_size:
                evict(path)
        heap, index = files["Käse.shöp.or ders"], files["Käse.shöp.by_note"]
        with pinned(heap, range(3)), pinned(index, range(2)):
            for _ in range(2):
                found = pages(grouped(shared_daemon, "table", postgres.data.parent))
                assert found["postgresql", "Käse.shöp.or ders"] == 5
                assert (
                    pages(grouped(shared_daemon, "index", postgres.data.parent))[
                        "postgresql", "Käse.shöp.by_note"
                    ]
                    == 2
                )
            # The catalogue itself was read for it, and is not in memory for that.
            assert not any("pg_class" in str(name) for _, name in found)
    finally:
        postgres.start()


@needs_postgres
def test_relations_without_a_name_are_shown_by_number(
    shared_daemon: Daemon, postgres: Postgres
) -> None:
    truth = relations(postgres)
    (path,) = (path for path, (_, name) in truth.items() if name == "Käse.public.after")
    base = (postgres.data / path).parent
    # A file of no relation, as a crash leaves it.
    (base / "99999").write_bytes(bytes(3 * PAGE))
    found = grouped(shared_daemon, "table", postgres.data.parent)
    assert f"{base.name}/99999" in {group["name"] for group in found["groups"]}
    (note,) = found["notes"]
    assert note.startswith(f"1 relation of {base} ")
    (base / "99999").unlink()
    # A tablespace alone.
    (note,) = grouped(shared_daemon, "table", postgres.data.parent / "space")["notes"]
    assert "its data directory is not below what was asked for" in note
    # A server that is not known.
    copy = shared_daemon.root / "copy"
    shutil.copytree(postgres.data / "base" / base.name, copy / "base" / base.name)
    (copy / "base" / base.name / "PG_VERSION").write_text("11\n")
    found = grouped(shared_daemon, "table", copy)
    (note,) = found["notes"]
    assert "PostgreSQL 11 is not known; 12 to 18 are" in note
    assert all(
        group["name"].startswith(f"{base.name}/") for group in found["groups"] if group["name"]
    )
    # A catalogue of another's making.
    (copy / "base" / base.name / "PG_VERSION").write_text("15\n")
    for file in (copy / "base" / base.name).glob("1259"):
        file.write_bytes(os.urandom(1 << 16))
    (copy / "base" / base.name / "pg_filenode.map").write_bytes(b"x" * 512)
    (note,) = grouped(shared_daemon, "index", copy)["notes"]
    assert "is not a map of files" in note
    (copy / "base" / base.name / "pg_filenode.map").unlink()
    (copy / "base" / base.name / "pg_filenode.map").symlink_to("/etc/passwd")
    (note,) = grouped(shared_daemon, "index", copy)["notes"]
    assert "cannot be read: symlink" in note


def test_history_has_a_point_for_each_dump_of_whole_roots(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon()
    path = write_file(daemon.root / "a" / "file", 16 * PAGE)
    history = "/v1/pagecache/history"
    assert daemon.http.get(history).json()["points"] == []
    wanted = []
    for count in (4, 12):
        evict(path)
        with pinned(path, range(count)):
            wanted.append((daemon.run(DUMPS, {})["dump"], count * PAGE))
    daemon.run(DUMPS, {"path": str(daemon.root / "a")})
    assert daemon.http.delete(f"{DUMPS}/{wanted[0][0]}").status_code == 204
    found = daemon.http.get(history, params={"hours": 1}).json()
    assert [(point["dump"], point["resident"]) for point in found["points"]] == wanted
    assert all(point["roots"] == [str(daemon.root)] for point in found["points"])
    assert all(found["since"] < point["at"] <= found["until"] for point in found["points"])
    daemon.stop()
    daemon.restart()
    assert daemon.http.get(history).json()["points"] == found["points"]
