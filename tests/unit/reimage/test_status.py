"""Where the imager serves its status: to who may ask the daemon, or nowhere."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from holdfast.config.settings import Settings
from holdfast.privileged.boot.models import StatusServer
from holdfast.reimage.imager_status import imager_status

_TLS = {"certificate": "/c.pem", "key": "/k.pem"}


def _settings(listen: str, tls: dict[str, str] | None = None, **more: Any) -> Settings:
    return Settings.model_validate(
        {"reimage": {"status_listen": listen}, "tls": tls or {}, "tokens_file": "/t.json"} | more
    )


@pytest.mark.parametrize("listen", ["0.0.0.0:9918", "[::]:9918", "192.0.2.1:9918"])
def test_beyond_this_machine_the_settings_are_refused_without_tls(listen: str) -> None:
    with pytest.raises(ValidationError, match="reaches beyond this machine") as caught:
        _settings(listen)
    assert "set `tls.certificate` and `tls.key`" in str(caught.value)
    for given in ({}, _TLS, {"tokens": "/t.json"}):
        with pytest.raises(ValidationError, match="needs TLS and tokens"):
            StatusServer.model_validate({"listen": listen} | given)
    served = imager_status(_settings(listen, _TLS))
    assert served == StatusServer.model_validate({"listen": listen, "tokens": "/t.json"} | _TLS)


def test_client_certificates_are_asked_for_where_the_daemon_asks() -> None:
    served = imager_status(_settings("0.0.0.0:9918", _TLS | {"client_ca": "/ca.pem"}))
    assert served is not None
    assert served.client_ca == "/ca.pem"


@pytest.mark.parametrize("listen", ["", "auto", "127.0.0.1:9918", "[::1]:9918"])
def test_on_loopback_it_is_not_served(listen: str) -> None:
    assert imager_status(_settings(listen)) is None
