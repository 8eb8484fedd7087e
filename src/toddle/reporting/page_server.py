"""A page for one person on this machine, and what is asked and told below it.

It listens on 127.0.0.1 alone, below an address nobody can guess, and answers nobody who came by another name.
"""

from __future__ import annotations

import json
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from toddle.core.errors import InputError

__all__ = ["PageServer", "Reply"]

LONGEST = 4096
"""Bytes of a request's body, at most."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "media-src 'self'; img-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageServer:
    """Serves a page; `url` is its address.  Close it.  A subclass says what is below the page by `get` and `post`."""

    def __init__(self, page: str, port: int = 0) -> None:
        """port 0: any that is free.  Raises InputError where the port is taken."""
        self.page, self.token = page, secrets.token_urlsafe(18)
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Reply,), {"owner": self}))
        except OSError as error:
            raise InputError(f"port {port}: {error.strerror}; choose another, or 0 for any that is free") from None
        self._server.daemon_threads = True
        self.hosts = {f"{name}:{self._server.server_port}" for name in ("127.0.0.1", "localhost")}
        self.url = f"http://127.0.0.1:{self._server.server_port}/{self.token}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def get(self, place: str, reply: Reply) -> bool:
        """Answer what is asked for at `place`; False: there is no such place."""
        return False

    def post(self, place: str, content: Any, reply: Reply) -> bool:
        """Take what is said at `place`, a value of JSON; False, KeyError, ValueError or TypeError: it is refused."""
        return False


class Reply(BaseHTTPRequestHandler):
    """One request, and what answers it."""

    owner: PageServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def _place(self) -> str | None:
        """Return what is asked for below the token, None (and a refusal) where the request is not of the page."""
        head, _, place = self.path.removeprefix("/").partition("/")
        known = secrets.compare_digest(head.encode(), self.owner.token.encode())
        if known and self.headers.get("Host") in self.owner.hosts and (self.path.count("/") > 1):
            return place
        self.send(HTTPStatus.NOT_FOUND, b"")
        return None

    def begin(self, status: int, kind: str, **more: str) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send(self, status: int, body: bytes, kind: str = "text/plain", **more: str) -> None:
        """Send a whole answer."""
        self.begin(status, kind, Content_Length=str(len(body)), **more)
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any, status: int = HTTPStatus.OK) -> None:
        """Send a value as JSON."""
        self.send(status, json.dumps(value).encode(), "application/json")

    def do_GET(self) -> None:
        """Answer with the page, or what is below it."""
        place = self._place()
        if place == "":
            self.send(HTTPStatus.OK, self.owner.page.encode(), "text/html; charset=utf-8")
        elif place is not None and not self.owner.get(place, self):
            self.send(HTTPStatus.NOT_FOUND, b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Take what the page says."""
        place = self._place()
        length = self.headers.get("Content-Length", "")
        if place is None:
            self.close_connection = True  # what is left of a body that is refused is not read
            return
        kind = self.headers.get("Content-Type", "")
        if not length.isdecimal() or int(length) > LONGEST or kind != "application/json":
            self.close_connection = True
            self.send(HTTPStatus.BAD_REQUEST, b"")
            return
        try:
            taken = self.owner.post(place, json.loads(self.rfile.read(int(length))), self)
        except (ValueError, KeyError, TypeError, RecursionError):
            taken = False
        if not taken:
            self.send(HTTPStatus.BAD_REQUEST, b"")
