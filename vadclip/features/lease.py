"""One writer for a store in a bucket: `<uri>/lease.json`, written under conditions that the server checks.

Whoever creates the object holds the store and replaces it every few seconds, so that its tag changes (see
`conditional`). Who finds it there watches the tag: if it changes, the holder lives and this run is
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

from vadclip.errors import InputError
from vadclip.features.conditional import Conditional, PreconditionError, conditional
from vadclip.files import write_text_atomic

LEASE_NAME = "lease.json"
_MARGIN = 2 / 3


@dataclass(frozen=True)
class Times:
    """Seconds between renewals, and of silence after which a lease may be taken over."""

    renew: float = 5.0
    silence: float = 60.0


class Lease:
    """Held until `release`; `check` before each step that others would see."""

    def __init__(self, lease: Conditional, holder: dict[str, str], tag: str, times: Times) -> None:
        self._object, self._holder, self._tag, self._times = lease, holder, tag, times
        self._renewed_at = _clock()
        self._renewals = 0
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_ended, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise InputError if somebody else may be writing here now."""
        if self._lost is None and (silent := self._silence()) > self._times.silence * _MARGIN:
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
        if self._lost is None and self._silence() <= self._times.silence * _MARGIN:
            try:
                self._object.delete(self._tag)
            except (PreconditionError, OSError):
                return  # it runs out by itself

    def _silence(self) -> float:
        return _clock() - self._renewed_at

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self._times.renew) and self._lost is None:
            started = _clock()
            try:
                self._tag = self._object.replace(_content(self._holder, self._renewals + 1), self._tag)
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
    lease = conditional(f"{uri}/{LEASE_NAME}")
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


def _take(lease: Conditional, holder: dict[str, str], times: Times, tell: Callable[[str], None]) -> str:
    content = _content(holder, 0)
    seen, since, told = "", 0.0, False
    while True:
        try:
            return lease.create(content)
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
                return lease.replace(content, tag)
            except (PreconditionError, FileNotFoundError):
                continue
        if not told:
            tell(
                f"{lease.uri}: {_name(other)} holds the store; watching whether it lives, "
                f"{times.silence:g} s at most"
            )
            told = True
        _sleep(min(1.0, times.renew / 4))


def _refuse_without_conditions(lease: Conditional, holder: dict[str, str]) -> None:
    """A server that ignores conditions would let two runs write: both must fail on what is there now."""
    content = _content(holder, 0)
    tries: dict[str, Callable[[], str]] = {
        "that there is none yet": lambda: lease.create(content),
        "that it is still the same": lambda: lease.replace(content, lease.other_tag),
    }
    for condition, write in tries.items():
        try:
            write()
        except PreconditionError:
            continue
        raise InputError(
            f"{lease.uri}: the server writes an object under the condition {condition} though that does not "
            "hold, so two runs could write at once: take one that has conditional writes, such as Amazon S3 "
            "or Google Cloud Storage"
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
