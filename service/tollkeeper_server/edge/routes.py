"""What a request wants, told from its method and path; and which paths are refused because they can mean two things."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tollkeeper_server.edge.http_request import UNREADABLE, decoded
from tollkeeper_server.edge.templates import NO_TEXT, TemplateError, TextTemplate

_AMBIGUOUS = re.compile(
    r"\A(?!/)"  # no path at all
    r"|//|/\.{1,2}(?:/|\Z)"  # empty and dot segments
    r"|[\\;#\x00-\x20\x7f-\U0010ffff]"  # "\" is "/" to some servers, others cut at ";"
    r"|%(?![0-9A-Fa-f]{2})"
)
_HIDDEN = re.compile(r"%(?:25)*(?:2[EeFf]|5[Cc]|3[Bb]|[01][0-9A-Fa-f]|7[Ff])")
"""Encoded ".", "/", "\\", ";" and control characters, be it once or more often."""

_CAPTURED = r"[A-Za-z0-9_.:-]{1,128}"  # never "*" or "/", which mean more than themselves in a resource
_SEGMENT = re.compile(r"\{(?P<name>[a-z][a-z0-9_]*)\}|(?P<any>\*)|(?P<literal>[A-Za-z0-9_.:~@!$&'()+,=-]+)")

ONE_REQUEST: Mapping[str, int] = {"requests": 1}

_ANY_SEGMENT = "[^/]+"
_REST = "/**"


def unambiguous(path: str) -> str | None:
    """The path, decoded; None if those who read it may read it differently, and serve what was not checked.

    Refused are ``.``, ``..`` and empty segments, backslashes, semicolons, control characters, encoded forms of these
    and of ``/``, and what is not percent-encoded UTF-8.
    """
    if _AMBIGUOUS.search(path):
        return None
    if "%" not in path:
        return path
    plain = decoded(path)
    return None if plain == UNREADABLE or _HIDDEN.search(path) or _HIDDEN.search(plain) else plain


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """Paths as ``/v1/{name}/*/**``: a segment with a name, any segment, and at the end any number of segments.

    A "/" at the end of a path makes no difference.
    """

    _pattern: re.Pattern[str]

    @classmethod
    def compile(cls, text: str) -> "PathTemplate":
        """Raises TemplateError if ``text`` is no such path."""
        if not text.startswith("/"):
            raise TemplateError('must start with "/"')
        head, rest = (text.removesuffix(_REST), "(?:/.*)?") if text.endswith(_REST) else (text, "/?")
        segments = [] if head in ("", "/") else head.split("/")[1:]
        pattern = "".join("/" + _segment_pattern(segment) for segment in segments)
        try:
            return cls(re.compile(pattern + rest, re.DOTALL))
        except re.error:
            raise TemplateError("names a segment twice; give each its own name") from None

    @property
    def names(self) -> Sequence[str]:
        """The named segments."""
        return tuple(self._pattern.groupindex)

    def match(self, path: str) -> Mapping[str, str] | None:
        """What the named segments are in ``path``, an unambiguous one; None if it does not match."""
        match = self._pattern.fullmatch(path)
        return None if match is None else match.groupdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCreation:
    """What keys a route creates for those who may create keys."""

    prefix: str
    length: int
    """0 means the default for the prefix."""
    permissions: tuple[str, ...]
    resources: tuple[str, ...]
    ttl_parameter: str
    """Parameter of the query that says how long a key lives, as 12h; empty if they live forever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What requests of some methods to some paths want."""

    path: PathTemplate
    methods: frozenset[str] = frozenset()
    """Empty means every method."""
    resource: TextTemplate = NO_TEXT
    permissions: tuple[str, ...] = ()
    charges: Mapping[str, int] = field(default_factory=lambda: ONE_REQUEST)
    """Amount by unit; empty charges nothing."""
    reserve: bool = False
    """The charge is held for the upstream to settle by what was really used."""
    creation: KeyCreation | None = None
    """Requests are answered with a new key, and go to no upstream."""


ANY_ROUTE = Route(path=PathTemplate.compile("/**"))
"""Where nothing is said of routes: every request, for nothing in particular."""


def first_match(routes: Sequence[Route], *, method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
    """The first route for ``method`` and ``path``, and what its named segments are."""
    for route in routes:
        if route.methods and method not in route.methods:
            continue
        names = route.path.match(path)
        if names is not None:
            return route, names
    return None


def _segment_pattern(segment: str) -> str:
    match = _SEGMENT.fullmatch(segment)
    if match is None:
        raise TemplateError(
            f'has "{segment}" between two "/"; a segment is plain text, "{{name}}" or "*", and "**" stands at the end'
        )
    if match["name"]:
        return f"(?P<{match['name']}>{_CAPTURED})"
    return _ANY_SEGMENT if match["any"] else re.escape(match["literal"])
