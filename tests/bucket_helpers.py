"""Buckets for tests, on the servers of s3_server.py and gcs_server.py."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vadclip.remote import open_filesystem


@contextmanager
def run_server(script: str) -> Iterator[str]:
    """Start a server and yield its address; it ends with the block."""
    command = [sys.executable, str(Path(__file__).with_name(script))]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address.startswith("http://"), "the server did not start"
        yield address
    finally:
        assert server.stdin is not None
        server.stdin.close()
        if script.startswith("s3"):
            server.kill()
        server.wait()


def make_s3_bucket(server: str, patch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, and an environment in which this process and its children find it."""
    patch.setenv("AWS_ENDPOINT_URL", server)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return _make(f"s3://bucket-{uuid.uuid4().hex[:8]}")


def make_gs_bucket(server: str, patch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, and an environment in which this process and its children find it."""
    patch.setenv("STORAGE_EMULATOR_HOST", server)
    patch.setenv("NO_GCE_CHECK", "true")  # the machine may be Google's: its account is none of the test's
    patch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    patch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    return _make(f"gs://bucket-{uuid.uuid4().hex[:8]}")


def _make(uri: str) -> str:
    filesystem, path = open_filesystem(uri)
    filesystem.mkdir(path)
    return uri


def put(uri: str, data: bytes) -> None:
    """Write one object."""
    filesystem, path = open_filesystem(uri)
    filesystem.pipe_file(path, data)


def make_folder(uri: str) -> None:
    """Write the empty object `<folder>/` by which consoles show a folder."""
    filesystem, path = open_filesystem(uri)
    bucket, _, key = path.partition("/")
    if uri.startswith("s3:"):
        filesystem.call_s3("put_object", Bucket=bucket, Key=f"{key}/", Body=b"")
    else:
        filesystem.pipe_file(f"{path}/", b"")


def upload(folder: Path, uri: str) -> None:
    """Copy every file below a folder."""
    filesystem, path = open_filesystem(uri)
    for file in folder.rglob("*"):
        if file.is_file():
            filesystem.put_file(str(file), f"{path}/{file.relative_to(folder)}")


def objects(uri: str) -> dict[str, bytes]:
    """Everything below an address, by name."""
    filesystem, path = open_filesystem(uri)
    found: dict[str, Any] = filesystem.find(path, detail=True)
    return {name.removeprefix(f"{path}/"): filesystem.cat_file(name) for name in sorted(found)}
