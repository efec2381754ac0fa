"""AWS for tests: moto's server on loopback, with faults in front of it on request."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ebs.models import ebs_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

REGION = "eu-central-1"
BLOCK = 512 << 10
GIB = 1 << 30


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    method: str
    path: str
    range: str | None
    if_match: str | None


@dataclass
class Aws:
    """A cloud of a test's own."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    throttled: int = 0
    """This many of the next requests for blocks are refused for now."""
    refused: int | None = None
    """Status and no reason for every request for an object."""
    flipped: int = 0
    """This many of the next blocks arrive with a bit changed."""
    cut_after: int | None = None
    """Responses of more bytes end after this many."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment that configures boto3."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def client(self, service: str) -> Any:
        return boto3.session.Session("test", "test", region_name=REGION).client(
            service, endpoint_url=self.url
        )

    def object(self, bucket: str, key: str, content: bytes) -> None:
        """Put an object, and make its bucket."""
        s3 = self.client("s3")
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket=bucket, Key=key, Body=content)

    def ami(self, blocks: dict[int, bytes]) -> str:
        """Register a machine image whose root disk of 1 GiB has these blocks."""
        ebs, ec2 = self.client("ebs"), self.client("ec2")
        snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
        for index, data in blocks.items():
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
            ebs.put_snapshot_block(
                SnapshotId=snapshot,
                BlockIndex=index,
                BlockData=data,
                DataLength=len(data),
                Checksum=digest,
                ChecksumAlgorithm="SHA256",
            )
        ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=len(blocks))
        name = f"web-{snapshot}"
        image: str = ec2.register_image(Name=name, RootDeviceName="/dev/sda1")["ImageId"]
        # moto gives an image a snapshot of its own choice, which has no blocks: give it these.
        found = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
        stored = ebs_backends[DEFAULT_ACCOUNT_ID][REGION].snapshots
        stored[found[0]["Ebs"]["SnapshotId"]] = stored[snapshot]
        return image


@contextmanager
def cloud() -> Iterator[Aws]:
    """Run the server for as long as the context lasts."""
    moto = DomainDispatcherApplication(create_backend_app)
    aws = Aws("")

    def application(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        method = environ["REQUEST_METHOD"]
        ranges, condition = environ.get("HTTP_RANGE"), environ.get("HTTP_IF_MATCH")
        aws.asked.append(Asked(method, path, ranges, condition))
        block = method == "GET" and "/blocks/" in path
        if block and aws.throttled:
            aws.throttled -= 1
            start("400 Bad Request", [("x-amzn-ErrorType", "RequestThrottledException")])
            return [b'{"Message": "slow down"}']
        if method == "GET" and aws.refused is not None:
            start(f"{aws.refused} No", [("Content-Length", "0")])
            return []
        status, headers, whole = _answer(moto, environ)
        if path.endswith("/blocks") and status.startswith("200"):
            # moto reports sectors, and AWS the size of what it lists.
            whole = json.dumps(json.loads(whole) | {"BlockSize": BLOCK}).encode()
            headers = [header for header in headers if header[0].lower() != "content-length"]
            headers.append(("Content-Length", str(len(whole))))
        if block and aws.flipped:
            aws.flipped -= 1
            whole = whole[:7] + bytes([whole[7] ^ 1]) + whole[8:]
        start(status, headers)
        return [whole[: aws.cut_after]]

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    aws.url = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield aws
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        _forget()


def _answer(application: Any, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    kept: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], *_: object) -> None:
        kept[:] = [status, headers]

    body = b"".join(application(environ, start))
    return kept[0], kept[1], body


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - as it is there
        """Log nothing."""


def _forget() -> None:
    """Empty all of moto's backends, which are this process's."""
    from moto.moto_api._internal.models import moto_api_backend

    moto_api_backend.reset()
