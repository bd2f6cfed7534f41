"""The API key is found where the profile says, however Envoy sends headers; and two that disagree are none."""

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import attribute_context_pb2
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.api.fields import API_KEY_BYTES_MAX
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.credentials import (
    CookieSource,
    Credential,
    HeaderSource,
    KeyShape,
    QuerySource,
    Source,
    find_credential,
)
from tollkeeper_server.edge.http_request import UNREADABLE, HttpRequest
from tollkeeper_server.edge.routes import unambiguous

BEARER = HeaderSource("authorization", "bearer", "Authorization")
PLAIN = HeaderSource("x-api-key", "", "X-API-Key")
QUERY = QuerySource("api_key")
COOKIE = CookieSource("session")
SOURCES: list[Source] = [BEARER, PLAIN, QUERY, COOKIE]


def request(
    *headers: tuple[str, str | bytes], path: str = "/", raw: bool = False, peer: str = "192.0.2.1"
) -> HttpRequest:
    """A request as Envoy sends it: repeated headers joined by commas, or raw and each for itself."""
    attributes = attribute_context_pb2.AttributeContext()
    attributes.source.address.socket_address.address = peer
    http = attributes.request.http
    http.path, http.host, http.method = path, "API.example.com:8443", "GET"
    if raw:
        http.header_map.headers.extend(
            base_pb2.HeaderValue(key=name, raw_value=value if isinstance(value, bytes) else value.encode())
            for name, value in headers
        )
    else:
        for name, value in headers:
            assert isinstance(value, str)
            http.headers[name] = f"{http.headers[name]},{value}" if name in http.headers else value
    return HttpRequest(attributes)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("headers", "api_key"),
    [
        ([], ""),
        ([("authorization", "Bearer k1")], "k1"),
        ([("authorization", "bearer   k1 ")], "k1"),
        ([("authorization", "Basic k1")], ""),
        ([("authorization", "k1")], ""),
        ([("authorization", "Bearer")], ""),
        ([("authorization", "Bearer ")], ""),
        ([("authorization", "Bearer k1 k2")], "k1 k2"),
        ([("x-api-key", "k1")], "k1"),
        ([("x-api-key", "")], ""),
        ([("authorization", "Basic x"), ("x-api-key", "k1")], "k1"),
        ([("authorization", "Bearer k1"), ("x-api-key", "k1")], "k1"),
        ([("x-api-key", "k1"), ("x-api-key", "k1")], "k1"),
        ([("cookie", "a=b; session=k1; c=d")], "k1"),
        ([("cookie", "xsession=k1")], ""),
    ],
)
def test_the_api_key_is_found_in_its_places(headers: list[tuple[str, str]], api_key: str, raw: bool) -> None:
    found = find_credential(request(*headers, raw=raw), SOURCES)
    assert (found.api_key, found.conflict) == (api_key, False)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ([("authorization", "Bearer k1"), ("x-api-key", "k2")], "/"),
        ([("x-api-key", "k1"), ("x-api-key", "k2")], "/"),
        ([("authorization", "Bearer k1"), ("authorization", "Bearer k2")], "/"),
        ([("authorization", "Bearer k1")], "/?api_key=k2"),
        ([("cookie", "session=k1; session=k2")], "/"),
        ([], "/?api_key=k1&api_key=k2"),
        ([], "/?api_key=k1&api%5Fkey=k2"),
    ],
)
def test_api_keys_that_differ_are_a_conflict(headers: list[tuple[str, str]], path: str, raw: bool) -> None:
    found = find_credential(request(*headers, path=path, raw=raw), SOURCES)
    assert (found.api_key, found.conflict) == ("", True)


@pytest.mark.parametrize(
    ("query", "api_key"),
    [
        ("api_key=k1", "k1"),
        ("a=b&api_key=k%31&c", "k1"),
        ("api_key=a+b", "a b"),
        ("api_key", ""),
        ("xapi_key=k1", ""),
        ("api%5Fkey=k1", UNREADABLE),
        ("api_key=%ff", UNREADABLE),
        ("api_key=k1%00", "k1\0"),
    ],
)
def test_the_api_key_is_read_from_the_query(query: str, api_key: str) -> None:
    assert find_credential(request(path=f"/a?{query}"), [QUERY]).api_key == api_key


def test_what_is_not_utf_8_or_too_long_is_no_api_key_and_no_missing_one() -> None:
    assert find_credential(request(("x-api-key", b"k\xff1"), raw=True), [PLAIN]).api_key == UNREADABLE
    assert find_credential(request(("x-api-key", "k" * 16_384)), [PLAIN]).api_key == UNREADABLE


@given(
    headers=st.lists(
        st.tuples(st.sampled_from(["authorization", "x-api-key", "cookie", "x-forwarded-for"]), st.binary()), max_size=5
    ),
    path=st.text(st.characters(codec="utf-8")),
)
def test_nothing_that_a_client_sends_is_more_than_read(headers: list[tuple[str, bytes]], path: str) -> None:
    """No header and no path raises, and what is found can go on as it is."""
    asked = request(*headers, path=path, raw=True)
    found = find_credential(asked, SOURCES)
    assert not (found.conflict and found.api_key)
    assert len(found.api_key.encode()) <= 4 * API_KEY_BYTES_MAX
    unambiguous(asked.path)
    ClientAddress.parse("x-forwarded-for:2").of(asked)


def test_the_api_key_shows_in_no_representation() -> None:
    assert "secret" not in repr(Credential(api_key="secret"))


@pytest.mark.parametrize(
    ("api_key", "fits"),
    [("ila_" + "x" * 12, True), ("ila_" + "x" * 11, False), ("ilax" + "x" * 12, False), ("tk_" + "x" * 13, False)],
)
def test_a_shape_wants_prefix_and_length(api_key: str, fits: bool) -> None:
    assert KeyShape(prefix="ila", length=16).fits(api_key) is fits


def test_host_and_path_are_told_apart_from_port_and_query() -> None:
    asked = request(path="/a/b?c=/d")
    assert (asked.host, asked.path, asked.query) == ("api.example.com", "/a/b", "c=/d")


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("setting", "headers", "address"),
    [
        ("peer", [("x-envoy-external-address", "6.6.6.6")], "192.0.2.1"),
        ("x-envoy-external-address", [("x-envoy-external-address", "203.0.113.9")], "203.0.113.9"),
        ("x-envoy-external-address", [], None),
        ("x-envoy-external-address", [("x-envoy-external-address", "nonsense")], None),
        ("x-forwarded-for:1", [("x-forwarded-for", "6.6.6.6, 203.0.113.9")], "203.0.113.9"),
        (
            "x-forwarded-for:2",
            [("x-forwarded-for", "6.6.6.6, 203.0.113.9"), ("x-forwarded-for", "10.0.0.1")],
            "203.0.113.9",
        ),
        ("x-forwarded-for:3", [("x-forwarded-for", "203.0.113.9, 10.0.0.1")], None),
    ],
)
def test_the_client_address_is_only_believed_where_it_was_said_to_be(
    setting: str, headers: list[tuple[str, str]], address: str | None, raw: bool
) -> None:
    found = ClientAddress.parse(setting).of(request(*headers, raw=raw))
    assert (None if found is None else str(found)) == address


@pytest.mark.parametrize(
    "setting", ["", "x-real-ip", "x-forwarded-for", "x-forwarded-for:0", "x-forwarded-for:21", "peer "]
)
def test_a_setting_that_names_no_place_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="must be peer"):
        ClientAddress.parse(setting)
