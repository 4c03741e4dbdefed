"""A reverse proxy that shows a server below a sub-path, as nginx does with proxy_pass http://HOST:PORT/."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding")
PIECE = 2**16


@contextmanager
def running_proxy(target: str, sub_path: str) -> Iterator[str]:
    """Pass requests below `sub_path` on to `target` without it, and all others nowhere; gives the page's address."""
    authority = urlsplit(target).netloc

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.close_connection = True
            self.raw_requestline = self.rfile.readline(PIECE)
            if not self.raw_requestline or not self.parse_request():
                return
            if not self.path.startswith(f"{sub_path}/"):
                self.send_error(404, "beside the sub-path")
                return
            upstream = http.client.HTTPConnection(authority, timeout=60)
            try:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {
                    name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
                }
                upstream.request(self.command, self.path.removeprefix(sub_path), body, headers)
                self._pass_back(upstream.getresponse())
            except OSError:  # the browser has left
                return
            finally:
                upstream.close()

        def _pass_back(self, answer: http.client.HTTPResponse) -> None:
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while piece := answer.read1(PIECE):  # as it comes: frames and events are streams
                self.wfile.write(piece)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{sub_path}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
