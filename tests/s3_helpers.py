"""A bucket for a test, on the server of s3_server.py."""

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
def run_server() -> Iterator[str]:
    """Start the server and yield its address; it ends with the block."""
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py"))]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address.startswith("http://"), "the server did not start"
        yield address
    finally:
        server.kill()
        server.wait()


def make_bucket(server: str, patch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, and an environment in which this process and its children find it."""
    patch.setenv("AWS_ENDPOINT_URL", server)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    uri = f"s3://bucket-{uuid.uuid4().hex[:8]}"
    filesystem, path = open_filesystem(uri)
    filesystem.mkdir(path)
    return uri


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
