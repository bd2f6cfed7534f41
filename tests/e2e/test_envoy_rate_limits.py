"""Gateways that ask Envoy's rate limit service: the same limits, the same words."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import grpc
import pytest
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc

from tests.gateway.envoy import Config, http_filters, virtual_hosts
from tests.gateway.stack import PublicApis, another_envoy, edge_address
from tollkeeper import Limit

OK, OVER_LIMIT = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
PER_MINUTE = timedelta(minutes=1)
Ask = Callable[..., rls_pb2.RateLimitResponse]


@pytest.fixture
def ask(apis: PublicApis) -> Iterator[Ask]:
    """Asks as Envoy does, for entries of descriptors."""
    metadata = (("authorization", f"Bearer {apis.service_key_file.read_text()}"),)
    with grpc.insecure_channel(edge_address(apis.server)) as channel:
        stub = rls_pb2_grpc.RateLimitServiceStub(channel)

        def ask(*descriptors: dict[str, str], domain: str = "everywhere", hits: int = 0) -> rls_pb2.RateLimitResponse:
            request = rls_pb2.RateLimitRequest(domain=domain, hits_addend=hits)
            for entries in descriptors:
                request.descriptors.add(
                    entries=[
                        ratelimit_pb2.RateLimitDescriptor.Entry(key=name, value=value)
                        for name, value in entries.items()
                    ]
                )
            return stub.ShouldRateLimit(request, metadata=metadata, timeout=10)

        yield ask


def create(apis: PublicApis, amount: int, *, unit: str = "requests") -> str:
    name = "per-minute" if unit == "requests" else unit
    limits = [Limit.rate(name, amount, PER_MINUTE, unit=unit)]
    key_id: str = apis.client.create_key(tenant_id="everywhere", limits=limits).key.key_id
    return key_id


def test_a_descriptor_charges_the_limits_of_its_key(apis: PublicApis, ask: Ask) -> None:
    key_id = create(apis, 2)
    answers = [ask({"key_id": key_id}) for _ in range(3)]
    assert [answer.overall_code for answer in answers] == [OK, OK, OVER_LIMIT]
    assert [answer.statuses[0].limit_remaining for answer in answers] == [1, 0, 0]
    assert answers[0].statuses[0].current_limit.name == "per-minute"
    assert answers[0].statuses[0].current_limit.requests_per_unit == 2
    assert 0 < answers[2].statuses[0].duration_until_reset.seconds <= 60
    headers = {header.key: header.value for header in answers[2].response_headers_to_add}
    assert headers["x-code"] == "RATE_LIMITED"
    assert headers["x-left"] == "0"
    assert b'"code": "RATE_LIMITED", "limit": 2' in answers[2].raw_body


def test_a_descriptor_may_name_an_owner_whose_limits_are_charged_alone(apis: PublicApis, ask: Ask) -> None:
    apis.client.set_owner("team-1", tenant_id="everywhere", limits=[Limit.rate("per-minute", 2, PER_MINUTE)])
    answers = [ask({"owner_id": "team-1"}) for _ in range(3)]
    assert [answer.overall_code for answer in answers] == [OK, OK, OVER_LIMIT]
    created = apis.client.create_key(tenant_id="everywhere", owner_id="team-1", permissions=["read"])
    assert ask({"key_id": created.key.key_id}).overall_code == OVER_LIMIT


def test_a_descriptor_may_name_a_unit_and_a_request_how_much(apis: PublicApis, ask: Ask) -> None:
    key_id = create(apis, 100, unit="tokens")
    assert ask({"key_id": key_id, "unit": "tokens"}, hits=60).statuses[0].limit_remaining == 40
    assert ask({"key_id": key_id, "unit": "tokens"}, hits=60).overall_code == OVER_LIMIT
    assert ask({"key_id": key_id, "unit": "tokens"}, hits=40).statuses[0].limit_remaining == 0


def test_of_several_descriptors_all_fit_or_nothing_is_charged(apis: PublicApis, ask: Ask) -> None:
    wide, narrow = create(apis, 10), create(apis, 1)
    assert ask({"key_id": wide}, {"key_id": narrow}).overall_code == OK
    refused = ask({"key_id": wide}, {"key_id": narrow})
    assert [status.code for status in refused.statuses] == [OK, OVER_LIMIT]
    assert ask({"key_id": wide}).statuses[0].limit_remaining == 8


@pytest.mark.parametrize(
    ("descriptor", "domain", "code"),
    [
        ({"key_id": "key_0000000000000000000000"}, "everywhere", grpc.StatusCode.NOT_FOUND),
        ({"key_id": "{}"}, "conduit", grpc.StatusCode.NOT_FOUND),
        ({"key_id": "{}"}, "unknown", grpc.StatusCode.NOT_FOUND),
        ({"key_id": "nonsense"}, "everywhere", grpc.StatusCode.INVALID_ARGUMENT),
        ({"key_id": "{}", "unit": "A B"}, "everywhere", grpc.StatusCode.INVALID_ARGUMENT),
        ({"key_id": "{}", "path": "/"}, "everywhere", grpc.StatusCode.INVALID_ARGUMENT),
        ({"owner_id": "nobody"}, "everywhere", grpc.StatusCode.NOT_FOUND),
        ({"owner_id": "a b"}, "everywhere", grpc.StatusCode.INVALID_ARGUMENT),
        ({"key_id": "{}", "owner_id": "a"}, "everywhere", grpc.StatusCode.INVALID_ARGUMENT),
        ({"unit": "requests"}, "everywhere", grpc.StatusCode.INVALID_ARGUMENT),
        ({}, "everywhere", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_descriptor_that_names_no_key_of_the_domain_is_an_error(
    apis: PublicApis, ask: Ask, descriptor: dict[str, str], domain: str, code: grpc.StatusCode
) -> None:
    key_id = create(apis, 1)
    with pytest.raises(grpc.RpcError) as refused:
        ask({name: value.replace("{}", key_id) for name, value in descriptor.items()}, domain=domain)
    assert refused.value.code() is code


def test_envoy_tells_clients_of_a_limit_in_the_words_of_the_profile(apis: PublicApis) -> None:
    """Who calls is told by ext_authz, which charges nothing here; what the request costs, by the rate limit filter."""

    def change(config: Config) -> None:
        http_filters(config, "public").insert(
            1,
            {
                "name": "envoy.filters.http.ratelimit",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
                    "domain": "everywhere",
                    "failure_mode_deny": True,
                    "rate_limit_service": {
                        "transport_api_version": "V3",
                        "grpc_service": {"envoy_grpc": {"cluster_name": "tollkeeper-edge"}, "timeout": "1s"},
                    },
                },
            },
        )
        identified = {"metadata_key": {"key": "envoy.filters.http.ext_authz", "path": [{"key": "key_id"}]}}
        virtual_hosts(config).append(
            {
                "name": "everywhere",
                "domains": ["everywhere.localhost"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                "rate_limits": [{"actions": [{"metadata": {"descriptor_key": "key_id", **identified}}]}],
            }
        )

    limits = [Limit.rate("per-minute", 1, PER_MINUTE)]
    created = apis.client.create_key(tenant_id="everywhere", limits=limits)
    headers = [("x-api-key", created.api_key)]
    with another_envoy(apis, change) as limited:
        answers = [limited.ask("everywhere", "/free/lunch", headers=headers) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    assert [answer.header("x-left") for answer in answers] == ["0", "0"]
    assert answers[1].header("x-code") == "RATE_LIMITED"
    assert answers[1].json["limit"] == 1
