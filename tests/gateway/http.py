"""Requests byte for byte, as no HTTP library would send them."""

import http.client
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

Headers = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value of a header; None if it is not there."""
        values = [value for header, value in self.headers if header.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        """The body."""
        return orjson.loads(self.body)


def ask(
    port: int, path: str | bytes, *, host: str, method: str = "GET", headers: Headers = (), body: bytes = b""
) -> Answer:
    """Send one request over a connection of its own. Nothing of it is checked or encoded."""
    lines = [b" ".join([method.encode(), _bytes(path), b"HTTP/1.1"]), b"host: " + host.encode()]
    lines += [name.encode() + b": " + _bytes(value) for name, value in headers]
    lines += [b"content-length: %d" % len(body), b"connection: close", b"", body]
    with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
        connection.sendall(b"\r\n".join(lines))
        with http.client.HTTPResponse(connection, method=method) as response:
            response.begin()
            return Answer(response.status, response.getheaders(), response.read())


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
