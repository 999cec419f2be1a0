"""A real Ray cluster on this machine, and workers that go wrong there.

Its nodes lack this package and, where the machine lets a process hide a folder, the project's folder.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from vadclip.extract.encode import Extracted
from vadclip.extract.units import Unit
from vadclip.extract.worker import ExtractWorker

# Nodes run this at each start of Python: the package is as good as not installed, unless Ray brought it.
HIDE = """
import sys
class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "vadclip" and not any("py_modules_files" in folder for folder in sys.path):
            raise ModuleNotFoundError("No module named 'vadclip'", name=name)
sys.meta_path.insert(0, Hidden)
"""


class Nodes:
    """The cluster: a head without CPUs, where drivers connect, and nodes of one CPU each.

    If `project` is `hidden`, that folder is empty for the nodes: they do not see a stage that works there.
    """

    def __init__(self, folder: Path, project: Path, *, hidden: bool) -> None:
        self.folder, self.project, self.hidden = folder, project, hidden
        (folder / "hide").mkdir()
        (folder / "hide" / "sitecustomize.py").write_text(HIDE)
        self.cluster = self._patiently(
            lambda: Cluster(initialize_head=True, head_node_args=self._node(num_cpus=0))
        )
        self.address: str = self.cluster.address
        for _ in range(3):
            self.add()

    def add(self, **resources: float) -> str:
        """Start a node; return its id."""
        node = self._patiently(lambda: self.cluster.add_node(**self._node(**{"num_cpus": 1, **resources})))
        return str(node.node_id)

    @staticmethod
    def _patiently(start: Callable[[], Any]) -> Any:
        """Start again what Ray gives up on after 30 s: on a busy machine that is short."""
        for _ in range(3):
            try:
                return start()
            except Exception as error:
                if "timed out during startup" not in str(error):
                    raise
        return start()

    def remove(self, node_id: str, *, orderly: bool) -> None:
        """Take a node away: as an operator does, or as when its machine loses power."""
        [node] = [node for node in self.cluster.worker_nodes if node.node_id == node_id]
        self.cluster.remove_node(node, allow_graceful=orderly)

    @property
    def ids(self) -> set[str]:
        """Nodes with CPUs."""
        return {node.node_id for node in self.cluster.worker_nodes}

    def _node(self, **resources: float) -> dict[str, Any]:
        # A HOME and a place for temporary files of its own, as nodes have that are machines.
        own = self.folder / f"node{len(list(self.folder.glob('node*')))}"
        own.mkdir()
        environment = {"PYTHONPATH": str(self.folder / "hide"), "TMPDIR": str(own), "HOME": str(own)}
        # The token that the driver has, as every node of a cluster must: it lies in the driver's HOME.
        environment["RAY_AUTH_TOKEN_PATH"] = os.path.expanduser("~/.ray/auth_token")
        return {
            **resources,
            "object_store_memory": 80 * 2**20,
            "include_dashboard": False,
            "env_vars": environment,
        }


def hiding_command(folder: Path) -> list[str]:
    """Return what, put before a command, makes `folder` empty for it; nothing if the machine forbids that."""
    hide = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        tried = shutil.which("unshare") and subprocess.run(
            [*unshare, *hide, "true"], capture_output=True, check=False
        )
        if tried and tried.returncode == 0:
            return [*unshare, *hide]
    return []


@contextmanager
def running_cluster(folder: Path) -> Iterator[Nodes]:
    """Start a cluster, and work in a folder from which its nodes cannot import either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("PYTHONPATH", raising=False)
        project = folder / "project"
        project.mkdir()
        hiding, start = hiding_command(project), services.start_ray_process

        def start_apart(command: list[str], process_type: str, *more: Any, **settings: Any) -> Any:
            before = hiding if process_type == PROCESS_TYPE_RAYLET else []
            return start([*before, *command], process_type, *more, **settings)

        patch.setattr(services, "start_ray_process", start_apart)
        nodes = Nodes(folder, project, hidden=bool(hiding))
        try:
            yield nodes
        finally:
            ray.shutdown()
            nodes.cluster.shutdown()


def first_time(notes: Path, name: str, text: str = "") -> bool:
    """Leave a note; say whether it is the first of that name."""
    temporary = notes / f".{os.getpid()}"
    temporary.write_text(text)
    try:
        os.link(temporary, notes / name)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def until(path: Path, beat: Callable[[float], None]) -> None:
    """Wait for a file, alive."""
    while not path.exists():
        time.sleep(0.05)
        beat(0)


def here() -> str:
    """The node that this runs on."""
    return ray.get_runtime_context().get_node_id()


class Errands:
    """Runs tasks that are words; what it does is in the word."""

    def __init__(self, notes: Path, files: Mapping[str, str]) -> None:
        self.notes, self.files = notes, files

    def run(self, word: str, beat: Callable[[float], None]) -> Any:
        """`meet N ...`: wait until workers of N nodes are here; return the node."""
        what, *more = word.split()
        (self.notes / "at work").mkdir(parents=True, exist_ok=True)
        (self.notes / "at work" / f"{here()} {os.getpid()}").touch()
        if what == "meet":
            while len({path.name.split()[0] for path in (self.notes / "at work").iterdir()}) < int(more[0]):
                time.sleep(0.05)
                beat(0)
        if what == "wait":
            until(self.notes / more[0], beat)
        if what == "look":
            return Path(more[0]).exists()
        if what == "read":
            copy = self.files[more[0]]
            return copy, Path(copy).read_bytes(), __import__("vadclip").__file__
        return here()


class Sabotaged:
    """The real worker, but for what the ids of videos say."""

    def __init__(self, notes: Path, *worker: object) -> None:
        self.notes, self.worker = notes, ExtractWorker(*worker)

    def run(self, unit: Unit, beat: Callable[[float], None]) -> Extracted:
        """Run one unit, unless a video in it does harm."""
        for part in unit.slices:
            name = part.video_id
            if name.startswith("poison"):
                os._exit(1)
            if name.startswith("stuck"):
                ctypes.PyDLL(None).sleep(1000)  # keeps the GIL
            if name.startswith("killed") and first_time(self.notes, name):
                os.kill(os.getpid(), signal.SIGKILL)
            if name.startswith("lost"):
                told = "node joined"
                if first_time(self.notes, "node to remove", here()):
                    told = "never"
                until(self.notes / told, beat)
        return self.worker.run(unit, beat)
