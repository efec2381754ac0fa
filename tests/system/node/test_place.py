"""Which node this is: by its data, by its operator, and by what EC2 reports of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from holdfast.node.instance_metadata import NoMetadataError, address_of, read_instance
from tests.support.daemon.harness import Daemon
from tests.support.servers.metadata_server import FACTS, MetadataServer, metadata_server
from tests.support.waiting import until


def node_of(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.http.get("/v1/node").json()
    return found


def info_of(daemon: Daemon) -> dict[str, str]:
    for family in text_string_to_metric_families(daemon.http.get("/metrics").text):
        if family.name == "holdfast_node_info":
            (sample,) = family.samples
            assert sample.value == 1
            return dict(sample.labels)
    raise AssertionError("there is no holdfast_node_info")


def test_a_node_is_known_by_its_data_and_its_settings(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    place = {"cluster": "sessions", "group": "rack-a", "metadata": ""}
    daemon = start_daemon(roots=[disk_dir / "there"], state_dir=None, node=place)
    daemon.rewrite_config(lambda text: text + '\n[node.labels]\nteam = "sto\\"rage"\n')
    first = node_of(daemon)
    assert len(bytes.fromhex(first["node_id"])) == 16
    assert first["instance"] is None
    file = daemon.root / ".holdfast" / "node-id"
    assert file.read_text().strip() == first["node_id"]
    assert daemon.stop() == 0
    # Another system on the same data, with what else it is known by gone.
    daemon.restart()
    found = node_of(daemon)
    assert found["node_id"] == first["node_id"]
    assert (found["cluster"], found["group"]) == ("sessions", "rack-a")
    assert found["labels"] == {"team": 'sto"rage'}
    info = info_of(daemon)
    assert info["node_id"] == first["node_id"]
    assert (info["cluster"], info["group"], info["label_team"]) == (
        "sessions",
        "rack-a",
        'sto"rage',
    )
    assert info["image"] == (found["image_id"] or "")
    shown = daemon.cli("node").stdout
    assert first["node_id"] in shown
    assert "cluster sessions, group rack-a" in shown
    # What is no id is left alone, and no other one is made.
    assert daemon.stop() == 0
    file.write_text("another's\n")
    daemon.restart()
    assert node_of(daemon)["node_id"] is None
    assert file.read_text() == "another's\n"
    assert str(file) in daemon.log
    # Without its data it is no node at all, also not a new one.
    assert daemon.stop() == 0
    daemon.rewrite_config(lambda text: text.replace("/there", "/missing"))
    daemon.restart()
    assert node_of(daemon)["node_id"] is None
    assert info_of(daemon)["node_id"] == ""


def test_an_instance_is_shown_with_both_images(start_daemon: Callable[..., Daemon]) -> None:
    with metadata_server() as service:
        daemon = start_daemon(node={"metadata": service.url})
        found = until(lambda: node_of(daemon)["instance"], what="the instance")
        assert found == {
            "id": FACTS["instance-id"],
            "type": FACTS["instance-type"],
            "zone": FACTS["placement/availability-zone"],
            "launch_image": FACTS["ami-id"],
        }
        info = info_of(daemon)
        assert info["launch_image"] == FACTS["ami-id"]
        assert info["image"] == (node_of(daemon)["image_id"] or "")
        assert (info["instance_id"], info["zone"]) == (found["id"], found["zone"])
        assert f"launched from {FACTS['ami-id']}" in daemon.cli("node").stdout
        assert service.asked[0] == ("PUT", "/latest/api/token")
        assert "AQAEAN" not in daemon.log


def _no_token(service: MetadataServer) -> None:
    service.token_status = 403


def _behind_a_hop(service: MetadataServer) -> None:
    service.silent.set()


def _markup(service: MetadataServer) -> None:
    service.facts["instance-id"] = "<html>sign in</html>"


def _endless(service: MetadataServer) -> None:
    service.facts["ami-id"] = "a" * 1_000_000


@pytest.mark.parametrize("change", [_no_token, _behind_a_hop, _markup, _endless])
def test_a_service_that_is_none_says_nothing(change: Callable[[MetadataServer], None]) -> None:
    with metadata_server() as service:
        assert read_instance(service.url, 5).id == FACTS["instance-id"]
        change(service)
        with pytest.raises(NoMetadataError):
            read_instance(service.url, 0.5)
        # There is no way without a token.
        if change in (_no_token, _behind_a_hop):
            assert service.asked[-1][0] == "PUT"


def test_what_the_service_does_not_have_is_not_known() -> None:
    with metadata_server() as service:
        del service.facts["ami-id"]
        assert read_instance(service.url, 5).launch_image is None


def test_only_ec2_is_asked(tmp_path: Path) -> None:
    dmi = tmp_path / "class/dmi/id"
    dmi.mkdir(parents=True)
    assert address_of("auto", tmp_path) is None
    for vendor, bios, asked in (
        ("Amazon EC2", "1.0", True),
        ("Xen", "4.11.amazon", True),
        ("Google", "Google", False),
        ("Xen", "4.11", False),
    ):
        (dmi / "sys_vendor").write_text(vendor)
        (dmi / "bios_version").write_text(bios)
        assert (address_of("auto", tmp_path) is not None) == asked, vendor
    assert address_of("", tmp_path) is None
    assert address_of("http://127.0.0.1:1", tmp_path) == "http://127.0.0.1:1"
