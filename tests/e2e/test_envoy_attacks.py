"""What nobody should send, sent through a real Envoy: refused as documented, and nothing of it reaches the upstream."""

import copy
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from tests.gateway.envoy import Config, connection_manager, ext_authz, virtual_hosts
from tests.gateway.http import Answer
from tests.gateway.stack import PublicApis, another_envoy
from tollkeeper import CreatedKey, Limit

PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
PATH_SETTINGS = ("normalize_path", "merge_slashes", "path_with_escaped_slashes_action")


def by_host(config: Config) -> None:
    """Like a mesh that cannot tell a profile by route: one virtual host, no context_extensions, paths as they come."""
    manager = connection_manager(config, "public")
    for setting in PATH_SETTINGS:
        del manager[setting]
    manager["route_config"]["virtual_hosts"] = [
        {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}]}
    ]


def by_host_with_joined_headers(config: Config) -> None:
    by_host(config)
    ext_authz(config)["encode_raw_headers"] = False


@pytest.fixture(scope="module", params=[by_host, by_host_with_joined_headers])
def plain(apis: PublicApis, request: pytest.FixtureRequest) -> Iterator[PublicApis]:
    """An Envoy that does nothing against odd paths itself, with headers raw or joined."""
    with another_envoy(apis, request.param) as plain:
        yield plain


@pytest.fixture
def key(apis: PublicApis) -> CreatedKey:
    return apis.client.create_key(tenant_id="everywhere", permissions=["read"], resources=["products/a"])


def refused(apis: PublicApis, ask: Callable[[], Answer]) -> Answer:
    """What ``ask`` gets, none of which has reached the upstream."""
    before = len(apis.upstream.received)
    answer = ask()
    assert len(apis.upstream.received) == before
    assert answer.status >= 400
    return answer


def bearer(created: CreatedKey) -> tuple[str, str]:
    return ("authorization", f"Bearer {created.api_key}")


@pytest.mark.parametrize(
    "path",
    [
        *("/api/a/../b", "/api/a/..", "/api/a/%2e%2e/b", "/api/a/.%2E/b", "/api/a%2f..%2fb", "/api/a%2Fb", "/api//b"),
        *("//api/b", "/api/a\\..\\b", "/api/a%5c..%5cb", "/api/a/./b", "/api/a;/../b", "/api/a/..;/b", "/api/a%00"),
        *("/api/a/%252e%252e/b", "/api/a/%25%32%66b", "/api/a%ff", "/api/a/%", "/api/a/b%0d%0ax"),
    ],
)
def test_a_path_that_tries_to_leave_its_resource_is_refused(plain: PublicApis, key: CreatedKey, path: str) -> None:
    answer = refused(plain, lambda: plain.ask("everywhere", path, headers=[bearer(key)]))
    # Some of these are no HTTP at all: those Envoy refuses itself.
    assert answer.status == 400 or (answer.status, answer.header("x-code")) == (418, "PATH_AMBIGUOUS")


def test_the_shipped_envoy_makes_paths_unambiguous_before_they_are_checked(apis: PublicApis) -> None:
    created = apis.client.create_key(tenant_id="ila", prefix="ila", length=76, resources=["a"])
    headers = [("x-api-key", created.api_key)]
    assert refused(apis, lambda: apis.ask("product-slug", "/api/a/../b", headers=headers)).status == 403
    assert refused(apis, lambda: apis.ask("product-slug", "/api/a%2f..%2fb", headers=headers)).status == 400
    assert apis.ask("product-slug", "/api/b/../a", headers=headers).status == 200
    assert apis.upstream.received[-1].path == "/api/a"


def test_nothing_is_unchecked_beside_the_way_to_sign_in(apis: PublicApis) -> None:
    for path in ("/v4/login/../devices", "/v4/login/", "/v4/login/x", "/v4/loginx", "/v4/login%2f..%2fdevices"):
        assert refused(apis, lambda path=path: apis.ask("illumass", path)).status in (400, 401)  # type: ignore[misc]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "get", "CONNECT", "OPTIONS"])
def test_a_method_without_a_route_is_refused(plain: PublicApis, key: CreatedKey, method: str) -> None:
    refused(plain, lambda: plain.ask("everywhere", "/api/a", method=method, headers=[bearer(key)]))


def test_a_client_never_says_who_it_is(apis: PublicApis, plain: PublicApis, key: CreatedKey) -> None:
    spoofed = [
        ("x-tollkeeper-key-id", "key_spoofed"),
        ("X-Tollkeeper-Key-Id", "key_spoofed_again"),
        ("x-tollkeeper-tenant-id", "spoofed"),
        ("x-tollkeeper-owner-id", "spoofed"),
        ("x-tollkeeper-permissions", "admin"),
        ("x-tollkeeper-anything", "spoofed"),
        ("x_tollkeeper_key_id", "spoofed"),
    ]
    assert plain.ask("everywhere", "/api/a", headers=[*spoofed, bearer(key)]).status == 200
    received = plain.upstream.received[-1]
    assert "spoofed" not in str(received.headers)
    assert received.values("x-tollkeeper-key-id") == [key.key.key_id]
    assert received.values("x-tollkeeper-tenant-id") == ["everywhere"]
    assert received.values("x-tollkeeper-owner-id") == []
    assert received.values("x-tollkeeper-permissions") == ["read"]


@pytest.mark.parametrize(
    "place",
    [
        ([("authorization", "Bearer {}")], ""),
        ([("authorization", "bearer {}")], ""),
        ([("x-api-key", "{}")], ""),
        ([("cookie", "a=1; session={}; b=2")], ""),
        ([], "?api_key={}"),
        ([], "?a=1&api_key={}&b=2"),
        ([("authorization", "Bearer {}"), ("x-api-key", "{}"), ("cookie", "session={}")], "?api_key={}"),
        ([("x-api-key", "{}"), ("x-api-key", "{}")], ""),
    ],
)
def test_the_api_key_works_in_each_of_its_places_and_never_reaches_the_upstream(
    plain: PublicApis, key: CreatedKey, place: tuple[list[tuple[str, str]], str]
) -> None:
    headers, query = place
    filled = [(name, value.format(key.api_key)) for name, value in headers]
    answer = plain.ask("everywhere", f"/api/a{query.format(key.api_key)}", headers=filled)
    assert answer.status == 200
    received = plain.upstream.received[-1]
    assert key.api_key not in f"{received.path} {received.headers}"
    assert received.path.count("a=1") == query.count("a=1")
    assert all("a=1; b=2" in value for value in received.values("cookie"))


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ([("authorization", "Bearer {}"), ("x-api-key", "tk_other")], ""),
        ([("authorization", "Bearer {}"), ("authorization", "Bearer tk_other")], ""),
        ([("authorization", "Bearer tk_other"), ("authorization", "Bearer {}")], ""),
        ([("authorization", "Bearer {}")], "?api_key=tk_other"),
        ([("cookie", "session={}; session=tk_other")], ""),
        ([], "?api_key={}&api_key=tk_other"),
        ([], "?api_key={}&api%5fkey={}x"),
    ],
)
def test_api_keys_that_differ_are_refused(
    plain: PublicApis, key: CreatedKey, headers: list[tuple[str, str]], query: str
) -> None:
    filled = [(name, value.replace("{}", key.api_key)) for name, value in headers]
    answer = refused(
        plain, lambda: plain.ask("everywhere", f"/api/a{query.replace('{}', key.api_key)}", headers=filled)
    )
    assert answer.header("x-code") == "CREDENTIALS_CONFLICT"


@pytest.mark.parametrize(
    "suffix", [b"\xff", b"\xc3\xa9", b"%00", b"\t x", b" ", b"," * 3 + b"x", b"'", b"x" * 16_384, b"\x7f"]
)
def test_an_api_key_with_anything_odd_in_it_is_refused(plain: PublicApis, key: CreatedKey, suffix: bytes) -> None:
    headers = [("x-api-key", key.api_key.encode()[:-1] + suffix)]
    answer = refused(plain, lambda: plain.ask("everywhere", "/api/a", headers=headers))
    assert answer.status == 400 or answer.header("x-code") in ("KEY_INVALID", "CREDENTIALS_CONFLICT")


@pytest.mark.parametrize("query", ["api_key=%00", "api_key=%ff", "api_key=%", "api_key=" + "x" * 16_384, "api%5Fkey=x"])
def test_an_odd_api_key_in_the_query_is_refused(plain: PublicApis, query: str) -> None:
    answer = refused(plain, lambda: plain.ask("everywhere", f"/api/a?{query}"))
    assert answer.header("x-code") == "KEY_INVALID"


def test_an_odd_request_id_breaks_no_answer(plain: PublicApis) -> None:
    answer = plain.ask("everywhere", "/api/a", headers=[("x-request-id", '"}, {"')])
    assert set(answer.json) == {"code", "key_id", "request_id"}


def with_context(**extensions: str) -> Callable[[Config], None]:
    """Routes of the API ``conduit`` say this, and nothing else."""

    def change(config: Config) -> None:
        ext_authz(config)["failure_mode_allow"] = True
        (host,) = (host for host in virtual_hosts(config) if host["name"] == "conduit")
        host["domains"] = ["conduit.localhost", "everywhere.localhost"]
        host["typed_per_filter_config"]["envoy.filters.http.ext_authz"] = {
            "@type": PER_ROUTE,
            "check_settings": {"context_extensions": extensions},
        }

    return change


@pytest.mark.parametrize(
    ("extensions", "code"),
    [
        ({"profile": "unknown"}, "PROFILE_UNKNOWN"),
        ({"profile": "Not A Name"}, "CONTEXT_INVALID"),
        ({"profile": "everywhere", "permision": "admin"}, "CONTEXT_INVALID"),
        ({"profile": "everywhere", "permissions": ""}, "CONTEXT_INVALID"),
        ({"profile": "everywhere", "cost": "-1"}, "CONTEXT_INVALID"),
        ({"profile": "everywhere", "cost": "cheap"}, "CONTEXT_INVALID"),
        ({"profile": "everywhere", "resource": "*"}, "CONTEXT_INVALID"),
    ],
)
def test_a_route_that_is_set_up_wrong_lets_nothing_through_even_if_failures_do(
    apis: PublicApis, key: CreatedKey, extensions: dict[str, str], code: str
) -> None:
    with another_envoy(apis, with_context(**extensions)) as wrong:
        answer = refused(wrong, lambda: wrong.ask("everywhere", "/api/a", headers=[bearer(key)]))
    assert (answer.status, answer.json["error"]["code"]) == (403, code)


def test_a_host_without_a_profile_is_refused(plain: PublicApis, key: CreatedKey) -> None:
    answer = refused(plain, lambda: plain.ask("nowhere", "/api/a", headers=[bearer(key)]))
    assert (answer.status, answer.json["error"]["code"]) == (403, "PROFILE_UNKNOWN")


def test_a_route_of_envoy_may_say_what_a_request_is_for_and_costs(apis: PublicApis) -> None:
    def change(config: Config) -> None:
        with_context(profile="everywhere", resource="products/b", permissions="read,write", cost="requests=1,tokens=7")(
            config
        )
        (host,) = (host for host in virtual_hosts(config) if host["name"] == "conduit")
        special = copy.deepcopy(host["routes"][0])
        special["match"] = {"prefix": "/special"}
        special["typed_per_filter_config"] = {
            "envoy.filters.http.ext_authz": {
                "@type": PER_ROUTE,
                "check_settings": {"context_extensions": {"resource": "products/c", "permissions": "read"}},
            }
        }
        host["routes"].insert(0, special)

    limits = [Limit.rate("tokens", 100, timedelta(minutes=1), unit="tokens")]
    create = apis.client.create_key
    reads_b = create(tenant_id="everywhere", permissions=["read"], resources=["products/b"])
    writes_b = create(tenant_id="everywhere", permissions=["read", "write"], resources=["products/b"], limits=limits)
    reads_c = create(tenant_id="everywhere", permissions=["read"], resources=["products/c"], limits=limits)
    with another_envoy(apis, change) as routed:

        def ask(created: CreatedKey, path: str) -> tuple[int, str | None]:
            answer = routed.ask("everywhere", path, headers=[bearer(created)])
            return answer.status, answer.header("x-code") or answer.header("x-tokens-left")

        assert ask(reads_b, "/whatever") == (418, "PERMISSION_DENIED")
        assert ask(writes_b, "/whatever") == (200, "93")
        assert ask(writes_b, "/special") == (418, "RESOURCE_DENIED")
        # What a route leaves out comes from its virtual host: Envoy merges the two.
        assert ask(reads_c, "/special") == (200, "93")
