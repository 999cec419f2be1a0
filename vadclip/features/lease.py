"""One writer for a store in a bucket: `<uri>/lease.json`, written under conditions that the server checks.

Whoever creates the object (If-None-Match: *) holds the store and rewrites it every few seconds (If-Match), so
that its tag changes. Who finds it there watches the tag: if it changes, the holder lives and this run is
refused; if it stays for `silence` seconds of the watcher's own monotonic clock, the lease is taken over.
No two machines' clocks are ever compared. A holder that could not renew for two thirds of that time stops
before anybody may take over.

The lease of a dead run of the same project folder is taken at once: the folder's own lock, which ends with
its process, has shown that the run is over.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vadclip.errors import InputError
from vadclip.files import write_text_atomic
from vadclip.remote import open_filesystem, plain_faults

LEASE_NAME = "lease.json"
_FAILED = 412
_CONFLICT = 409
_OTHER_TAG = '"00000000000000000000000000000000"'
_MARGIN = 2 / 3


@dataclass(frozen=True)
class Times:
    """Seconds between renewals, and of silence after which a lease may be taken over."""

    renew: float = 5.0
    silence: float = 60.0


class PreconditionError(Exception):
    """The object is not what the condition says."""


class Object:
    """One object of an S3 bucket, read and written under conditions."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._filesystem, path = open_filesystem(uri)
        bucket, _, key = path.partition("/")
        self._place = {"Bucket": bucket, "Key": key}

    def read(self) -> tuple[bytes, str]:
        """Return bytes and tag; FileNotFoundError if it is not there."""
        # One whole request: bytes and tag belong together.
        answer = self._call("get_object")
        with plain_faults(self.uri):
            body = self._body(answer)
        return body, str(answer["ETag"])

    def put(self, data: bytes, **condition: str) -> str:
        """Write under IfNoneMatch or IfMatch and return the new tag; PreconditionError, OSError."""
        return str(self._call("put_object", Body=data, **condition)["ETag"])

    def delete(self, tag: str) -> None:
        """Delete if it still is what `tag` says; PreconditionError, OSError."""
        self._call("delete_object", IfMatch=tag)

    def _call(self, method: str, **arguments: Any) -> Any:
        with plain_faults(self.uri):
            try:
                return self._filesystem.call_s3(method, **self._place, **arguments)
            except OSError as error:
                response = getattr(error.__cause__, "response", None) or {}
                if response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (_FAILED, _CONFLICT):
                    raise PreconditionError from None
                raise

    def _body(self, answer: Any) -> bytes:
        from fsspec.asyn import sync

        async def read() -> bytes:
            async with answer["Body"] as stream:
                return bytes(await stream.read())

        return bytes(sync(self._filesystem.loop, read))


class Lease:
    """Held until `release`; `check` before each step that others would see."""

    def __init__(self, lease: Object, holder: dict[str, str], tag: str, times: Times) -> None:
        self._object, self._holder, self._tag, self._times = lease, holder, tag, times
        self._renewed_at = _clock()
        self._renewals = 0
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_ended, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise InputError if somebody else may be writing here now."""
        silent = _clock() - self._renewed_at
        if self._lost is None and silent > self._times.silence * _MARGIN:
            self._lost = f"it could not be renewed for {silent:.0f} s"
        if self._lost is not None:
            raise InputError(
                f"{self._object.uri}: this run lost its lease ({self._lost}) and publishes nothing more; "
                "what is there is kept: run the stage again"
            )

    def release(self) -> None:
        """End the renewals and give the lease back, if it still is ours."""
        self._ended.set()
        self._thread.join()
        if self._lost is None:
            try:
                self._object.delete(self._tag)
            except (PreconditionError, OSError):
                return  # it runs out by itself

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self._times.renew) and self._lost is None:
            started = _clock()
            try:
                self._tag = self._object.put(_content(self._holder, self._renewals + 1), IfMatch=self._tag)
            except (PreconditionError, FileNotFoundError):
                self._tag = self._own_tag() or self._tag
                continue  # ours after all: when it was written is not known, so the next renewal counts
            except (OSError, InputError):
                continue  # `check` counts the time
            self._renewals += 1
            self._renewed_at = started

    def _own_tag(self) -> str | None:
        """Tag of the lease after a refused renewal: ours if an answer got lost on the way."""
        try:
            data, tag = self._object.read()
        except FileNotFoundError:
            self._lost = "somebody removed it"
            return None
        except (OSError, InputError):
            return None
        holder = _holder(data)
        if holder.get("run") == self._holder["run"]:
            return tag
        self._lost = f"{_name(holder)} took it over"
        return None


@contextmanager
def hold_lease(
    uri: str, folder: Path, cache: Path, tell: Callable[[str], None], times: Times | None = None
) -> Iterator[Lease]:
    """Hold the store at `uri` for the project whose features lie in `folder`, whose lock the caller holds.

    Raises InputError if another run holds it, the server does not check conditions, or it does not answer.
    """
    times = times or Times()
    lease = Object(f"{uri}/{LEASE_NAME}")
    holder = {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "project": _project(folder, cache),
        "run": uuid.uuid4().hex,
    }
    try:
        tag = _take(lease, holder, times, tell)
        _refuse_without_conditions(lease, holder)
    except OSError as error:
        raise InputError(f"{lease.uri} cannot be written: {error.strerror or error}") from None
    held = Lease(lease, holder, tag, times)
    try:
        yield held
    finally:
        held.release()


def _take(lease: Object, holder: dict[str, str], times: Times, tell: Callable[[str], None]) -> str:
    content = _content(holder, 0)
    seen, since, told = "", 0.0, False
    while True:
        try:
            return lease.put(content, IfNoneMatch="*")
        except PreconditionError:
            pass
        try:
            data, tag = lease.read()
        except FileNotFoundError:
            continue  # given back meanwhile
        other = _holder(data)
        if other.get("run") == holder["run"]:
            return tag  # the first answer got lost on the way
        if tag != seen:
            if seen:
                raise InputError(
                    f"{lease.uri}: another extraction is writing there ({_name(other)} has just renewed its "
                    "lease); wait for it or stop it"
                )
            seen, since = tag, _clock()
        dead = other.get("project") == holder["project"]
        if dead or _clock() - since > times.silence:
            try:
                return lease.put(content, IfMatch=tag)
            except (PreconditionError, FileNotFoundError):
                continue
        if not told:
            tell(
                f"{lease.uri}: {_name(other)} holds the store; watching whether it lives, "
                f"{times.silence:g} s at most"
            )
            told = True
        _sleep(min(1.0, times.renew / 4))


def _refuse_without_conditions(lease: Object, holder: dict[str, str]) -> None:
    """A server that ignores conditions would let two runs write: both must fail on what is there now."""
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": _OTHER_TAG}):
        try:
            lease.put(_content(holder, 0), **condition)
        except PreconditionError:
            continue
        raise InputError(
            f"{lease.uri}: the server ignores {next(iter(condition))} on PutObject, so two runs could write "
            "at once: take one that has conditional writes, such as Amazon S3"
        )


def _clock() -> float:
    """Monotonic seconds that go on while the machine sleeps, where it can tell them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _project(folder: Path, cache: Path) -> str:
    """Name this project's folder: another one, a copy and another machine's have other names."""
    path = cache / "lease-owner"
    if not path.exists():
        write_text_atomic(path, uuid.uuid4().hex)
    status = folder.stat()
    return f"{path.read_text()}-{socket.gethostname()}-{status.st_dev}-{status.st_ino}"


def _content(holder: dict[str, str], renewals: int) -> bytes:
    return json.dumps(holder | {"renewals": renewals}).encode()


def _holder(data: bytes) -> dict[str, str]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(holder: dict[str, str]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"
