"""One object of a bucket, read and written under conditions that its server checks.

Each version of an object has a tag: its ETag on S3 (If-None-Match, If-Match), its generation on Google Cloud
Storage (ifGenerationMatch). What a client sends again because the answer got lost fails on its own first try.
"""

import errno
import json
import uuid
from typing import Any, Protocol
from urllib.parse import quote

from vadclip.remote import open_filesystem, plain_faults

_FAILED = 412
_CONFLICT = 409


class PreconditionError(Exception):
    """The object is not what the condition says."""


class Conditional(Protocol):
    """One object under conditions.

    Every method raises OSError if the server does not do it, InputError if there are no credentials.
    """

    uri: str
    other_tag: str
    """A tag that no version has, and that the server takes for one."""

    def read(self) -> tuple[bytes, str]:
        """Return bytes and tag, which belong together; FileNotFoundError if the object is not there."""

    def create(self, data: bytes) -> str:
        """Write the object if there is none and return its tag; PreconditionError, FileNotFoundError."""

    def replace(self, data: bytes, tag: str) -> str:
        """Write the object if it still is what `tag` says and return the new tag; PreconditionError."""

    def delete(self, tag: str) -> None:
        """Delete the object if it still is what `tag` says; PreconditionError."""


def conditional(uri: str) -> Conditional:
    """Return the object at an s3:// or gs:// address."""
    return GoogleObject(uri) if uri.startswith("gs://") else S3Object(uri)


class S3Object:
    """An object of an S3 bucket."""

    other_tag = '"00000000000000000000000000000000"'

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._filesystem, path = open_filesystem(uri)
        bucket, _, key = path.partition("/")
        self._place = {"Bucket": bucket, "Key": key}

    def read(self) -> tuple[bytes, str]:
        """Read in one whole request: bytes and tag belong together."""
        answer = self._call("get_object")
        with plain_faults(self.uri):
            body = self._body(answer)
        return body, str(answer["ETag"])

    def create(self, data: bytes) -> str:
        """Write under IfNoneMatch."""
        return str(self._call("put_object", Body=data, IfNoneMatch="*")["ETag"])

    def replace(self, data: bytes, tag: str) -> str:
        """Write under IfMatch."""
        return str(self._call("put_object", Body=data, IfMatch=tag)["ETag"])

    def delete(self, tag: str) -> None:
        """Delete under IfMatch."""
        self._call("delete_object", IfMatch=tag)

    def _call(self, method: str, **arguments: Any) -> Any:
        with plain_faults(self.uri):
            try:
                return self._filesystem.call_s3(method, **self._place, **arguments)
            except OSError as error:
                response = getattr(error.__cause__, "response", None) or {}
                status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                gone = response.get("Error", {}).get("Code") == "NoSuchKey" and "IfMatch" in arguments
                if status in (_FAILED, _CONFLICT) or gone:
                    raise PreconditionError from None
                raise

    def _body(self, answer: Any) -> bytes:
        from fsspec.asyn import sync

        async def read() -> bytes:
            async with answer["Body"] as stream:
                return bytes(await stream.read())

        return bytes(sync(self._filesystem.loop, read))


class GoogleObject:
    """An object of a Google Cloud Storage bucket, by its JSON API."""

    other_tag = "1"  # a generation is the microsecond in which the object was written

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._filesystem, path = open_filesystem(uri)
        self._bucket, _, self._key = path.partition("/")

    def read(self) -> tuple[bytes, str]:
        """Read in one whole request, whose head holds the generation of what its body holds."""
        head, body = self._call("GET", "b/{}/o/{}", self._bucket, self._key, alt="media")
        if "x-goog-generation" not in head:
            raise OSError(errno.EIO, "the server does not say an object's generation")
        return bytes(body), str(head["x-goog-generation"])

    def create(self, data: bytes) -> str:
        """Write under ifGenerationMatch=0."""
        return self.replace(data, "0")

    def replace(self, data: bytes, tag: str) -> str:
        """Write under ifGenerationMatch, in one request."""
        boundary = uuid.uuid4().hex
        about = json.dumps({"name": self._key, "cacheControl": "no-store"})
        body = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        answer = self._call(
            "POST",
            f"{self._filesystem.base.removesuffix('storage/v1/')}upload/storage/v1/b/{quote(self._bucket)}/o",
            uploadType="multipart",
            ifGenerationMatch=tag,
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
            data=body + data + f"\r\n--{boundary}--\r\n".encode(),
            json_out=True,
        )
        return str(answer["generation"])

    def delete(self, tag: str) -> None:
        """Delete under ifGenerationMatch."""
        try:
            self._call("DELETE", "b/{}/o/{}", self._bucket, self._key, ifGenerationMatch=tag)
        except FileNotFoundError:
            raise PreconditionError from None

    def _call(self, *arguments: Any, **more: Any) -> Any:
        with plain_faults(self.uri):
            try:
                return self._filesystem.call(*arguments, **more)
            except FileExistsError:  # what gcsfs makes of 412
                raise PreconditionError from None
            except Exception as error:
                if getattr(error, "code", None) in (_FAILED, _CONFLICT):
                    raise PreconditionError from None
                raise
