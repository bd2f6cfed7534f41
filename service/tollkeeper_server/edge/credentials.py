"""Where a public API expects the API key, and how it is found there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tollkeeper_server.api.fields import API_KEY_BYTES_MAX
from tollkeeper_server.edge.http_request import UNREADABLE, HttpRequest


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """A header, whose value may start with a scheme as ``Bearer``."""

    name: str
    """In lower case."""
    scheme: str = ""
    """In lower case; empty if the whole value is the API key."""
    shown_as: str = ""
    """The name as the API's documents write it."""

    def find(self, request: HttpRequest) -> Iterator[str]:
        """All API keys there. A value of another scheme is none."""
        for value in request.values(self.name):
            if not self.scheme:
                yield value.strip(" \t")
                continue
            scheme, _, rest = value.lstrip(" \t").partition(" ")
            if scheme.lower() == self.scheme:
                yield rest.strip(" \t")


@dataclass(frozen=True, slots=True)
class QuerySource:
    """A parameter of the query."""

    name: str

    def find(self, request: HttpRequest) -> Iterator[str]:
        """All API keys there."""
        return request.query_values(self.name)


@dataclass(frozen=True, slots=True)
class CookieSource:
    """A cookie."""

    name: str

    def find(self, request: HttpRequest) -> Iterator[str]:
        """All API keys there."""
        start = f"{self.name}="
        return (cookie.removeprefix(start) for cookie in request.cookies() if cookie.startswith(start))


Source = HeaderSource | QuerySource | CookieSource


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyShape:
    """What API keys of a public API look like; others are invalid there, whatever else they are valid for."""

    prefix: str = ""
    """Before the last "_"; empty means any."""
    length: int = 0
    """Characters in all; 0 means any."""

    def fits(self, api_key: str) -> bool:
        """Whether the API key looks like that."""
        if self.length and len(api_key) != self.length:
            return False
        return not self.prefix or api_key.startswith(self.prefix + "_")


@dataclass(frozen=True, slots=True)
class Credential:
    """What was found of API keys in a request."""

    api_key: str = field(default="", repr=False)
    """Empty if there is none."""
    conflict: bool = False
    """There is more than one, and they disagree."""
    used: Sequence[Source] = ()
    """Where it was, to take it out before the request goes on."""


def find_credential(request: HttpRequest, sources: Sequence[Source]) -> Credential:
    """The API key of a request. The same one in several places is one; two that differ are none.

    One that is too long to be an API key becomes UNREADABLE: as invalid, and cheaper to refuse.
    """
    found: set[str] = set()
    used: list[Source] = []
    for source in sources:
        api_keys = [api_key for api_key in source.find(request) if api_key]
        if api_keys:
            used.append(source)
            found.update(api_keys)
    if not found:
        return Credential()
    if len(found) > 1:
        return Credential(conflict=True, used=used)
    (api_key,) = found
    return Credential(api_key=api_key if len(api_key) <= API_KEY_BYTES_MAX else UNREADABLE, used=used)
