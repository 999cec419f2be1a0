"""The Ray that a pool runs on, this machine's own or a cluster's: its nodes, and how many actors fit on them.

The code of this package travels to a cluster's nodes, which then need its requirements only. Weights travel
as `node_files`.
"""

import logging
import math
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

import vadclip
from vadclip.config import ExecutionParams
from vadclip.errors import InputError

_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_FORGIVE_SECONDS = 120.0
_OBJECT_STORE_BYTES = 100 * 2**20  # Ray's least is 75 MiB
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_LONGEST_FOLDER = 107 - 69  # a socket's path has 107 bytes at most, and Ray's own part of it 69
_MOST_ASKED = 1000  # actors that an autoscaler is asked to make room for; its own bounds are far below
_NOT_CODE = ["__pycache__", "*.safetensors"]


@dataclass(frozen=True)
class Node:
    """A live node, as Ray knows it."""

    name: str
    address: str
    port: int
    cpus: float
    gpus: float

    def room(self, execution: ExecutionParams) -> int:
        """How many actors fit on the node while nothing else is there."""
        shares = [self.cpus / execution.cpus_per_actor]
        if execution.gpus_per_actor:
            # A fraction must fit one GPU: two GPUs with 0.4 free each do not make room for 0.8.
            per_gpu = 1 / execution.gpus_per_actor
            shares.append(self.gpus * (math.floor(per_gpu + 1e-9) if per_gpu > 1 else per_gpu))
        return math.floor(min(shares) + 1e-9)

    def answers(self) -> bool:
        """Whether Ray's own process on the node accepts a connection."""
        try:
            socket.create_connection((self.address, self.port), timeout=_ANSWER_SECONDS).close()
        except OSError:
            return False
        return True


class Cluster:
    """Use as a context manager: Ray is connected within; what this did not start it does not end.

    Raises InputError if there is no cluster at the address.
    """

    def __init__(self, execution: ExecutionParams, result_bytes: int = 0) -> None:
        self._execution, self._result_bytes = execution, result_bytes
        self._connected_here = False
        self.local = False
        """Whether all actors run on this machine, and so see its files."""
        self._there: dict[str, Node] = {}
        self._looked_at = 0.0
        self._asked_for = 0
        self._silent_since: dict[str, float] = {}
        """Nodes that gave no answer; Ray itself takes up to a minute to count them as dead."""

    def __enter__(self) -> "Cluster":
        if not ray.is_initialized():
            self._connect()
        self._there = self._look()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._connected_here:
            ray.shutdown()

    @property
    def room(self) -> int:
        """How many actors fit at all, whoever else uses the cluster now."""
        return sum(node.room(self._execution) for node in self._there.values())

    def news(self) -> list[str]:
        """Look up the nodes, at most once a second; return a line for each one that came or went."""
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return []
        before, self._there = self._there, self._look()
        self._looked_at = time.monotonic()
        lines = []
        for node_id in before.keys() ^ self._there.keys():
            node = (before | self._there)[node_id]
            if node.room(self._execution) > 0:
                what = "is gone, its work starts again elsewhere" if node_id in before else "joined"
                lines.append(f"node {node.name} {what}; room for {self.room} workers now")
        return lines

    def ask_for(self, actors: int) -> None:
        """Tell the cluster's autoscaler, if it has one, how many actors there is work for; 0 takes it back.

        It would see actors that wait in Ray's queue, but the pool starts none that has no place yet.
        """
        actors = min(actors, _MOST_ASKED)
        if self.local or actors == self._asked_for:
            return
        shape = {"CPU": self._execution.cpus_per_actor, "GPU": self._execution.gpus_per_actor}
        request_resources(bundles=[{name: share for name, share in shape.items() if share}] * actors)
        self._asked_for = actors

    def lost(self, node_id: str) -> bool:
        """Whether a node died or is out of reach, so that what ran there ended by no fault of its own."""
        node = self._look().get(node_id)
        if node is not None and not node.answers():
            self._silent_since[node_id] = time.monotonic()
            node = None
        if node is None:
            self._looked_at = 0.0  # the next look tells of it
        return node is None

    def name(self, node_id: str) -> str:
        """Return what people call a node."""
        node = self._there.get(node_id)
        return node.name if node else node_id[:8]

    def situation(self) -> str:
        """What was asked, what is there, what to do."""
        asked = self._execution
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        kinds = Counter(f"{node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in self._there.values())
        nodes = "; ".join(f"{count} nodes of {kind}" if count > 1 else kind for kind, count in kinds.items())
        return (
            f"asked: {asked.actors or 'any number of'} actors of {asked.cpus_per_actor:g} CPUs and "
            f"{asked.gpus_per_actor:g} GPUs each; there: {nodes or 'no nodes'}; free of that: "
            f"{free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs. Lower execution.actors, "
            "cpus_per_actor or gpus_per_actor, or add nodes"
        )

    def _look(self) -> dict[str, Node]:
        now = time.monotonic()
        self._silent_since = {
            node_id: since for node_id, since in self._silent_since.items() if now - since < _FORGIVE_SECONDS
        }
        table: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return {
            row["NodeID"]: Node(
                name=row["NodeManagerHostname"],
                address=row["NodeManagerAddress"],
                port=row["NodeManagerPort"],
                cpus=row["Resources"].get("CPU", 0.0),
                gpus=row["Resources"].get("GPU", 0.0),
            )
            for row in table
            if row["Alive"] and row["NodeID"] not in self._silent_since
        }

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self._execution.address
        self.local = address == "local"
        settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.local:
            cores = (os.cpu_count() or 1) / self._execution.cpus_per_actor
            actors = self._execution.actors or math.ceil(cores)
            # One result per actor may wait; one is being read, and one is on its way.
            store_bytes = max(_OBJECT_STORE_BYTES, (actors + 2) * self._result_bytes)
            settings |= {"include_dashboard": False, "object_store_memory": store_bytes, **_socket_folder()}
        else:
            code = str(Path(vadclip.__file__).parent)
            settings["runtime_env"] = {"py_modules": [code], "excludes": _NOT_CODE}
        handler = signal.getsignal(signal.SIGTERM)
        host, colon, port = address.rpartition("://")[2].rpartition(":")
        try:
            if colon:  # Ray itself would try for more than a minute
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            ray.init(address, **settings)
        except (OSError, ValueError, RuntimeError, RayError) as error:
            reason = " ".join(str(error).split())[:300]
            if self.local:
                advice = _local_needs() or "its logs may say more"
                raise InputError(f"Ray does not start on this machine ({reason}); {advice}") from None
            token = "" if "RAY_AUTH_MODE" in os.environ else "set RAY_AUTH_MODE=token if it has a token, "
            raise InputError(
                f"no Ray cluster to use at {address!r} ({reason}): start it, {token}or unset RAY_ADDRESS and "
                "execution.ray_address to use this machine alone"
            ) from None
        self._connected_here = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray put its own there


def _socket_folder() -> dict[str, str]:
    """Return Ray's setting of another temporary folder, where sockets in the usual one cannot be opened."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    for folder in (usual, *_SHORT_FOLDERS):
        if len(os.fsencode(folder)) <= _LONGEST_FOLDER and os.access(folder, os.W_OK):
            return {} if folder == usual else {"_temp_dir": f"{folder}/ray"}
    raise InputError(
        f"Ray does not start on this machine: its sockets need a temporary folder that can be written and "
        f"has a path of at most {_LONGEST_FOLDER} bytes, and {usual} is none: set RAY_TMPDIR to one"
    )


def _local_needs() -> str:
    home = os.path.expanduser("~")
    if os.path.isdir(home) and os.access(home, os.W_OK):
        return ""
    return f"it keeps a token in HOME, and {home} cannot be written: set HOME to a folder that can"
