"""What ingest knows of the files: their frames counted and their bytes hashed, in processes of their own.

A decoder that crashes or hangs costs one row and no run. Local files are looked into here; remote ones by
the nodes of a Ray cluster where one is named, so that a bucket is not pulled through one machine. Both do the
same under the same limits.
"""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

from vadclip.config import ExecutionParams
from vadclip.errors import InputError, VideoError
from vadclip.features.npy_files import feature_shape
from vadclip.files import sha256_file
from vadclip.ingest.probe_cache import Identity, Probe, ProbeCache
from vadclip.ingest.processes import ATTEMPTS, limit_memory, run_supervised
from vadclip.ingest.remote_files import identify_remote
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.pool.work import Beat
from vadclip.progress import track
from vadclip.remote import download, is_remote
from vadclip.video.container import UNWRITABLE_NAME
from vadclip.video.frame_reader import probe

MISSING = "there is no such file"
SAVE_SECONDS = 30.0
# When a decoder counts as hanging: at a twentieth of the slowest decoding speed seen.
LIMIT_SECONDS, LIMIT_BYTES_PER_SECOND = 300.0, 100_000.0


def probe_files(
    paths: Iterable[str],
    cache_file: Path,
    *,
    execution: ExecutionParams | None = None,
    workers: int | None = None,
) -> dict[str, Probe]:
    """Probe videos and .npy feature files, given as absolute paths or URIs; only new and changed ones are
    opened.

    Never fails for a file: a missing, unreadable or broken one has an `error`. `workers` processes (default:
    one per core) look into files; remote ones are looked into by the cluster that `execution` or RAY_ADDRESS
    names. Raises InputError where this machine or a node cannot open addresses at all.
    """
    cache = ProbeCache(cache_file)
    found: dict[str, Probe] = {}
    todo: dict[str, Identity] = {}
    unique = list(dict.fromkeys(paths))
    remote = identify_remote(filter(is_remote, unique))
    for path in unique:
        identity = _identify(path, remote)
        if isinstance(identity, Probe):
            found[path] = identity
        elif (known := cache.recall(path, identity)) is not None:
            found[path] = known
        else:
            todo[path] = identity
    if not todo:
        return found
    # The largest first, so that no core is left with a long one at the end.
    order = sorted(todo, key=lambda path: (-todo[path].size, path))
    limits = {path: LIMIT_SECONDS + todo[path].size / LIMIT_BYTES_PER_SECOND for path in order}
    on_cluster = execution is not None and execution.address != "local"
    far = [path for path in order if is_remote(path)] if on_cluster else []
    near = [path for path in order if path not in set(far)]
    saved = time.monotonic()
    try:
        with track(len(todo), "ingest: looking into files", "files") as progress:
            answers = [run_supervised(look_into, near, limits, workers or _cores())] if near else []
            if execution and far:
                longest = max(limits[path] for path in far)
                answers.append(_on_cluster(far, execution, longest, progress.message))
            for path, answer, failure in chain.from_iterable(answers):
                found[path], lasting = answer or (Probe(bytes=max(0, todo[path].size), error=failure), True)
                if lasting:
                    cache.remember(path, todo[path], found[path])
                if time.monotonic() - saved > SAVE_SECONDS:
                    cache.save()
                    saved = time.monotonic()
                progress.advance()
    finally:
        cache.save()
    return found


def _on_cluster(
    paths: Sequence[str], execution: ExecutionParams, limit_seconds: float, tell: Callable[[str], None]
) -> Iterator[tuple[str, tuple[Probe, bool] | None, str | None]]:
    """Look into remote files, the largest first, on a cluster's nodes; answers are `run_supervised`'s."""
    from vadclip.pool.pool import Pool  # Ray takes seconds, and local files do without

    on_cpus = execution.model_copy(
        update={"gpus_per_actor": 0.0, "max_attempts": ATTEMPTS, "stall_seconds": limit_seconds}
    )
    with Pool(ProbeWorker, on_cpus) as pool:
        for outcome in pool.run(paths, tell=tell):
            yield outcome.task, outcome.result, outcome.error


class ProbeWorker:
    """Looks into files on a node, under the limits that a process of this machine has."""

    def __init__(self, files: Mapping[str, str]) -> None:
        limit_memory()

    def run(self, path: str, beat: Beat) -> tuple[Probe, bool]:
        """Look into one file; a sign of life comes with each part of it that arrives."""
        return look_into(path, lambda: beat(0))


def look_into(path: str, beat: Callable[[], None] = lambda: None) -> tuple[Probe, bool]:
    """Hash and probe one file; the flag says whether the finding is the file's own and worth remembering.

    Raises InputError where the fault is this machine's, such as a missing package or credentials.
    """
    name = path.rsplit("/", 1)[-1]
    known = Probe()
    try:
        with _local_copy(path, beat) as local:
            known = replace(known, bytes=os.path.getsize(local), content_hash=sha256_file(Path(local)))
            if name.endswith(".npy"):
                rows, width = feature_shape(local)
                return replace(known, num_frames=rows * SNIPPET_FRAMES, width=width), True
            return replace(known, **asdict(probe(local))), True
    except VideoError as error:
        return replace(known, error=_without_path(error, path)), True
    except InputError:
        raise
    except OSError as error:  # a disk or a network that may be back next time
        return replace(known, error=f"it cannot be read ({error.strerror or type(error).__name__})"), False
    except MemoryError:
        return replace(known, error="looking into it needs more memory than a video does"), True
    except Exception as error:  # a decoder raises what it likes, and one file must not stop the others
        return replace(known, error=f"{type(error).__name__}: {_without_path(error, path)}"), False


def _without_path(error: Exception, path: str) -> str:
    """The message on one line, equal on every machine."""
    return " ".join(str(error).replace(path, path.rsplit("/", 1)[-1]).split())


@contextmanager
def _local_copy(path: str, beat: Callable[[], None]) -> Iterator[str]:
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "copy")
        download(path, Path(local), beat=lambda amount: beat())
        yield local


def _identify(path: str, remote: Mapping[str, Identity | OSError]) -> Identity | Probe:
    """Return a file's identity, or a finding that needs no look into it."""
    try:
        if is_remote(path):
            identity = remote[path]
            if isinstance(identity, OSError):
                raise identity
        else:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise IsADirectoryError(path)
            identity = Identity(size=status.st_size, stamp=str(status.st_mtime_ns))
    except FileNotFoundError:
        return Probe(error=MISSING)
    except IsADirectoryError:
        return Probe(error="it is a folder or a device, not a file")
    except OSError as error:
        return Probe(error=f"it cannot be read ({error.strerror or type(error).__name__})")
    except UnicodeEncodeError:
        return Probe(error=UNWRITABLE_NAME)
    if identity.size == 0:
        return Probe(error="the file is empty", content_hash=hashlib.sha256().hexdigest())
    return identity


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
