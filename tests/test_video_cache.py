"""Remote videos on a node's disk: fetched once, checked, within a bound, never removed under a reader."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bucket_helpers import objects, upload

from vadclip.errors import InputError
from vadclip.extract import video_cache
from vadclip.extract.video_cache import FetchError, VideoCache, default_cache
from vadclip.remote import open_filesystem

SIZE = 1000


def alive(amount):
    """A sign of life that nobody needs."""


@pytest.fixture
def videos(s3_bucket, tmp_path):
    """Five files of SIZE bytes and one that is five times as large: address -> SHA-256."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.mp4").write_bytes(bytes([number]) * SIZE)
    (folder / "large#1.mp4").write_bytes(b"x" * 5 * SIZE)
    upload(folder, f"{s3_bucket}/v")
    return {
        f"{s3_bucket}/v/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


@pytest.fixture
def fetched(monkeypatch):
    """Names of what is downloaded, as it is."""
    names = []
    real = video_cache.download

    def recording(uri, *arguments, **options):
        names.append(uri.rsplit("/", 1)[-1])
        return real(uri, *arguments, **options)

    monkeypatch.setattr(video_cache, "download", recording)
    return names


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_least_recently_used_goes_and_the_bound_holds(videos, tmp_path, fetched):
    cache = VideoCache(tmp_path / "cache", 3 * SIZE)
    order = list(videos)
    for number in (0, 1, 2, 0, 3, 0, 1):
        held = cache.hold(order[number], videos[order[number]], alive)
        assert hashlib.sha256(held.path.read_bytes()).hexdigest() == videos[order[number]]
        held.release()
        assert size(cache.folder) <= 3 * SIZE
        time.sleep(0.01)  # times of use differ
    assert fetched == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "1.mp4"]
    # The same address with other content is another video.
    with pytest.raises(FetchError, match="what was fetched is not what ingest saw"):
        cache.hold(order[0], "another hash", alive)
    with pytest.raises(FetchError, match="there is no such file"):
        cache.hold(order[0] + "x", "hash", alive)
    assert size(cache.folder) <= 3 * SIZE
    assert not list(cache.folder.glob("*.part"))


def test_what_is_read_stays_and_a_large_one_has_the_disk_for_itself(videos, tmp_path):
    cache = VideoCache(tmp_path / "cache", 2 * SIZE)
    *small, large = videos
    held = [cache.hold(uri, videos[uri], alive) for uri in small[:2]]
    done = []
    beats = []

    def fetch(uri, beat):
        one = cache.hold(uri, videos[uri], beat)
        there = {path.name for path in cache.folder.glob("*.video")}
        done.append(uri)
        if uri == large:
            assert there == {one.path.name}
        one.release()

    threads = [threading.Thread(target=fetch, args=(large, beats.append))]
    threads[0].start()
    while len(beats) < 3:  # it waits, and shows that it is alive
        time.sleep(0.01)
    threads.append(threading.Thread(target=fetch, args=(small[2], alive)))
    threads[1].start()
    held[0].release()
    time.sleep(0.3)
    assert done == []  # there is room for the small one, which waits behind the large one
    assert held[1].path.exists()
    held[1].release()
    for thread in threads:
        thread.join()
    assert done == [large, small[2]]
    assert size(cache.folder) <= 2 * SIZE


def test_one_fetches_and_all_read(videos, tmp_path, fetched):
    """Locks are by open file, so threads stand for processes here."""
    cache = VideoCache(tmp_path / "cache", SIZE)
    uri, content_hash = next(iter(videos.items()))
    go, held = threading.Barrier(6), []

    def read():
        go.wait()
        held.append(cache.hold(uri, content_hash, alive))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["0.mp4"]
    assert len({one.path for one in held}) == 1
    for one in held:
        one.release()


FETCHER = """
import sys
from pathlib import Path
from vadclip.extract.video_cache import VideoCache
cache = VideoCache(Path(sys.argv[1]), 1500)
for pair in sys.argv[2:] * 5:
    uri, content_hash = pair.split("=")
    held = cache.hold(uri, content_hash, lambda amount: None)
    assert held.path.read_bytes() == bytes([int(uri[-5])]) * 1000
    held.release()
"""


def test_processes_share_it(videos, tmp_path):
    """Two that want two files, with room for one: nobody reads a wrong byte, and the bound holds."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pairs = [f"{uri}={content_hash}" for uri, content_hash in list(videos.items())[:2]]
    command = [sys.executable, "-c", FETCHER, str(tmp_path / "cache")]
    running = [subprocess.Popen([*command, *wanted], env=environment) for wanted in (pairs, pairs[::-1])]
    assert [process.wait() for process in running] == [0, 0]
    assert size(tmp_path / "cache") <= 1500


KILLED = """
import os, signal, sys
from pathlib import Path
from vadclip.extract.video_cache import VideoCache
cache = VideoCache(Path(sys.argv[1]), 10_000)
cache.hold(sys.argv[2], sys.argv[3], lambda amount: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_what_a_killed_process_left_is_no_hindrance(videos, tmp_path):
    uri, content_hash = next(iter(videos.items()))
    folder = tmp_path / "cache"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, str(folder), uri, content_hash]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert [path.suffix for path in folder.glob("*.part")] == [".part"]
    other = list(videos)[1]
    VideoCache(folder, SIZE).hold(other, videos[other], alive).release()  # takes its room
    assert not list(folder.glob("*.part"))
    held = VideoCache(folder, 10 * SIZE).hold(uri, content_hash, alive)
    assert held.path.read_bytes() == objects(uri.rsplit("/", 1)[0])["0.mp4"]
    held.release()


def test_a_full_disk_and_a_folder_of_somebody_else(videos, tmp_path, monkeypatch):
    cache = VideoCache(tmp_path / "cache", 10 * SIZE)
    uri, content_hash = next(iter(videos.items()))

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(video_cache, "download", full)
        with pytest.raises(
            InputError, match=r"cache is full: lower execution.video_cache_gib, or set VADCLIP"
        ):
            cache.hold(uri, content_hash, alive)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be made \(.*\): set VADCLIP_CACHE"):
        VideoCache(tmp_path / "file" / "cache", 1)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(InputError, match="belongs to another user: set VADCLIP_CACHE"):
        VideoCache(tmp_path / "cache", 1)


def test_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("VADCLIP_CACHE", str(tmp_path / "fast disk"))
    assert default_cache().folder == tmp_path / "fast disk" / "videos"
    monkeypatch.delenv("VADCLIP_CACHE")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert default_cache().folder == tmp_path / f"vadclip-videos-{os.getuid()}"


def test_a_transfer_that_is_cut_short(videos, tmp_path, monkeypatch):
    """The server's file is the right one, what came of it is not: the next attempt is."""
    uri, content_hash = next(iter(videos.items()))
    cache = VideoCache(tmp_path / "cache", 10 * SIZE)
    filesystem = type(open_filesystem(uri)[0])
    real = filesystem.open

    def cut(self, path, mode="rb", **options):
        opened = real(self, path, mode, **options)
        opened.seek(100)
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "open", cut)
        with pytest.raises(FetchError, match="or the transfer was cut"):
            cache.hold(uri, content_hash, alive)
    cache.hold(uri, content_hash, alive).release()
