"""Replaces get-pip.py, which ansible-test would download: the pip that Python comes with."""

import ensurepip
import os
import pathlib
import sys

ensurepip.bootstrap()
# ansible-test passes on neither the environment nor the configuration of its user's pip.
certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
if pathlib.Path(certificates).exists():
    pathlib.Path(sys.prefix, "pip.conf").write_text(f"[global]\ncert = {certificates}\n")
