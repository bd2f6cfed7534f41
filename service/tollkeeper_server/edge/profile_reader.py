"""Reads profiles from YAML: the format, and every rule that a profile has to keep."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tollkeeper_server.core.credential import PREFIX_DEFAULT, PREFIX_PATTERN, length_bounds
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.limits import AMOUNT_MAX
from tollkeeper_server.edge.credentials import CookieSource, HeaderSource, KeyShape, QuerySource, Source
from tollkeeper_server.edge.document import (
    Read,
    Section,
    Value,
    boolean,
    integer,
    mapping,
    matching,
    one_of,
    read_document,
    sequence,
    text,
)
from tollkeeper_server.edge.profile import (
    CREATION_CODES,
    CREATION_NUMBERS,
    CREATION_PLACEHOLDERS,
    PLACEHOLDER_NUMBERS,
    PLACEHOLDERS,
    Answer,
    EdgeCode,
    Figure,
    LimitHeader,
    LimitHeaders,
    OutcomeCode,
    Profile,
)
from tollkeeper_server.edge.routes import ONE_REQUEST, KeyCreation, PathTemplate, Route
from tollkeeper_server.edge.templates import NO_TEXT, BodyTemplate, TemplateError, TextTemplate

_CODES: dict[str, OutcomeCode] = {
    code.value: code for code in (*DecisionCode, *EdgeCode) if code is not DecisionCode.ALLOWED
}
_NO_ITEMS: tuple[Any, ...] = ()
_NO_ENTRIES: Mapping[Any, Any] = {}
_OPTIONAL_CODES = CREATION_CODES | {EdgeCode.UNAVAILABLE}
_JSON = TextTemplate.compile("application/json", known=())
_RESERVED_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "host"})

_name = matching(r"[a-z0-9][a-z0-9-]{0,62}", 'a name of a-z, 0-9 and "-", at most 63 characters')
_tenant = matching(r"[a-z0-9][a-z0-9_-]{0,63}", 'a tenant: 1 to 64 of a-z, 0-9, "_" and "-"')
_host = matching(r"\*|(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*", 'a host name in lower case, "*." and a domain, or "*"')
_token = matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", "a name as HTTP allows it, without spaces and colons")
_method = matching(r"[A-Z]{1,20}", "a method in capitals, as POST")
_prefix = matching(PREFIX_PATTERN.pattern, 'the start of API keys without their last "_", as ila')
_permission = matching(r"[A-Za-z0-9_./:-]{1,64}", 'a permission: 1 to 64 of A-Z, a-z, 0-9, "_", "-", ".", "/" and ":"')
_resource = matching(
    r"[A-Za-z0-9_.*/:-]{1,128}", 'a resource: 1 to 128 of A-Z, a-z, 0-9, "_", "-", ".", "*", "/" and ":"'
)
_unit = matching(r"[a-z0-9_.-]{1,32}", 'a unit: 1 to 32 of a-z, 0-9, "_", "-" and "."')
_limit_figure = matching(
    rf"[a-z0-9][a-z0-9_.-]{{0,63}}\.({'|'.join(Figure)})",
    f"the name of a limit, a dot, and one of {', '.join(Figure)}: as per-minute.remaining",
)
_code = one_of(*_CODES)


def read_profile(path: Path, *, name: str) -> Profile:
    """The profile in ``path``, which faults call ``name``. Raises Faulty with everything that is wrong."""
    return read_document(path, _profile, name=name)


def _profile(value: Value) -> Profile:
    with Section(value) as section:
        profile = Profile(
            name=section.need("profile", _name, ""),
            tenant_id=section.take("tenant", _tenant, ""),
            hosts=section.take("hosts", sequence(_host, at_most=100), _NO_ITEMS),
            sources=section.need("credentials", sequence(_source, at_least=1, at_most=8), _NO_ITEMS),
            key_shape=section.take("key", _key_shape, KeyShape()),
            routes=section.take("routes", sequence(_route, at_least=1, at_most=500), _NO_ITEMS),
            limit_headers=section.take("limit_headers", _limit_headers, LimitHeaders()),
            answers=section.need("answers", _answers, _NO_ENTRIES),
        )
        missing = sorted(CREATION_CODES - profile.answers.keys())
        if missing and any(route.creation for route in profile.routes):
            section.fault(f"keys are created and nothing answers {', '.join(missing)}; add answers", at="answers")
        return profile


def _source(value: Value) -> Source:
    with Section(value) as section:
        header = section.take("header", _token, "")
        scheme = section.take("scheme", _token, "")
        query = section.take("query", _token, "")
        cookie = section.take("cookie", _token, "")
        if sum(map(bool, (header, query, cookie))) != 1:
            section.fault('must have exactly one of "header", "query" and "cookie"')
        if scheme and not header:
            section.fault('only a header has a scheme; remove it, or add "header"', at="scheme")
        if header.lower().startswith("x-tollkeeper-"):
            section.fault("is kept for what Tollkeeper tells the upstream; choose another header", at="header")
    if query:
        return QuerySource(query)
    return CookieSource(cookie) if cookie else HeaderSource(header.lower(), scheme.lower(), header)


def _key_shape(value: Value) -> KeyShape:
    with Section(value) as section:
        return KeyShape(prefix=section.take("prefix", _prefix, ""), length=section.take("length", integer(16, 4096), 0))


def _route(value: Value) -> Route:
    with Section(value) as section:
        path = section.need("path", _path, PathTemplate.compile("/"))
        return Route(
            path=path,
            methods=frozenset(section.take("methods", sequence(_method, at_least=1, at_most=20), _NO_ITEMS)),
            resource=section.take("resource", _template(path.names), NO_TEXT),
            permissions=section.take("permissions", sequence(_permission, at_most=32), _NO_ITEMS),
            charges=section.take("charges", mapping(_unit, integer(0, AMOUNT_MAX), at_most=16), ONE_REQUEST),
            reserve=section.take("reserve", boolean, False),
            creation=section.take("create_key", _creation, None),
        )


def _creation(value: Value) -> KeyCreation | None:
    with Section(value) as section:
        prefix = section.take("prefix", _prefix, PREFIX_DEFAULT)
        shortest, longest = length_bounds(prefix)
        return KeyCreation(
            prefix=prefix,
            length=section.take("length", integer(shortest, longest), 0),
            permissions=section.take("permissions", sequence(_permission, at_most=100), _NO_ITEMS),
            resources=section.take("resources", sequence(_resource, at_most=100), _NO_ITEMS),
            ttl_parameter=section.take("ttl_parameter", _token, ""),
        )


def _path(value: Value) -> PathTemplate:
    try:
        return PathTemplate.compile(text(value))
    except TemplateError as error:
        value.fault(str(error))
        return PathTemplate.compile("/")


def _limit_headers(value: Value) -> LimitHeaders:
    with Section(value) as section:
        shown = section.need("show", mapping(_token, _limit_figure, at_least=1, at_most=32), _NO_ENTRIES)
        return LimitHeaders(
            headers=[_limit_header(name, figure) for name, figure in shown.items() if figure],
            every_answer=section.take("on", one_of("charged", "every_answer"), "charged") == "every_answer",
            unknown=section.take("unknown", _header_text, ""),
        )


def _limit_header(name: str, figure: str) -> LimitHeader:
    limit, _, shown = figure.rpartition(".")
    return LimitHeader(name.lower(), limit, Figure(shown))


def _answers(value: Value) -> Mapping[OutcomeCode, Answer]:
    answers: dict[OutcomeCode, Answer] = {}
    for codes, answer in sequence(_answer, at_least=1, at_most=32)(value):
        for code in codes:
            if code in answers:
                value.fault(f"{code} is answered twice; keep one")
            answers[code] = answer
    missing = [code for code in _CODES if code not in answers and code not in _OPTIONAL_CODES]
    if missing:
        value.fault(f"nothing answers {', '.join(missing)}; add them to the codes of an answer")
    return answers


def _answer(value: Value) -> tuple[Sequence[OutcomeCode], Answer]:
    with Section(value) as section:
        named = section.need("codes", sequence(_code, at_least=1, at_most=len(_CODES)), _NO_ITEMS)
        codes = [_CODES[code] for code in named if code]
        creates = EdgeCode.KEY_CREATED in codes
        if creates and len(codes) > 1:
            section.fault(
                f"{EdgeCode.KEY_CREATED} shares its answer with no other code; give it one of its own", at="codes"
            )
        known, numbers = (CREATION_PLACEHOLDERS, CREATION_NUMBERS) if creates else (PLACEHOLDERS, PLACEHOLDER_NUMBERS)
        body = section.take("body", _body(known, numbers), None)
        headers = section.take("headers", mapping(_token, _template(known), at_most=32), _NO_ENTRIES)
        reserved = sorted(_RESERVED_HEADERS & {name.lower() for name in headers})
        if reserved:
            section.fault(f"{', '.join(reserved)} belong to HTTP itself; remove them", at="headers")
        described = {"content-type": _JSON} if body else {}
        described |= {name.lower(): template for name, template in headers.items()}
        status = section.need("status", integer(200, 299) if creates else integer(400, 599), 0)
    return codes, Answer(status=status, headers=tuple(described.items()), body=body)


def _body(known: Collection[str], numbers: Collection[str]) -> Read[BodyTemplate | None]:
    def read(value: Value) -> BodyTemplate | None:
        try:
            return BodyTemplate.compile(text(value), known=known, numbers=numbers)
        except TemplateError as error:
            value.fault(f"body {error}")
            return None

    return read


def _header_text(value: Value) -> str:
    return matching(r"[\x20-\x7e]{1,256}", "printable ASCII")(value)


def _template(known: Collection[str]) -> Read[TextTemplate]:
    def read(value: Value) -> TextTemplate:
        try:
            return TextTemplate.compile(_header_text(value), known=known)
        except TemplateError as error:
            value.fault(str(error))
            return NO_TEXT

    return read
