"""Places that lineage and metrics are sent to: a real HTTP server on this machine that answers, fails, hangs, or is not there."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Listening:
    """A server that answers with `status`, or never. `heard`: the path and body of each request."""

    url: str
    heard: list[tuple[str, bytes]] = field(default_factory=list)


@contextmanager
def listening(status: int = 200) -> Iterator[Listening]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            place.heard.append((self.path, body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place = Listening(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield place
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def hanging() -> Iterator[Listening]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Listening(f"http://127.0.0.1:{server.getsockname()[1]}")


@contextmanager
def absent() -> Iterator[Listening]:
    """A port that refuses connections: it was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield Listening(f"http://127.0.0.1:{port}")
