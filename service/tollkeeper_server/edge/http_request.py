"""What Envoy tells of an HTTP request, read the same way however Envoy is set to send it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import attribute_context_pb2

from tollkeeper_server.api.fields import REQUEST_ID_PATTERN

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""Stands for what a client sent and is not UTF-8. No API key is like it, so that a verification calls it invalid."""

_PORT = re.compile(r":[0-9]*\Z")
_request_id = re.compile(REQUEST_ID_PATTERN).fullmatch


class HttpRequest:
    """One request of an end client: what it asks for, with which headers, from where."""

    __slots__ = ("_joined", "_separate", "body", "host", "method", "path", "peer", "query")

    def __init__(self, attributes: attribute_context_pb2.AttributeContext) -> None:
        http = attributes.request.http
        self.method: str = http.method
        self.host: str = _PORT.sub("", http.host).lower()
        """Without port, in lower case."""
        self.body: bytes = http.raw_body or http.body.encode()
        """Empty unless Envoy is set to send it."""
        self.path, _, self.query = http.path.partition("?")
        self.peer: str = attributes.source.address.socket_address.address
        """Address that the connection to Envoy came from."""
        self._separate = _by_name(http.header_map) if http.HasField("header_map") else None
        self._joined: Mapping[str, str] = http.headers

    def values(self, name: str) -> Sequence[str]:
        """All values of the header ``name`` (in lower case), in order; UNREADABLE for those that are not UTF-8.

        Envoy joins repeated headers by commas: all of them, or with raw headers still some. So a comma always parts two
        values here.
        """
        lines = self._lines(name)
        if not any("," in line for line in lines):
            return lines
        return [value.strip(" \t") for line in lines for value in line.split(",")]

    def query_values(self, name: str) -> Iterator[str]:
        """All values of the query parameter ``name``, decoded; UNREADABLE for those that are not UTF-8.

        Envoy takes parameters out by their literal name, so one whose name is spelled otherwise is UNREADABLE too.
        """
        if not self.query:
            return
        for pair in self.query.partition("#")[0].split("&"):
            spelling, _, value = pair.partition("=")
            if spelling == name:
                yield decoded(value.replace("+", " "))
            elif decoded(spelling.replace("+", " ")) == name:
                yield UNREADABLE

    def cookies(self) -> list[str]:
        """All cookies as ``name=value``, in order."""
        return [pair.strip(" \t") for line in self._lines("cookie") for pair in line.split(";") if pair]

    def _lines(self, name: str) -> Sequence[str]:
        """The header as it came. Few are ever looked at, so the others are not decoded."""
        if self._separate is None:
            line = self._joined.get(name)
            return () if line is None else (line,)
        headers = self._separate.get(name, ())
        return [readable(header.raw_value) if header.raw_value else header.value for header in headers]

    @property
    def request_id(self) -> str:
        """The id under which Envoy knows the request; empty if it is not one."""
        values = self.values("x-request-id")
        return values[0] if len(values) == 1 and _request_id(values[0]) else ""


def decoded(encoded: str) -> str:
    """Text behind percent-encoding; UNREADABLE if it is not UTF-8."""
    if "%" not in encoded:
        return encoded
    return readable(unquote_to_bytes(encoded))


def readable(value: bytes) -> str:
    """The text; UNREADABLE if it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return UNREADABLE


def _by_name(headers: base_pb2.HeaderMap) -> dict[str, list[base_pb2.HeaderValue]]:
    by_name: dict[str, list[base_pb2.HeaderValue]] = {}
    for header in headers.headers:
        by_name.setdefault(header.key, []).append(header)
    return by_name
