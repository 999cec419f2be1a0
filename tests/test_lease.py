"""One writer at a time for a store in a bucket, whatever dies, sleeps or is answered late."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bucket_helpers import objects, put
from feature_helpers import Runner, contents, fill, index_rows, make_manifest, make_video

from vadclip.errors import InputError
from vadclip.features import lease
from vadclip.features.conditional import Conditional, PreconditionError, conditional
from vadclip.features.lease import Lease, Times, hold_lease

QUICK = Times(renew=0.1, silence=60)
NEVER = Times(renew=1000, silence=60)  # a holder that hangs: it renews nothing
MANIFEST = make_manifest([make_video(name, 99) for name in "abc"])


@pytest.fixture
def minutes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at another's lease takes ten seconds by the monotonic clock, and next to none in truth."""
    passed = [0.0]

    def sleep(seconds: float) -> None:
        passed[0] += 10
        time.sleep(0.01)

    monkeypatch.setattr(lease, "_sleep", sleep)
    monkeypatch.setattr(lease, "_clock", lambda: time.monotonic() + passed[0])


@contextmanager
def hold(uri: str, project: Path, times: Times = QUICK, told: list[str] | None = None) -> Iterator[Lease]:
    (project / "features").mkdir(parents=True, exist_ok=True)
    tell = (told if told is not None else []).append
    with hold_lease(uri, project / "features", project / ".cache", tell, times) as held:
        yield held


def test_one_of_many_takes_it_and_renews_it(bucket: str, tmp_path: Path) -> None:
    """Eight at once; nobody else gets in while the holder renews, for longer than the silence."""
    inside: list[int] = []
    refused: list[str] = []
    go, both = threading.Barrier(8), threading.Event()

    def compete(number: int) -> None:
        go.wait()
        try:
            with hold(f"{bucket}/store", tmp_path / str(number)) as held:
                inside.append(number)
                both.wait(60)
                held.check()
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(refused) < 7:
        assert time.monotonic() < deadline, (inside, refused)
        time.sleep(0.05)
    assert len(inside) == 1
    renewals = json.loads(conditional(f"{bucket}/store/lease.json").read()[0])["renewals"]
    assert renewals > 0
    both.set()
    for thread in threads:
        thread.join()
    assert len(inside) == 1
    assert all("another extraction is writing there (process" in text for text in refused)
    assert objects(bucket) == {}  # given back


def test_a_silent_lease_is_taken_over_and_its_holder_publishes_nothing_more(
    bucket: str, tmp_path: Path, minutes_pass: None
) -> None:
    told: list[str] = []
    with hold(f"{bucket}/store", tmp_path / "first", NEVER) as first:
        first.check()
        with hold(f"{bucket}/store", tmp_path / "second", QUICK, told) as second:
            second.check()
            # By its own clock, before anybody else could be inside.
            with pytest.raises(InputError, match=r"lost its lease \(it could not be renewed for \d+ s\)"):
                first.check()
    assert len(told) == 1
    assert "watching whether it lives, 60 s at most" in told[0]


def test_a_holder_learns_from_the_server_that_it_was_replaced(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/store"
    with hold(uri, tmp_path / "first") as first:
        thing = conditional(f"{uri}/lease.json")
        while True:  # between two renewals
            try:
                thing.replace(b'{"host": "elsewhere", "pid": "7", "run": "x"}', thing.read()[1])
                break
            except PreconditionError:
                continue
        _until_lost(
            first, r"lost its lease \(process 7 on elsewhere took it over\) and publishes nothing more"
        )
    assert list(objects(uri)) == ["lease.json"]  # not ours to give back
    thing.delete(thing.read()[1])
    with hold(uri, tmp_path / "first") as first:
        _delete(thing)
        _until_lost(first, r"lost its lease \(somebody removed it\)")


def _delete(thing: Conditional) -> None:
    while True:
        try:
            return thing.delete(thing.read()[1])
        except PreconditionError:
            continue


def _until_lost(held: Lease, message: str) -> None:
    deadline = time.monotonic() + 60
    with pytest.raises(InputError, match=message):
        while time.monotonic() < deadline:
            held.check()
            time.sleep(0.02)


class Changed:
    """A bucket's object, of which one method does something else."""

    def __init__(self, thing: Conditional, **methods: Callable[..., str]) -> None:
        self._thing, self._methods = thing, methods

    def __getattr__(self, name: str) -> Any:
        if name in self._methods:
            return partial(self._methods[name], self._thing)
        return getattr(self._thing, name)


def test_an_answer_lost_on_the_way_loses_no_lease(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write arrived, its answer did not, and the client wrote again: 412 on one's own lease."""
    calls = []

    def create_twice(thing: Conditional, data: bytes) -> str:
        calls.append("create")
        thing.create(data)
        return thing.create(data)

    def replace_twice(thing: Conditional, data: bytes, tag: str) -> str:
        calls.append("replace")
        thing.replace(data, tag)
        return thing.replace(data, tag)

    with monkeypatch.context() as patch:
        patch.setattr(
            lease,
            "conditional",
            lambda uri: Changed(conditional(uri), create=create_twice, replace=replace_twice),
        )
        patch.setattr(lease, "_refuse_without_conditions", lambda *_: None)
        with hold(f"{bucket}/store", tmp_path) as held:
            deadline = time.monotonic() + 60
            while len(calls) < 4:
                assert time.monotonic() < deadline
                held.check()
                time.sleep(0.02)
            held.check()
    assert calls[:2] == ["create", "replace"]


def test_a_server_that_ignores_conditions_is_refused(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_anyhow(thing: Conditional, data: bytes, *_: str) -> str:
        put(thing.uri, data)
        return thing.read()[1]

    for method, condition in {"create": "there is none yet", "replace": "it is still the same"}.items():
        changed = {method: write_anyhow}
        with monkeypatch.context() as patch:
            patch.setattr(lease, "conditional", lambda uri, c=changed: Changed(conditional(uri), **c))
            with (
                pytest.raises(InputError, match=f"under the condition that {condition} though that does not"),
                hold(f"{bucket}/{method}", tmp_path),
            ):
                pass


def test_a_lease_that_was_silent_is_left_to_run_out(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another may hold it by now, and a server might not check the condition of a deletion."""
    uri, clock = f"{bucket}/store", [100.0]
    monkeypatch.setattr(lease, "_clock", lambda: clock[0])
    with hold(uri, tmp_path, NEVER):
        clock[0] += 41
    assert list(objects(uri)) == ["lease.json"]
    with hold(uri, tmp_path, NEVER):  # the same project's
        clock[0] += 39
    assert objects(uri) == {}


def test_a_copy_of_a_project_is_another_project(tmp_path: Path) -> None:
    names = set()
    for project in ("one", "copy"):
        (tmp_path / project / "features").mkdir(parents=True)
        (tmp_path / project / ".cache").mkdir()
        (tmp_path / project / ".cache" / "lease-owner").write_text("the same")
        names.add(lease._project(tmp_path / project / "features", tmp_path / project / ".cache"))
    assert len(names) == 2


def test_a_run_that_lost_its_lease_publishes_nothing_more(
    bucket: str, tmp_path: Path, minutes_pass: None
) -> None:
    """Two projects on one bucket: the first hangs in mid-run, the second takes over and finishes."""
    uri = f"{bucket}/store"

    class Hanging(Runner):
        def run(self, unit, folder):
            if len(self.units) == 2:
                fill(tmp_path / "second", MANIFEST, Runner(), uri=uri, times=QUICK, unit_images=10)
                self.published = objects(uri)
            return super().run(unit, folder)

    runner = Hanging()
    with pytest.raises(
        InputError, match="publishes nothing more; what is there is kept: run the stage again"
    ):
        fill(tmp_path / "first", MANIFEST, runner, uri=uri, times=NEVER, unit_images=10)
    assert contents(tmp_path / "first" / "features") == {}
    after = {name: data for name, data in objects(uri).items() if not name.startswith("tmp/")}
    assert after == runner.published


def test_two_drivers_that_are_both_alive(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/store"

    class First(Runner):
        def run(self, unit, folder):
            with pytest.raises(InputError, match="another extraction is writing there"):
                fill(tmp_path / "second", MANIFEST, Runner(), uri=uri, times=QUICK)
            return super().run(unit, folder)

    fill(tmp_path / "first", MANIFEST, First(), uri=uri, times=QUICK, unit_images=100)
    assert [row.status for row in index_rows(tmp_path / "first")] == ["ok"] * 3
