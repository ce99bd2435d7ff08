"""A proxy on loopback that does to an S3 server's answers what networks do.

Faults are drawn by a seeded generator: ``error`` answers 500 and forwards nothing, ``slow`` waits,
``cut`` ends the connection in the middle of an answer's body, ``lost`` lets the server do what it
was asked and ends the connection without an answer.
"""

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_S = 0.1
FAULTS = ("error", "slow", "cut", "lost")
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Proxy:
    """A running proxy: where it is, what it does, and what it did.

    Attributes
    ----------
    endpoint : str
    chances : dict of str to float
        Of each fault, per request; may be changed while it runs.
    done : Counter
        Faults by kind, and ``requests``.
    seen : list of bytes
        Headers and bodies that passed, if `record` is set.
    """

    endpoint: str
    chances: dict[str, float]
    done: Counter = field(default_factory=Counter)
    record: bool = False
    seen: list[bytes] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, method: str) -> str:
        """Return the fault of the next request; only answers with a body can be cut."""
        with self._lock:
            self.done["requests"] += 1
            at = self._random.random()
            for fault, chance in self.chances.items():
                if at < chance and not (fault == "cut" and method != "GET"):
                    self.done[fault] += 1
                    return fault
                at -= chance
        return ""


class Handler(BaseHTTPRequestHandler):
    """Passes one request on, or does not."""

    proxy: Proxy
    upstream: tuple[str, int]
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        if self.proxy.record:
            self.proxy.seen += [str(self.headers).encode(), body or b""]
        fault = self.proxy.draw(self.command)
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault == "error":
            self.answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
            return
        try:
            status, headers, content = self.ask(body)
        except OSError:  # the server is down: so is the proxy
            self.hang_up()
            return
        if fault == "lost":
            self.hang_up()
        elif fault == "cut" and len(content) > 1:
            self.answer(status, headers, content, upto=len(content) // 2)
            self.hang_up()
        else:
            self.answer(status, headers, content)

    def ask(self, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        server = http.client.HTTPConnection(*self.upstream, timeout=60)
        try:
            # The Host header is part of the signature: it is passed on as it came.
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                server.putheader(name, value)
            server.endheaders(body)
            found = server.getresponse()
            content = found.read()
            return found.status, dict(found.getheaders()), content
        finally:
            server.close()

    def answer(
        self, status: int, headers: dict[str, str], content: bytes, upto: int | None = None
    ) -> None:
        self.send_response(status)
        length = headers.get("Content-Length", str(len(content)))
        for name, value in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:upto])

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


for _verb in ("GET", "PUT", "POST", "DELETE", "HEAD"):
    setattr(Handler, f"do_{_verb}", Handler.forward)


class Server(ThreadingHTTPServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that hung up is no news."""


@contextmanager
def faulty(upstream: str, chances: Mapping[str, float] | None = None) -> Iterator[Proxy]:
    """Run a proxy before the server at `upstream`, ``http://127.0.0.1:8333``."""
    host, port = upstream.removeprefix("http://").split(":")
    proxy = Proxy("", dict(chances or {}))

    bound = type("Bound", (Handler,), {"proxy": proxy, "upstream": (host, int(port))})
    server = Server(("127.0.0.1", 0), bound)
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
