from __future__ import annotations

from typing import Any

import pytest

from holdfast.api.http.transport.tls import subject_of


@pytest.mark.parametrize(
    ("certificate", "shown"),
    [
        (
            {
                "subject": (
                    (("countryName", "DE"),),
                    (("organizationName", "A, B"),),
                    (("commonName", " ci#1"), ("userId", "7")),
                    (("emailAddress", "x@y"),),
                )
            },
            r"emailAddress=x@y,CN=\ ci#1+UID=7,O=A\, B,C=DE",
        ),
        ({"subject": ((("commonName", 'a"+;<>\\ '),),)}, r"CN=a\"\+\;\<\>\\\ "),
        ({"subject": (), "subjectAltName": (("DNS", "ci.example"),)}, "DNS:ci.example"),
        ({"subject": (), "serialNumber": "0A1B"}, "serial 0A1B"),
    ],
)
def test_whom_a_certificate_names(certificate: dict[str, Any], shown: str) -> None:
    assert subject_of(certificate) == shown
