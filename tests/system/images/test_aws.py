"""Images in S3 and in AMIs: fetched from moto's server, which is made to misbehave."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast._engine import Progress
from holdfast.operations.model import OperationFailed, RequestError, Slug
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.fetch import fetch
from holdfast.reimage.images.library import Obtained
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.images.retries import Patience
from holdfast.reimage.images.sources import Reach
from holdfast.reimage.models import StageRequest
from tests.support.daemon.harness import run_cli
from tests.support.servers.aws import BLOCK, GIB, Aws, cloud

MIB = 1 << 20
IMPATIENT = Patience(first_seconds=0.01, most_seconds=0.02, give_up_seconds=0.2)
PATIENT = Patience(first_seconds=0.01, most_seconds=0.02, give_up_seconds=60)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Give a cloud that this process's boto3 finds."""
    with cloud() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


@dataclass
class Image:
    """An image, and where it is fetched to."""

    content: bytes
    found: Obtained
    directory: Path

    def fetch(self, url: str, patience: Patience = IMPATIENT) -> Path:
        kept = self.directory / "descriptor.json"
        kept.write_bytes(self.found.data)
        return fetch(
            url,
            self.directory,
            content=Descriptor.parse(self.found.data).content,
            descriptor=kept,
            descriptor_sha256=self.found.sha256,
            reach=Reach(),
            progress=Progress(),
            patience=patience,
        )


@pytest.fixture
def image(tmp_path: Path) -> Image:
    file = tmp_path / "disk.raw"
    file.write_bytes(random.Random(1).randbytes(2 * MIB) + bytes(MIB))
    assert run_cli("image", "describe", file).returncode == 0
    data = Path(f"{file}.json").read_bytes()
    directory = tmp_path / "here"
    directory.mkdir()
    return Image(file.read_bytes(), Obtained(data, hashlib.sha256(data).hexdigest()), directory)


def library(tmp_path: Path) -> ImageLibrary:
    return ImageLibrary([tmp_path], tmp_path, trusted_keys=tmp_path / "keys")


def test_a_descriptor_and_its_image_come_from_s3(aws: Aws, image: Image, tmp_path: Path) -> None:
    aws.object("images", "web/a b.json", image.found.data)
    aws.client("s3").put_object(Bucket="images", Key="web/disk.raw", Body=image.content)
    request = StageRequest(
        descriptor="s3://images/web/a%20b.json", descriptor_sha256=image.found.sha256
    )
    images = library(tmp_path)
    images.check(request)
    found = images.obtain(request)
    url = images.content_url(request, found)
    assert url == "s3://images/web/disk.raw"
    assert image.fetch(url).read_bytes() == image.content


def test_an_object_that_is_cut_is_gone_on_with(aws: Aws, image: Image) -> None:
    aws.object("images", "disk.raw", image.content)
    aws.cut_after = MIB
    assert image.fetch("s3://images/disk.raw", PATIENT).read_bytes() == image.content
    ranges = [request.range for request in aws.asked if request.method == "GET"]
    assert ranges == [None, f"bytes={MIB}-", f"bytes={2 * MIB}-"]


def test_an_object_that_changed_in_between_is_begun_anew(aws: Aws, image: Image) -> None:
    old = random.Random(2).randbytes(3 * MIB)
    aws.object("images", "disk.raw", old)
    aws.cut_after = MIB
    with pytest.raises(OperationFailed):
        image.fetch("s3://images/disk.raw", PATIENT)  # whole, and not what was described
    with (image.directory / "image.partial").open("wb") as file:
        file.write(old[:MIB])
    state = json.loads((image.directory / "image.partial.json").read_text())
    etag = aws.client("s3").head_object(Bucket="images", Key="disk.raw")["ETag"]
    (image.directory / "image.partial.json").write_text(json.dumps(state | {"validator": etag}))
    aws.client("s3").put_object(Bucket="images", Key="disk.raw", Body=image.content)
    aws.cut_after = None
    aws.asked.clear()
    assert image.fetch("s3://images/disk.raw").read_bytes() == image.content
    asked = [(request.range, request.if_match) for request in aws.asked]
    assert asked == [(f"bytes={MIB}-", etag), (None, None)]


def test_refusals_of_s3_are_sentences(aws: Aws, image: Image, tmp_path: Path) -> None:
    aws.object("images", "disk.raw", image.content)

    def refused(url: str, slug: Slug, *words: str) -> None:
        with pytest.raises(OperationFailed) as caught:
            image.fetch(url)
        assert caught.value.problem.type.endswith(slug)
        for word in (url, *words):
            assert word in str(caught.value)

    refused("s3://images/missing.raw", Slug.NOT_FOUND, "NoSuchKey")
    refused("s3://nowhere/disk.raw", Slug.NOT_FOUND, "NoSuchBucket")
    aws.refused = 403
    refused("s3://images/disk.raw", Slug.NOT_PERMITTED, "this machine's role or keys")
    aws.refused = 503
    refused("s3://images/disk.raw", Slug.UNAVAILABLE, "503")
    for bad in ("s3://images", "s3:///disk.raw", "s3://me@images/disk.raw", "s3://images/a?v=1",
                "s3://images/a#b"):  # fmt: skip
        with pytest.raises(RequestError, match="is named as"):
            library(tmp_path).check(StageRequest(descriptor=bad, descriptor_sha256="0" * 64))
    for bad in ("ami://disk", "ami://ami-0123456789abcdef0/x"):
        asked = StageRequest(descriptor="s3://a/b", content=bad, descriptor_sha256="0" * 64)
        with pytest.raises(RequestError, match="is named as"):
            library(tmp_path).check(asked)


def test_what_boto3_lacks_is_said(
    aws: Aws, image: Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aws.object("images", "disk.raw", image.content)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(OperationFailed, match="no credentials for AWS; give it a role"):
        image.fetch("s3://images/disk.raw")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(OperationFailed, match="set AWS_DEFAULT_REGION"):
        image.fetch("ami://ami-0123456789abcdef0")
    program = "import sys; sys.modules['boto3'] = None; from holdfast.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "image", "describe", "ami://ami-0123456789abcdef0"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "apt-get install python3-boto3" in done.stderr


def test_a_machine_image_is_no_descriptor(tmp_path: Path) -> None:
    request = StageRequest(descriptor="ami://ami-0123456789abcdef0", descriptor_sha256="0" * 64)
    with pytest.raises(RequestError, match="name it as `content`"):
        library(tmp_path).check(request)


@dataclass
class Ami:
    """A machine image, and what its disk holds."""

    url: str
    blocks: dict[int, bytes]

    def judge(self, path: Path) -> None:
        """The file has these blocks, and nothing else."""
        assert path.stat().st_size == GIB
        with path.open("rb") as file:
            for index in range(GIB // BLOCK):
                data = file.read(BLOCK)
                assert data == self.blocks.get(index, bytes(BLOCK)), index


@pytest.fixture
def ami(aws: Aws) -> Ami:
    """Give an AMI with blocks here and there, the last one of the disk among them."""
    chance = random.Random(3)
    indexes = [0, 1, 2, *range(40, 60), 777, GIB // BLOCK - 1]
    blocks = {index: chance.randbytes(BLOCK) for index in indexes}
    return Ami(f"ami://{aws.ami(blocks)}", blocks)


def aws_cli(aws: Aws, url: str, output: Path) -> subprocess.CompletedProcess[str]:
    arguments = ("image", "describe", url, "-o", output, "--name", "web")
    return run_cli(*arguments, seconds=60, wrapper=(), **aws.environment)


def described(aws: Aws, ami: Ami, tmp_path: Path) -> Image:
    output = tmp_path / "web.json"
    done = aws_cli(aws, ami.url, output)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["web.json"]
    data = output.read_bytes()
    directory = tmp_path / "here"
    directory.mkdir()
    return Image(b"", Obtained(data, hashlib.sha256(data).hexdigest()), directory)


def test_an_ami_is_described_and_staged_from_its_blocks(aws: Aws, ami: Ami, tmp_path: Path) -> None:
    image = described(aws, ami, tmp_path)
    reported = json.loads(image.found.data)
    # Chunks are larger than blocks.
    count = {index * BLOCK // reported["chunk_bytes"] for index in ami.blocks}
    assert (reported["size_bytes"], len(reported["chunks"])) == (GIB, len(count))
    assert reported["content"]["encoding"] == "identity"
    aws.throttled, aws.flipped = 3, 2
    ami.judge(image.fetch(ami.url, PATIENT))
    assert (aws.throttled, aws.flipped) == (0, 0)


def test_an_ami_goes_on_where_it_was_and_leaves_nothing_stale(
    aws: Aws, ami: Ami, tmp_path: Path
) -> None:
    image = described(aws, ami, tmp_path)
    # Blocks beyond those that pass are damaged for good.
    aws.flipped = 10**6
    with pytest.raises(OperationFailed, match="does not match its SHA-256"):
        image.fetch(ami.url)
    aws.flipped = 0
    partial = image.directory / "image.partial"
    assert partial.stat().st_size == 0
    # What was there before this boot, or of another file, is not believed.
    partial.write_bytes(b"x" * 100 * MIB)
    state = json.loads((image.directory / "image.partial.json").read_text())
    (image.directory / "image.partial.json").write_text(json.dumps(state | {"sha256": "0" * 64}))
    aws.asked.clear()
    ami.judge(image.fetch(ami.url, PATIENT))
    # Cut off in the middle of a block, only what follows is asked for.
    path = image.directory / "image"
    with path.open("r+b") as file:
        file.truncate(50 * BLOCK + 1234)
    path.rename(partial)
    identifier = aws.client("ec2").describe_images(ImageIds=[ami.url[6:]])["Images"][0]
    snapshot = identifier["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    reported = state | {
        "validator": snapshot,
        "sha256": json.loads(image.found.data)["content"]["sha256"],
    }
    (image.directory / "image.partial.json").write_text(json.dumps(reported))
    aws.asked.clear()
    ami.judge(image.fetch(ami.url))
    fetched = [
        int(request.path.rpartition("/")[2]) for request in aws.asked if "/blocks/" in request.path
    ]
    assert sorted(fetched) == [index for index in sorted(ami.blocks) if index >= 50]


def test_an_ami_that_is_not_there_is_told(aws: Aws, tmp_path: Path) -> None:
    url = "ami://ami-0123456789abcdef0"
    done = aws_cli(aws, url, tmp_path / "web.json")
    assert done.returncode == 1
    assert "InvalidAMIID.NotFound" in done.stderr
    assert list(tmp_path.iterdir()) == []
