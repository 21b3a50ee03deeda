"""The page of the Rerun viewer, restricted to this machine.

The page in the rerun-sdk package reports its use to the makers of Rerun, without a setting against it, asks for their latest
release and loads a font from a third party. A Content-Security-Policy makes the browser refuse all of this.
"""

from __future__ import annotations

import contextlib
import http.client
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from urllib.parse import quote

from mtl_perception.errors import ConfigError


class PageServer(ThreadingHTTPServer):
    """Context manager that serves the files of Rerun's page server with a policy against other hosts.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        inner_port: Port of Rerun's page server on `host`.
        data_port: Port of the data on `host`, which the page may connect to.

    Raises:
        ConfigError: The port cannot be used.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, inner_port: int, data_port: int) -> None:
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ConfigError(f"port {port} of this machine cannot be used: {error.strerror}; give another --port") from error
        self.inner = (host, inner_port)
        data = f"http://{host}:{data_port}"
        self.query = f"/?url={quote(f'rerun+{data}/proxy', safe='')}&hide_welcome_screen"
        self.policy = (
            "default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
            f"img-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self' data: blob: {data}"
        )

    def __enter__(self) -> PageServer:
        Thread(target=self.serve_forever, name="page server", daemon=True).start()
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        """Redirect the address without a query to the recording, and copy everything else from Rerun's server."""
        if self.path == "/":
            self.send_response(302)
            self.send_header("Location", self.server.query)
            self.end_headers()
            return
        inner = http.client.HTTPConnection(*self.server.inner, timeout=60)
        with contextlib.closing(inner), contextlib.suppress(ConnectionError):
            inner.request("GET", self.path)
            response = inner.getresponse()
            body = response.read()
            self.send_response(response.status)
            self.send_header("Content-Type", response.getheader("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", self.server.policy)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Print nothing for a request."""
