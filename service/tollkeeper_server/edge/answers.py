"""Outcomes as Envoy's ext_authz has them."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf.struct_pb2 import Struct, Value
from google.rpc import code_pb2, status_pb2

from tollkeeper_server.core.key import Key
from tollkeeper_server.core.made_once import MadeOnce
from tollkeeper_server.edge.credentials import CookieSource, HeaderSource, QuerySource
from tollkeeper_server.edge.http_request import HttpRequest
from tollkeeper_server.edge.outcome import Outcome, answer_of, limit_headers

Headers = Iterable[tuple[str, str]]

_OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_OK = status_pb2.Status(code=code_pb2.OK)
_DENIED = status_pb2.Status(code=code_pb2.PERMISSION_DENIED)
_UNAVAILABLE = status_pb2.Status(code=code_pb2.UNAVAILABLE)

STARTS_MAX = 4096

_RESERVATION_ID = "x-tollkeeper-reservation-id"
_ERROR_RESPONSE_TAG = bytes([5 << 3 | 2])
"""``CheckResponse.error_response``, which is younger than the messages that this gRPC release comes with."""


class Allowances:
    """Tells Envoy that requests go on, without their API key and with what the upstream may know of it.

    What it tells of a key is encoded once for the key as it is held in memory; what differs from request to request
    follows, and protobuf reads both as one message.
    """

    def __init__(self) -> None:
        self._starts = MadeOnce[bytes](values_max=STARTS_MAX)

    def of(self, outcome: Outcome, request: HttpRequest, *, now: datetime) -> bytes:
        """An encoded CheckResponse."""
        headers, remove = _cookies(outcome, request)
        if outcome.reservation_id:
            headers.append((_RESERVATION_ID, outcome.reservation_id))
        shown = list(limit_headers(outcome, now=now))
        rest = external_auth_pb2.CheckResponse(dynamic_metadata=_struct({"request_id": outcome.request_id}))
        if headers or remove or shown:
            ok = rest.ok_response
            ok.headers.extend(_options(headers))
            ok.headers_to_remove.extend(remove)
            ok.response_headers_to_add.extend(_options(shown))
        told: bytes = rest.SerializeToString()
        return self._start(outcome) + told

    def _start(self, outcome: Outcome) -> bytes:
        key = outcome.key
        assert key is not None, "what is allowed was proven"
        more = outcome.profile.name, tuple(outcome.used), bool(outcome.reservation_id)
        made = self._starts.get(key, *more)
        if made is not None:
            return made
        return self._starts.put(_allowance(key, outcome).SerializeToString(), key, *more)


def _allowance(key: Key, outcome: Outcome) -> external_auth_pb2.CheckResponse:
    """What is told whenever the key is allowed. What a client sends under these names is never believed."""
    identity = (
        ("x-tollkeeper-key-id", key.key_id),
        ("x-tollkeeper-tenant-id", key.tenant_id),
        ("x-tollkeeper-owner-id", key.owner_id),
        ("x-tollkeeper-permissions", ",".join(key.permissions)),
    )
    remove = [name for name, value in identity if not value]
    if not outcome.reservation_id:
        remove.append(_RESERVATION_ID)
    remove += [source.name for source in outcome.used if isinstance(source, HeaderSource)]
    ok = external_auth_pb2.OkHttpResponse(
        headers=_options((name, value) for name, value in identity if value),
        headers_to_remove=remove,
        query_parameters_to_remove=[source.name for source in outcome.used if isinstance(source, QuerySource)],
    )
    return external_auth_pb2.CheckResponse(status=_OK, ok_response=ok, dynamic_metadata=_struct(_facts(outcome)))


def _cookies(outcome: Outcome, request: HttpRequest) -> tuple[list[tuple[str, str]], list[str]]:
    """What becomes of cookies: headers to set, and to remove."""
    used = {source.name for source in outcome.used if isinstance(source, CookieSource)}
    if not used:
        return [], []
    kept = "; ".join(cookie for cookie in request.cookies() if cookie.partition("=")[0] not in used)
    return ([("cookie", kept)], []) if kept else ([], ["cookie"])


def denied(outcome: Outcome, *, now: datetime) -> external_auth_pb2.CheckResponse:
    """The client gets the profile's answer; the request goes nowhere."""
    return external_auth_pb2.CheckResponse(
        status=_DENIED, denied_response=_answer(outcome, now=now), dynamic_metadata=_metadata(outcome)
    )


def undecided(outcome: Outcome, *, now: datetime) -> external_auth_pb2.CheckResponse:
    """As ``denied``, but Envoy counts it as an error: with ``failure_mode_allow`` the request goes on."""
    answer = external_auth_pb2.CheckResponse(denied_response=_answer(outcome, now=now)).SerializeToString()
    response = external_auth_pb2.CheckResponse(status=_UNAVAILABLE, dynamic_metadata=_metadata(outcome))
    response.MergeFromString(_ERROR_RESPONSE_TAG + answer[1:])
    return response


def refused(*, status: int, body: str) -> external_auth_pb2.CheckResponse:
    """An answer in nobody's words, where it is not known whose profile it would be."""
    return external_auth_pb2.CheckResponse(
        status=_DENIED,
        denied_response=external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=status),
            headers=_options([("content-type", "application/json")]),
            body=body,
        ),
    )


def _answer(outcome: Outcome, *, now: datetime) -> external_auth_pb2.DeniedHttpResponse:
    answer = answer_of(outcome, now=now)
    return external_auth_pb2.DeniedHttpResponse(
        status=http_status_pb2.HttpStatus(code=answer.status), headers=_options(answer.headers), body=answer.body
    )


def _options(headers: Headers) -> list[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=_OVERWRITE)
        for name, value in headers
    ]


def _metadata(outcome: Outcome) -> Struct:
    return _struct({**_facts(outcome), "request_id": outcome.request_id})


def _facts(outcome: Outcome) -> dict[str, str]:
    """For access logs: namespace ``envoy.filters.http.ext_authz``. The request's id belongs to it as well."""
    facts = {"code": outcome.code.value, "profile": outcome.profile.name}
    if outcome.key is not None:
        facts["key_id"] = outcome.key.key_id
        facts["tenant_id"] = outcome.key.tenant_id
        if outcome.key.owner_id:
            facts["owner_id"] = outcome.key.owner_id
    return facts


def _struct(texts: Mapping[str, str]) -> Struct:
    return Struct(fields={name: Value(string_value=text) for name, text in texts.items()})
