"""An S3 server on loopback, in a process of its own: `python s3_server.py`, which prints its address.

It is moto's, behind a lock: a real store checks a condition and writes in one step, moto alone does not.
"""

import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server


class OneRequestAtATime:
    def __init__(self) -> None:
        self._app, self._lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            return list(self._app(environ, start_response))


class Quiet(MotoRequestHandler):
    def log(self, *arguments: Any) -> None:
        """Print nothing."""


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, OneRequestAtATime(), threaded=True, request_handler=Quiet)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
