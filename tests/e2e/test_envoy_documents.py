"""Five public APIs answer through a real Envoy as their documents say: bodies to the byte, headers on every answer.

What ``public_apis/`` holds is copied from the documents. Where a document shows an example value, the test puts the
real one in its place and compares all the rest.
"""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.gateway.http import Answer
from tests.gateway.stack import PublicApis
from tollkeeper import ImportKey, KeyChange, Limit

BODIES = Path(__file__).parent / "public_apis"
UNKNOWN = "tk_" + "x" * 40
PRODUCT_HEADERS = (
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Daily-Limit",
    "X-RateLimit-Daily-Remaining",
)


def documented(name: str, **real: str) -> bytes:
    """A body from a document, with each example value in it replaced by the real one."""
    body = (BODIES / f"{name}.json").read_text()
    for key, value in real.items():
        body, replaced = re.subn(rf'("{key}": )("[^"]*"|[0-9]+)', rf"\g<1>{value}", body)
        assert replaced == 1, f"{key} is not in {name} once"
    return body.encode()


def is_documented(answer: Answer, status: int, body: bytes) -> None:
    assert (answer.status, answer.body) == (status, body)
    assert answer.header("content-type") == "application/json"


class TestIlumiera:
    """Header ``api-key``; errors of one sentence."""

    def post(self, apis: PublicApis, *headers: tuple[str, str], path: str = "/source/ingestSource") -> Answer:
        body = {
            "source": {
                "sourceType": "youtube",
                "userId": "user-123",
                "url": "https://www.youtube.com/watch?v=...",
                "metadata": {"topic": "Mathematics"},
            }
        }
        return apis.ask(
            "ilumiera",
            path,
            method="POST",
            headers=[*headers, ("Content-Type", "application/json")],
            body=json.dumps(body).encode(),
        )

    def test_the_example_request_is_served(self, apis: PublicApis) -> None:
        created = apis.client.create_key(tenant_id="ilumiera", owner_id="org-1", resources=["source"])
        answer = self.post(apis, ("api-key", created.api_key))
        assert answer.status == 200
        received = apis.upstream.received[-1]
        assert json.loads(received.body)["source"]["userId"] == "user-123"
        assert received.values("api-key") == []
        assert received.values("x-tollkeeper-key-id") == [created.key.key_id]
        assert received.values("x-tollkeeper-owner-id") == ["org-1"]

    def test_a_missing_key_is_told_as_documented(self, apis: PublicApis) -> None:
        is_documented(self.post(apis), 401, documented("ilumiera/missing"))
        is_documented(self.post(apis, ("Authorization", f"Bearer {UNKNOWN}")), 401, documented("ilumiera/missing"))

    def test_an_invalid_key_is_told_as_documented_and_a_revoked_one_alike(self, apis: PublicApis) -> None:
        is_documented(self.post(apis, ("api-key", UNKNOWN)), 401, documented("ilumiera/invalid"))
        created = apis.client.create_key(tenant_id="ilumiera")
        assert self.post(apis, ("api-key", created.api_key)).status == 200
        apis.client.revoke_key(created.key.key_id)
        is_documented(self.post(apis, ("api-key", created.api_key)), 401, documented("ilumiera/invalid"))

    def test_a_key_for_something_else_is_told_as_documented(self, apis: PublicApis) -> None:
        created = apis.client.create_key(tenant_id="ilumiera", resources=["quiz"])
        is_documented(self.post(apis, ("api-key", created.api_key)), 403, documented("ilumiera/unauthorized"))
        assert self.post(apis, ("api-key", created.api_key), path="/quiz/new").status == 200

    def test_a_rate_limit_is_told(self, apis: PublicApis) -> None:
        limit = Limit.rate("per-minute", 1, timedelta(minutes=1))
        created = apis.client.create_key(tenant_id="ilumiera", limits=[limit])
        assert self.post(apis, ("api-key", created.api_key)).status == 200
        limited = self.post(apis, ("api-key", created.api_key))
        assert (limited.status, limited.json) == (429, {"error": "Rate limit exceeded"})
        assert 1 <= int(limited.header("retry-after") or 0) <= 60


class TestAiPowered:
    """Bearer keys with permissions; errors that say which key, since when, and where one was expected."""

    def generate(self, apis: PublicApis, *headers: tuple[str, str]) -> Answer:
        return apis.ask(
            "ai-powered",
            "/v1/generate",
            method="POST",
            headers=[*headers, ("Content-Type", "application/json")],
            body=b'{\n    "prompt": "Hello, world!",\n    "model": "gpt-4"\n  }',
        )

    def bearer(self, api_key: str) -> tuple[str, str]:
        return ("Authorization", f"Bearer {api_key}")

    def test_the_example_request_is_served(self, apis: PublicApis) -> None:
        created = apis.client.create_key(tenant_id="ai-powered", permissions=["read", "webhook"])
        assert self.generate(apis, self.bearer(created.api_key)).status == 200
        received = apis.upstream.received[-1]
        assert json.loads(received.body) == {"prompt": "Hello, world!", "model": "gpt-4"}
        assert received.values("authorization") == []
        assert received.values("x-tollkeeper-permissions") == ["read,webhook"]

    def test_a_missing_key_is_told_with_the_header_that_it_belongs_in(self, apis: PublicApis) -> None:
        is_documented(self.generate(apis), 401, documented("ai-powered/missing"))

    def test_a_revoked_key_is_told_with_its_id(self, apis: PublicApis) -> None:
        created = apis.client.create_key(tenant_id="ai-powered")
        apis.client.revoke_key(created.key.key_id)
        body = documented("ai-powered/invalid", key_id=f'"{created.key.key_id}"')
        is_documented(self.generate(apis, self.bearer(created.api_key)), 401, body)

    def test_an_unknown_key_is_told_the_same_way_and_names_none(self, apis: PublicApis) -> None:
        is_documented(self.generate(apis, self.bearer(UNKNOWN)), 401, documented("ai-powered/invalid", key_id="null"))

    def test_an_expired_key_is_told_with_the_moment_of_its_end(self, apis: PublicApis) -> None:
        ends = datetime.now(UTC) + timedelta(seconds=1)
        created = apis.client.create_key(tenant_id="ai-powered", permissions=["read"], expires_at=ends)
        while (answer := self.generate(apis, self.bearer(created.api_key))).status == 200:
            assert datetime.now(UTC) < ends + timedelta(seconds=5)
        body = documented("ai-powered/expired", expired_at=f'"{ends:%Y-%m-%dT%H:%M:%SZ}"')
        is_documented(answer, 401, body)

    @pytest.mark.parametrize(
        ("permission", "served"),
        [
            ("read", {"GET /v1/models", "POST /v1/generate"}),
            ("write", {"POST /v1/models"}),
            ("admin", {"POST /v1/admin/users"}),
            ("webhook", {"GET /v1/webhooks"}),
        ],
    )
    def test_each_permission_opens_what_it_is_for(self, apis: PublicApis, permission: str, served: set[str]) -> None:
        created = apis.client.create_key(tenant_id="ai-powered", permissions=[permission])
        requests = (
            "GET /v1/models",
            "POST /v1/generate",
            "POST /v1/models",
            "POST /v1/admin/users",
            "GET /v1/webhooks",
        )
        statuses = {
            request: apis.ask(
                "ai-powered",
                request.split()[1],
                method=request.split()[0],
                headers=[self.bearer(created.api_key)],
            ).status
            for request in requests
        }
        assert statuses == {request: 200 if request in served else 403 for request in requests}

    def test_too_many_requests_are_told_with_numbers(self, apis: PublicApis) -> None:
        limit = Limit.rate("per-minute", 1, timedelta(minutes=1))
        created = apis.client.create_key(tenant_id="ai-powered", permissions=["read"], limits=[limit])
        assert self.generate(apis, self.bearer(created.api_key)).status == 200
        limited = self.generate(apis, self.bearer(created.api_key))
        assert limited.status == 429
        assert limited.json["error"]["code"] == "RATE_LIMIT_EXCEEDED"
        details = limited.json["error"]["details"]
        assert (details["limit"], details["remaining"]) == (1, 0)
        assert limited.header("retry-after") == str(details["retry_after"])


class TestProductSlug:
    """Keys ``ila_`` in either of two headers; the state of two limits on every answer."""

    SLUG = "your-product-slug"

    def create(self, apis: PublicApis, *, per_minute: int = 60, resources: list[str] | None = None) -> tuple[str, str]:
        limits = [
            Limit.rate("per-minute", per_minute, timedelta(minutes=1)),
            Limit.rate("per-day", 1000, timedelta(days=1)),
        ]
        created = apis.client.create_key(
            tenant_id="ila", prefix="ila", length=76, resources=resources or [self.SLUG], limits=limits
        )
        return created.api_key, created.key.key_id

    def post(self, apis: PublicApis, *headers: tuple[str, str], slug: str = SLUG) -> Answer:
        return apis.ask(
            "product-slug",
            f"/api/{slug}",
            method="POST",
            headers=[*headers, ("Content-Type", "application/json")],
            body=b'{ "inputs": { "field1": "value1" } }',
        )

    def figures(self, answer: Answer) -> list[int]:
        return [int(answer.header(name) or -1) for name in PRODUCT_HEADERS]

    def test_keys_look_as_documented(self, apis: PublicApis) -> None:
        api_key, _ = self.create(apis)
        assert re.fullmatch(r"ila_[0-9A-Za-z]{72}", api_key)

    @pytest.mark.parametrize("header", ["Authorization: Bearer", "X-API-Key:"])
    def test_the_example_request_is_served_with_either_header(self, apis: PublicApis, header: str) -> None:
        api_key, key_id = self.create(apis)
        name, _, scheme = header.partition(":")
        answer = self.post(apis, (name, f"{scheme} {api_key}".strip()))
        assert (answer.status, self.figures(answer)) == (200, [60, 59, 1000, 999])
        received = apis.upstream.received[-1]
        assert received.values(name.lower()) == []
        assert received.values("x-tollkeeper-key-id") == [key_id]

    def test_both_methods_are_equivalent_and_count_together(self, apis: PublicApis) -> None:
        api_key, _ = self.create(apis)
        self.post(apis, ("X-API-Key", api_key))
        answer = self.post(apis, ("Authorization", f"Bearer {api_key}"), ("X-API-Key", api_key))
        assert (answer.status, self.figures(answer)) == (200, [60, 58, 1000, 998])

    def test_a_missing_key_is_told_as_documented(self, apis: PublicApis) -> None:
        answer = self.post(apis)
        is_documented(answer, 401, documented("product-slug/missing"))
        assert self.figures(answer) == [0, 0, 0, 0]

    @pytest.mark.parametrize("api_key", ["ila_" + "x" * 72, "ila_short", UNKNOWN])
    def test_an_invalid_key_is_told_as_documented(self, apis: PublicApis, api_key: str) -> None:
        answer = self.post(apis, ("X-API-Key", api_key))
        is_documented(answer, 401, documented("product-slug/invalid"))
        assert self.figures(answer) == [0, 0, 0, 0]

    def test_a_revoked_key_is_told_like_an_invalid_one_with_the_state_of_its_limits(self, apis: PublicApis) -> None:
        api_key, key_id = self.create(apis)
        self.post(apis, ("X-API-Key", api_key))
        apis.client.revoke_key(key_id)
        answer = self.post(apis, ("X-API-Key", api_key))
        is_documented(answer, 401, documented("product-slug/invalid"))
        assert self.figures(answer) == [60, 59, 1000, 999]

    def test_a_key_for_another_product_is_told_as_documented_and_charged_nothing(self, apis: PublicApis) -> None:
        api_key, _ = self.create(apis)
        self.post(apis, ("X-API-Key", api_key))
        answer = self.post(apis, ("X-API-Key", api_key), slug="another-product")
        is_documented(answer, 403, documented("product-slug/no-access"))
        assert self.figures(answer) == [60, 59, 1000, 999]

    def test_a_good_key_of_another_shape_is_invalid_here(self, apis: PublicApis) -> None:
        created = apis.client.create_key(tenant_id="ila", resources=[self.SLUG])
        is_documented(self.post(apis, ("X-API-Key", created.api_key)), 401, documented("product-slug/invalid"))

    def test_the_last_request_of_a_minute_is_served_and_the_next_is_told_when_to_come_back(
        self, apis: PublicApis
    ) -> None:
        api_key, _ = self.create(apis, per_minute=2)
        assert [self.figures(self.post(apis, ("X-API-Key", api_key)))[1] for _ in range(2)] == [1, 0]
        limited = self.post(apis, ("X-API-Key", api_key))
        assert (limited.status, limited.json, self.figures(limited)) == (
            429,
            {"error": "Rate limit exceeded"},
            [2, 0, 1000, 998],
        )
        assert 1 <= int(limited.header("retry-after") or 0) <= 60

    def test_a_key_that_is_bound_to_networks_is_only_served_from_there(self, apis: PublicApis) -> None:
        for cidr, status in (("127.0.0.0/8", 200), ("203.0.113.0/24", 403)):
            created = apis.client.create_key(
                tenant_id="ila", prefix="ila", length=76, resources=[self.SLUG], allowed_cidrs=[cidr]
            )
            forged = ("x-envoy-external-address", "203.0.113.9"), ("x-forwarded-for", "203.0.113.9")
            assert self.post(apis, ("X-API-Key", created.api_key), *forged).status == status


class TestIllumass:
    """Users create API keys over HTTP, in one envelope."""

    def create(self, apis: PublicApis, token: str, *, query: str = "?expiresIn=1h", body: bytes = b"{}") -> Answer:
        return apis.ask(
            "illumass",
            f"/v4/api-keys/_create{query}",
            method="POST",
            headers=[("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")],
            body=body,
        )

    @pytest.fixture(params=["a signed-in user", "a service key"])
    def user(self, apis: PublicApis, request: pytest.FixtureRequest) -> tuple[str, str]:
        """Who may create keys, and under which id."""
        if request.param == "a signed-in user":
            return apis.issuer.sign_in("0005000000000008"), "0005000000000008"
        created = apis.client.create_key(tenant_id="illumass", permissions=["tollkeeper:keys.write"])
        return created.api_key, created.key.key_id

    def test_the_example_request_creates_a_key_that_works(self, apis: PublicApis, user: tuple[str, str]) -> None:
        token, user_id = user
        before = len(apis.upstream.received)
        answer = self.create(apis, token, body=b'{ "description": "<description>" }')
        result = answer.json["result"]
        source = result["_source"]
        key = apis.client.get_key(result["_id"])
        body = documented(
            "illumass/created",
            requestId=f'"{answer.json["requestId"]}"',
            _id=f'"{key.key_id}"',
            expiresAt=str(_milliseconds(key.expires_at)),
            fingerprint=f'"{hashlib.sha256(source["token"].encode()).hexdigest()}"',
            token=f'"{source["token"]}"',
            userId=f'"{user_id}"',
            createdAt=str(_milliseconds(key.created_at)),
        )
        is_documented(answer, 200, body)
        assert (key.owner_id, key.description, source["ttl"]) == (user_id, "<description>", 3_600_000)
        assert len(apis.upstream.received) == before
        served = apis.ask("illumass", "/v4/devices", headers=[("Authorization", f"Bearer {source['token']}")])
        assert served.status == 200

    def test_signing_in_is_left_to_the_upstream(self, apis: PublicApis) -> None:
        body = b'{ "email": "<email>", "password": "<password>" }'
        headers = [("Content-Type", "application/json"), ("x-tollkeeper-key-id", "key_spoofed")]
        answer = apis.ask("illumass", "/v4/login?expiresIn=1h", method="POST", headers=headers, body=body)
        assert answer.status == 200
        received = apis.upstream.received[-1]
        assert (received.path, received.body.encode()) == ("/v4/login?expiresIn=1h", body)
        assert received.values("x-tollkeeper-key-id") == []

    def test_without_expires_in_a_key_lives_until_it_is_revoked(self, apis: PublicApis, user: tuple[str, str]) -> None:
        source = self.create(apis, user[0], query="").json["result"]["_source"]
        assert (source["expiresAt"], source["ttl"]) == (None, None)

    @pytest.mark.parametrize("query", ["?expiresIn=soon", "?expiresIn=-1h", "?expiresIn=0s", "?expiresIn=999999999w"])
    def test_a_span_that_is_none_is_refused(self, apis: PublicApis, user: tuple[str, str], query: str) -> None:
        answer = self.create(apis, user[0], query=query)
        assert (answer.status, answer.json["status"], answer.json["result"]) == (400, 400, None)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"description": 1}', b'{"description": "\\u0000"}'])
    def test_a_body_that_is_none_is_refused(self, apis: PublicApis, user: tuple[str, str], body: bytes) -> None:
        assert self.create(apis, user[0], body=body).status == 400

    def test_who_may_not_create_keys_gets_none(self, apis: PublicApis) -> None:
        ordinary = apis.client.create_key(tenant_id="illumass").api_key
        stranger = apis.client.create_key(tenant_id="conduit", permissions=["tollkeeper:keys.write"]).api_key
        tokens = (
            UNKNOWN,
            ordinary,
            stranger,
            apis.issuer.sign_in("user", roles=[]),
            apis.issuer.sign_in("user", exp=0),
        )
        answers = [self.create(apis, token) for token in tokens]
        assert [answer.status for answer in answers] == [401, 403, 403, 403, 401]
        assert {answer.json["result"] for answer in answers} == {None}

    def test_a_key_of_another_system_that_is_a_jwt_goes_on_working(self, apis: PublicApis) -> None:
        token = apis.issuer.sign_in("someone", iss="https://elsewhere.example")
        (imported,) = apis.client.import_keys([ImportKey(raw_api_key=token)], tenant_id="illumass")
        assert isinstance(imported, KeyChange)
        assert apis.ask("illumass", "/v4/devices", headers=[("Authorization", f"Bearer {token}")]).status == 200


class TestConduit:
    """Bearer keys; errors in the manner of OpenAI's API."""

    def complete(self, apis: PublicApis, *headers: tuple[str, str]) -> Answer:
        return apis.ask(
            "conduit",
            "/v1/chat/completions",
            method="POST",
            headers=[*headers, ("Content-Type", "application/json")],
            body=b'{\n"model": "gpt-4",\n"messages": [{"role": "user", "content": "Hello!"}]\n}',
        )

    def test_the_example_request_is_served(self, apis: PublicApis) -> None:
        created = apis.client.create_key(tenant_id="conduit", name="Production Server")
        assert self.complete(apis, ("Authorization", f"Bearer {created.api_key}")).status == 200

    @pytest.mark.parametrize("headers", [[], [("Authorization", f"Bearer {UNKNOWN}")], [("Authorization", UNKNOWN)]])
    def test_a_missing_and_an_invalid_key_are_told_alike(
        self, apis: PublicApis, headers: list[tuple[str, str]]
    ) -> None:
        is_documented(self.complete(apis, *headers), 401, documented("conduit/invalid"))

    @pytest.mark.parametrize("days", [1, 7, 30])
    def test_an_exceeded_spending_limit_is_told_as_documented(self, apis: PublicApis, days: int) -> None:
        limit = Limit.spend("spending", "0.02", timedelta(days=days))  # two completions at a cent each
        created = apis.client.create_key(tenant_id="conduit", name="Development", limits=[limit])
        bearer = ("Authorization", f"Bearer {created.api_key}")
        assert [self.complete(apis, bearer).status for _ in range(2)] == [200, 200]
        is_documented(self.complete(apis, bearer), 403, documented("conduit/spending"))

    def test_what_a_completion_really_cost_is_settled_by_the_upstream(self, apis: PublicApis) -> None:
        limit = Limit.spend("daily", "0.05", timedelta(days=1))
        created = apis.client.create_key(tenant_id="conduit", limits=[limit])
        bearer = ("Authorization", f"Bearer {created.api_key}")
        assert self.complete(apis, bearer, ("x-tollkeeper-reservation-id", "spoofed")).status == 200
        (reservation_id,) = apis.upstream.received[-1].values("x-tollkeeper-reservation-id")
        charges = json.dumps({"charges": {"spend": 60_000}}).encode()
        settled = apis.manage("POST", f"/v1/reservations/{reservation_id}:settle", body=charges)
        assert (settled.status, settled.json["limits"][0]["used"]) == (200, "60000")
        is_documented(self.complete(apis, bearer), 403, documented("conduit/spending"))


def _milliseconds(moment: datetime | None) -> int:
    assert moment is not None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
