"""A machine fetches its new system from the network, and is not confirmed until it is fixed."""

from __future__ import annotations

from tests.vm.reimage.conftest import Start
from tests.vm.reimage.node import BOOT_SECONDS
from tests.vm.reimage.published import Published
from tests.vm.reimage.story import arm, is_the_new_system, prepared, stage, started_warm, travel
from tests.vm.reimage.telling import tell

# The operator's own check of a new system: here it passes once the operator has fixed something.
_CHECK = """
cat >>/etc/holdfast/holdfast.toml <<'END'
[reimage]
check_command = ["/usr/bin/test", "-e", "/etc/holdfast/fixed"]
END
systemctl restart holdfast
"""


def test_over_the_network_and_not_confirmed_at_first(start: Start, published: Published) -> None:
    with start() as node:
        control = node.control
        request = prepared(node, published, "network")
        node.guest.sh(_CHECK)
        control.answers(BOOT_SECONDS)
        operation = stage(control, request)
        arm(control)

        journey = travel(node, operation)

        is_the_new_system(node, journey, operation)
        assert journey.ended["state"] == "failed"
        assert journey.ended["error"]["type"].endswith("not-confirmed"), journey.ended
        found = control.get("/v1/reimage")
        assert found["state"] == "unconfirmed", found
        assert "/usr/bin/test" in found["reason"]
        assert [check["name"] for check in found["checks"] if not check["passed"]] == ["command"]
        assert 'holdfast_reimage_state{state="unconfirmed"} 1' in control.text("/metrics")
        started_warm(node)
        assert "NOT CONFIRMED" in node.guest.run("/usr/bin/journalctl", "-u", "holdfast", "-b")

        tell("checking again, before and after it is fixed")
        again = control.finished(control.post("/v1/reimage/confirm", code=202)["id"])
        assert (again["kind"], again["state"]) == ("reimage.check", "failed")
        assert control.get("/v1/reimage")["state"] == "unconfirmed"
        node.guest.sh("touch /etc/holdfast/fixed")
        again = control.finished(control.post("/v1/reimage/confirm", code=202)["id"])
        assert again["state"] == "succeeded", again
        assert control.get("/v1/reimage")["state"] == "confirmed"
