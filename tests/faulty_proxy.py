"""A proxy in front of a real S3 server that lets chosen requests go wrong."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from local_stack.servers import LOOPBACK

Fault = Callable[[str, str], str | None]  # method and path to what happens: refused, lost, damaged; or nothing


@contextmanager
def faulty_proxy(url: str, fault: Fault) -> Iterator[str]:
    """Address of a proxy for that server.

    A request that is `refused` gets status 500 and never arrives; one that is `lost` arrives, and its answer is
    status 500; the content of an answer that is `damaged` has its first byte changed.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            what = fault(self.command, self.path)
            if what == "refused":
                return self.answer(500, {}, b"")
            server = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
            server.request(self.command, self.path, content, dict(self.headers))
            found = server.getresponse()
            body = found.read()
            server.close()
            if what == "lost":
                return self.answer(500, {}, b"")
            if what == "damaged":
                body = bytes([body[0] ^ 1]) + body[1:]
            return self.answer(found.status, dict(found.getheaders()), body)

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            length = str(len(body)) if self.command != "HEAD" else headers.get("Content-Length", "0")
            kept = {k: v for k, v in headers.items() if k not in ("Content-Length", "Transfer-Encoding", "Connection")}
            for name, value in {**kept, "Content-Length": length}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # names that the library calls

        def log_message(self, *_: object) -> None:
            """Nothing: the tests look at what happens."""

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}"
        server.shutdown()
