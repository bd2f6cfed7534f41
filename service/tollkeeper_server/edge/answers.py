"""Outcomes as Envoy's ext_authz has them."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf.struct_pb2 import Struct, Value
from google.rpc import code_pb2, status_pb2

from tollkeeper_server.core.key import Key
from tollkeeper_server.edge.credentials import CookieSource, HeaderSource, QuerySource
from tollkeeper_server.edge.http_request import HttpRequest
from tollkeeper_server.edge.outcome import Outcome, answer_of, limit_headers

Headers = Iterable[tuple[str, str]]

_OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_OK = status_pb2.Status(code=code_pb2.OK)
_DENIED = status_pb2.Status(code=code_pb2.PERMISSION_DENIED)
_UNAVAILABLE = status_pb2.Status(code=code_pb2.UNAVAILABLE)

_ERROR_RESPONSE_TAG = bytes([5 << 3 | 2])
"""``CheckResponse.error_response``, which is younger than the messages that this gRPC release comes with."""


def allowed(outcome: Outcome, request: HttpRequest, *, now: datetime) -> external_auth_pb2.CheckResponse:
    """The request goes on, without its API key and with what the upstream may know of the key."""
    assert outcome.key is not None, "what is allowed was proven"
    identity = identity_headers(outcome.key, reservation_id=outcome.reservation_id)
    headers = [(name, value) for name, value in identity if value]
    remove = [name for name, value in identity if not value]
    remove += [source.name for source in outcome.used if isinstance(source, HeaderSource)]
    cookies = {source.name for source in outcome.used if isinstance(source, CookieSource)}
    if cookies:
        kept = "; ".join(cookie for cookie in request.cookies() if cookie.partition("=")[0] not in cookies)
        if kept:
            headers.append(("cookie", kept))
        else:
            remove.append("cookie")
    ok = external_auth_pb2.OkHttpResponse(
        headers=_options(headers),
        headers_to_remove=remove,
        response_headers_to_add=_options(limit_headers(outcome, now=now)),
        query_parameters_to_remove=[source.name for source in outcome.used if isinstance(source, QuerySource)],
    )
    return external_auth_pb2.CheckResponse(status=_OK, ok_response=ok, dynamic_metadata=_metadata(outcome))


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


def identity_headers(key: Key, *, reservation_id: str) -> Sequence[tuple[str, str]]:
    """What the upstream is told of the key. What a client sends under these names is never believed."""
    return (
        ("x-tollkeeper-key-id", key.key_id),
        ("x-tollkeeper-tenant-id", key.tenant_id),
        ("x-tollkeeper-owner-id", key.owner_id),
        ("x-tollkeeper-permissions", ",".join(key.permissions)),
        ("x-tollkeeper-reservation-id", reservation_id),
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
    """For access logs: namespace ``envoy.filters.http.ext_authz``."""
    fields = {"code": outcome.code.value, "profile": outcome.profile.name, "request_id": outcome.request_id}
    if outcome.key is not None:
        fields["key_id"] = outcome.key.key_id
        fields["tenant_id"] = outcome.key.tenant_id
        if outcome.key.owner_id:
            fields["owner_id"] = outcome.key.owner_id
    return Struct(fields={name: Value(string_value=text) for name, text in fields.items()})
