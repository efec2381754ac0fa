"""Images in S3, and in what speaks its language."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from holdfast.operations.model import Slug
from holdfast.reimage.images.sources import aws
from holdfast.reimage.images.sources.base import Reach, SourceError, range_total

_CHUNK = 1 << 20


class S3Source:
    """An object named by `s3://bucket/key`; what is special in a URL is percent-encoded in keys."""

    def __init__(self, url: str, _reach: Reach) -> None:
        parts = urlsplit(url)
        self._bucket, self._key = parts.netloc, unquote(parts.path.removeprefix("/"))
        if (
            not self._bucket
            or not self._key
            or "@" in self._bucket
            or parts.query
            or parts.fragment
        ):
            raise SourceError(
                Slug.INVALID_REQUEST, "An object of S3 is named as s3://bucket/key, and no more."
            )
        self._name = f"s3://{self._bucket}/{self._key}"
        self._client = aws.client("s3")

    def open(self, offset: int, validator: str | None) -> OpenedObject:
        """Ask for the object. Raises `SourceError`."""
        if offset:
            wanted = {"Range": f"bytes={offset}-"}
            if validator is not None:
                wanted["IfMatch"] = validator
            answer = self._get(wanted, another=True)
            if answer is not None:
                return OpenedObject(self._name, answer, offset)
        return OpenedObject(self._name, self._get({}), 0)

    def _get(self, wanted: dict[str, str], another: bool = False) -> Any:
        """Ask for it; None if `another` object than before may be there, and is."""
        with aws.troubles(self._name):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=self._key, **wanted)
            except self._client.exceptions.ClientError as error:
                # It changed, or is shorter by now.
                if another and aws.code_of(error) in ("PreconditionFailed", "InvalidRange"):
                    return None
                raise

    def abort(self) -> None:
        """Nothing here waits without a limit."""


class OpenedObject:
    """An object that is being read; see `Opened`."""

    def __init__(self, name: str, answer: Any, offset: int) -> None:
        self._name = name
        self._body = answer["Body"]
        self.validator: str | None = answer.get("ETag")
        self.offset = offset
        self.size: int | None = answer.get("ContentLength")
        if offset:
            try:
                self.size = range_total(answer.get("ContentRange", ""), offset, name)
            except SourceError:
                self._body.close()
                raise

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes as they arrive. Raises `SourceTroubleError`."""
        with aws.troubles(self._name):
            yield from self._body.iter_chunks(_CHUNK)

    def close(self) -> None:
        """Let go of it."""
        self._body.close()
