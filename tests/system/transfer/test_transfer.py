"""A directory moves from one node to another: offers, pulls, the cut-over, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.capabilities.transfer import Pair, fill, save_ticket, tree
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.waiting import until

_NUMBER = itertools.count()


@pytest.fixture
def pair(nodes: Pair, request: pytest.FixtureRequest) -> Pair:
    """Give the nodes with a directory of this test's own."""
    name = re.sub(r"\W+", "-", request.node.name)[:60]
    own = replace(nodes, name=f"{name}-{next(_NUMBER)}")
    own.offered.mkdir()
    return own


def test_a_tree_arrives_as_it_is_and_is_complete_once(pair: Pair) -> None:
    fill(pair.offered)
    ticket = pair.offer()["ticket"]
    first = pair.pulled(ticket)
    assert not first["complete"]
    assert first["sent_bytes"] > 3 << 20
    assert first["proof"] == "flushed"
    write_file(pair.offered / "later", 5000, seed=7)
    (pair.offered / "part1" / "f1").unlink()
    last = pair.pulled(ticket, final=True)
    assert last["complete"]
    assert last["sent_bytes"] == 5000
    assert tree(pair.fetched) == tree(pair.offered)
    again = pair.refused(ticket, final=True)
    assert (again["type"], "is complete" in again["detail"]) == ("/problems/conflict", True)


def test_the_manifest_of_a_completed_destination_is_that_of_the_source(pair: Pair) -> None:
    fill(pair.offered)
    result = pair.pulled(pair.offer()["ticket"], final=True)
    destination, source = pair.destination, pair.source
    details = destination.http.get(f"/v1/manifests/{result['manifest']}").json()
    assert (details["path"], details["files"]) == (pair.name, result["files"] + 1)  # a second name
    verified = destination.run(f"/v1/manifests/{result['manifest']}/verifications", {})
    assert verified["ok"]
    built = source.run("/v1/manifests", {"path": str(pair.offered)})
    record = source.http.get(f"/v1/manifests/{built['manifest']}/content").content
    put = destination.http.put(
        f"/v1/manifests/{built['manifest']}/content",
        content=record,
        headers={"Content-Type": "application/zstd"},
    )
    assert put.status_code == 201, put.text
    compared = destination.run(
        "/v1/manifests/comparisons", {"left": built["manifest"], "right": result["manifest"]}
    )
    assert compared["ok"], compared


def test_nothing_is_offered_without_a_listener(daemon: Daemon) -> None:
    answer = daemon.http.post("/v1/transfers/offers", json={"path": str(daemon.root)})
    assert answer.status_code == 409
    assert "transfer.listen" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/etc", "/", "{root}/../..", "{state}"])
def test_only_what_is_in_a_root_is_offered_or_written(pair: Pair, path: str) -> None:
    ticket = pair.offer()["ticket"]
    source, destination = pair.source, pair.destination
    offer = {"path": path.format(root=source.root, state=source.state_dir)}
    into = path.format(root=destination.root, state=destination.state_dir)
    for answer in (
        source.http.post("/v1/transfers/offers", json=offer),
        destination.http.post("/v1/transfers", json=pair.body(ticket, path=into)),
    ):
        assert answer.status_code == 422, answer.text
        assert answer.json()["type"] == "/problems/outside-roots"


def test_a_link_does_not_lead_out_of_a_root(pair: Pair, tmp_path: Path) -> None:
    (pair.destination.root / "out").symlink_to(tmp_path)
    (pair.source.root / "out").symlink_to(tmp_path)
    problem = pair.refused(pair.offer()["ticket"], path=str(pair.destination.root / "out" / "db"))
    assert problem["type"] == "/problems/outside-roots"
    answer = pair.source.http.post(
        "/v1/transfers/offers", json={"path": str(pair.source.root / "out")}
    )
    assert answer.json()["type"] == "/problems/outside-roots"


def test_a_ticket_is_good_for_one_destination(pair: Pair) -> None:
    fill(pair.offered)
    ticket = pair.offer()["ticket"]
    pair.pulled(ticket)
    other = Pair(pair.source, pair.source, pair.port)
    problem = other.refused(ticket, path=str(pair.source.root / f"{pair.name}-copy"))
    assert problem["type"] == "/problems/forbidden"
    assert "used by another destination" in problem["detail"]
    elsewhere = pair.refused(ticket, path=str(pair.destination.root / "second"))
    assert "used by another destination" in elsewhere["detail"]
    pair.pulled(ticket)


def test_an_expired_ticket_is_refused_and_another_one_continues(pair: Pair) -> None:
    fill(pair.offered)
    made = pair.offer()
    sent = pair.pulled(made["ticket"])["sent_bytes"]
    short = pair.offer(expires_seconds=1)

    def expired() -> bool:
        offer = pair.source.http.get(f"/v1/transfers/offers/{short['offer']['id']}").json()
        return bool(offer["state"] == "expired")

    until(expired, what="the end of an offer")
    problem = pair.refused(short["ticket"])
    assert problem["type"] == "/problems/forbidden", problem
    result = pair.pulled(pair.offer()["ticket"], final=True)
    assert (sent > 0, result["sent_bytes"]) == (True, 0)
    assert tree(pair.fetched) == tree(pair.offered)


def test_revoking_cuts_the_connections_at_once(pair: Pair) -> None:
    write_file(pair.offered / "large", 64 << 20)
    made = pair.offer(bytes_per_second=2 << 20)
    operation = pair.start(made["ticket"])
    name = made["offer"]["id"]

    def connected() -> bool:
        offer = pair.source.http.get(f"/v1/transfers/offers/{name}").json()
        return bool(offer["sent_bytes"])

    until(connected, what="the first bytes")
    assert pair.source.http.delete(f"/v1/transfers/offers/{name}").status_code == 204
    ended = pair.destination.finish(operation, seconds=20)
    assert ended["state"] == "failed"
    assert ended["error"]["type"] == "/problems/forbidden"
    assert pair.source.http.get(f"/v1/transfers/offers/{name}").status_code == 404


def test_a_pull_is_cancelled_and_continued(pair: Pair) -> None:
    write_file(pair.offered / "large", 16 << 20)
    ticket = pair.offer(bytes_per_second=4 << 20)["ticket"]
    operation = pair.start(ticket)

    def fetching() -> bool:
        now = pair.destination.http.get(f"/v1/operations/{operation['id']}").json()
        return bool(now["progress"]["bytes_done"])

    until(fetching, what="the first bytes")
    answer = pair.destination.http.post(f"/v1/operations/{operation['id']}/cancel")
    assert answer.status_code in (200, 202)
    assert pair.destination.finish(operation, seconds=10)["state"] == "cancelled"
    pair.pulled(pair.offer()["ticket"], final=True)
    assert tree(pair.fetched) == tree(pair.offered)


def test_the_same_idempotency_key_answers_the_same_pull(pair: Pair) -> None:
    fill(pair.offered)
    body = pair.body(pair.offer()["ticket"], final=True)
    headers = {"Idempotency-Key": "cut-over-1"}
    first = pair.destination.http.post("/v1/transfers", json=body, headers=headers)
    pair.destination.finish(first.json())
    second = pair.destination.http.post("/v1/transfers", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json()["id"] == first.json()["id"]


def test_an_offer_that_is_asked_for_again_has_a_new_ticket_until_one_is_used(pair: Pair) -> None:
    body, headers = {"path": str(pair.offered)}, {"Idempotency-Key": f"offer-{pair.name}"}

    def offer(**more: Any) -> httpx.Response:
        return pair.source.http.post("/v1/transfers/offers", json=body | more, headers=headers)

    first, second = offer(), offer()
    assert (first.status_code, second.status_code) == (201, 200), second.text
    assert first.json()["offer"]["id"] == second.json()["offer"]["id"]
    assert first.json()["ticket"]["key"] != second.json()["ticket"]["key"]
    assert offer(exclude=["x"]).json()["type"] == "/problems/idempotency-mismatch"
    assert pair.refused(first.json()["ticket"])["type"] == "/problems/forbidden"
    pair.pulled(second.json()["ticket"])
    assert offer().status_code == 409


def test_secrets_of_a_ticket_are_shown_once(pair: Pair) -> None:
    made = pair.offer()
    key = made["ticket"]["key"]
    operation = pair.pull(made["ticket"])
    for node, paths in (
        (pair.source, ["/v1/transfers/offers", f"/v1/transfers/offers/{made['offer']['id']}"]),
        (
            pair.destination,
            ["/v1/transfers", "/v1/operations", f"/v1/operations/{operation['id']}"],
        ),
    ):
        for path in paths:
            assert key not in node.http.get(path).text
        assert key not in node.log
        assert all(key not in log.read_text() for log in node.state_dir.glob("audit*.log"))
    kept = [file for file in pair.source.state_dir.rglob("*") if file.is_file()]
    assert not [file for file in kept if key.encode() in file.read_bytes()]


def test_offers_and_pulls_need_the_scope_admin(pair: Pair) -> None:
    made = pair.offer()
    source, destination = pair.source.client("operate"), pair.destination.client("operate")
    offer = {"path": str(pair.offered)}
    assert source.post("/v1/transfers/offers", json=offer).status_code == 403
    assert source.delete(f"/v1/transfers/offers/{made['offer']['id']}").status_code == 403
    assert destination.post("/v1/transfers", json=pair.body(made["ticket"])).status_code == 403
    assert source.get("/v1/transfers/offers").status_code == 200


def test_a_hostile_ticket_is_refused_before_anything_is_done(pair: Pair) -> None:
    ticket = pair.offer()["ticket"]
    before = pair.destination.http.get("/v1/transfers").json()
    for member, value in (
        ("port", 0),
        ("port", "9920"),
        ("key", "00"),
        ("offer", "../../../../etc/passwd"),
        ("offer", "z" * 32),
        ("addresses", []),
        ("addresses", ["127.0.0.1\nHost: x"]),
        ("addresses", ["-oProxyCommand=x"]),
        ("fingerprint", None),
        ("version", 2),
        ("more", True),
    ):
        body = pair.body(ticket | {member: value})
        answer = pair.destination.http.post("/v1/transfers", json=body)
        assert answer.status_code == 422, (member, value, answer.text)
        assert f"ticket.{member}" in answer.text
        assert ticket["key"] not in answer.text
    assert pair.destination.http.get("/v1/transfers").json() == before


def test_a_ticket_of_another_source_proves_nothing(pair: Pair) -> None:
    ticket = pair.offer()["ticket"]
    for member in ("fingerprint", "key"):
        problem = pair.refused(ticket | {member: "ab" * 32}, path=str(pair.destination.root / "x"))
        assert problem["status"] in (403, 503), problem
    pair.pulled(ticket)


def test_a_final_pull_is_refused_while_a_process_may_write(pair: Pair) -> None:
    fill(pair.offered)
    ticket = pair.offer()["ticket"]
    pair.pulled(ticket)
    with (pair.fetched / "large").open("r+b"):
        problem = pair.refused(ticket, final=True)
        assert problem["type"] == "/problems/conflict"
        assert "open for writing" in problem["detail"]
        assert f"({_own_pid()})" in problem["detail"]
        result = pair.pulled(ticket, final=True, even_if_open=True)
    assert f"({_own_pid()})" in result["open_for_writing"][0]


def test_parts_of_a_directory_go_side_by_side(pair: Pair) -> None:
    fill(pair.offered)
    parts = [
        pair.offer(include=["part0"])["ticket"],
        pair.offer(exclude=["part*"])["ticket"],
        pair.offer(files=["part1/f1", "large"])["ticket"],
    ]
    started = [
        pair.start(ticket, path=f"{pair.fetched}-{number}", final=True)
        for number, ticket in enumerate(parts)
    ]
    ended = [pair.destination.finish(operation) for operation in started]
    assert [operation["state"] for operation in ended] == ["succeeded"] * 3, ended
    names = [set(tree(Path(f"{pair.fetched}-{number}"))) for number in range(3)]
    assert {name for name in names[0] if name.startswith("part0/")} == names[0] - {"part0"}
    assert not {name for name in names[1] if name.startswith("part")}
    assert names[2] == {"part1", "part1/f1", "large"}


def test_a_directory_has_one_transfer_until_it_is_forgotten(pair: Pair) -> None:
    write_file(pair.offered / "large", 16 << 20)
    operation = pair.start(pair.offer(bytes_per_second=1 << 20)["ticket"])
    second = pair.offer()["ticket"]
    inside = pair.refused(second, path=str(pair.fetched / "inside"))
    assert inside["status"] in (404, 409)
    assert pair.refused(second)["type"] == "/problems/conflict"
    listed = pair.destination.http.get("/v1/transfers").json()["transfers"]
    name = next(transfer["id"] for transfer in listed if transfer["path"] == str(pair.fetched))

    def running() -> bool:
        now = pair.destination.http.get(f"/v1/operations/{operation['id']}").json()
        return bool(now["state"] == "running")

    until(running, what="the start of a pull")
    assert pair.destination.http.delete(f"/v1/transfers/{name}").status_code == 409
    pair.destination.http.post(f"/v1/operations/{operation['id']}/cancel")
    pair.destination.finish(operation)
    assert pair.destination.http.delete(f"/v1/transfers/{name}").status_code == 204
    assert pair.destination.http.get(f"/v1/transfers/{name}").status_code == 404


def test_the_command_line_moves_a_directory(pair: Pair, tmp_path: Path) -> None:
    fill(pair.offered)
    offered = pair.source.cli("transfer", "offer", pair.offered)
    assert offered.returncode == 0, offered.stderr
    assert "that has the ticket" in offered.stderr
    ticket = save_ticket(tmp_path / "ticket", json.loads(offered.stdout))
    for more in ((), ("--final",)):
        done = pair.destination.cli("transfer", "pull", "--ticket", ticket, pair.fetched, *more)
        assert done.returncode == 0, done.stderr
    assert "complete: " in done.stdout
    assert tree(pair.fetched) == tree(pair.offered)
    listed = json.loads(pair.destination.cli("transfer", "list", "--json").stdout)["transfers"]
    transfer = next(transfer for transfer in listed if transfer["path"] == str(pair.fetched))
    assert transfer["complete"]
    shown = pair.destination.cli("transfer", "show", transfer["id"])
    assert transfer["manifest"] in shown.stdout
    offers = json.loads(pair.source.cli("transfer", "offers", "--json").stdout)["offers"]
    offer = next(offer for offer in offers if offer["path"] == str(pair.offered))
    assert offer["state"] == "in_use"
    assert pair.source.cli("transfer", "revoke", offer["id"]).returncode == 0
    assert offer["id"] not in pair.source.cli("transfer", "offers").stdout


def test_the_command_line_says_what_is_no_ticket(nodes: Pair, tmp_path: Path) -> None:
    for content in ("", "not json", "[1]", "[" * 60_000):
        (tmp_path / "ticket").write_text(content)
        done = nodes.destination.cli("transfer", "pull", "-t", tmp_path / "ticket", "/mnt/x")
        assert done.returncode == 2, done.stderr
        assert "is not a ticket" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def _own_pid() -> int:
    return int(Path("/proc/self").readlink().name)
