"""When Tollkeeper is gone, slow or undecided, clients get what docs/envoy.md says, and nothing goes on unchecked."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.gateway.envoy import Config, ext_authz
from tests.gateway.stack import PublicApis, another_envoy, public_apis

UNKNOWN = "tk_" + "x" * 40


@pytest.fixture(scope="module")
def fragile() -> Iterator[PublicApis]:
    """APIs whose server may be hurt."""
    with public_apis() as apis:
        yield apis


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def until(holds: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.02)


def test_a_server_that_does_not_answer_in_time_is_a_503_in_words_and_no_request_goes_on(fragile: PublicApis) -> None:
    created = fragile.client.create_key(tenant_id="conduit")
    headers = [("authorization", f"Bearer {created.api_key}"), ("x-tollkeeper-key-id", "key_spoofed")]
    assert fragile.ask("conduit", "/v1/models", headers=headers).status == 200
    before = len(fragile.upstream.received)
    with stopped(fragile.server.process):
        started = time.monotonic()
        answer = fragile.ask("conduit", "/v1/models", headers=headers)
        assert time.monotonic() - started < 2
    assert answer.status == 503
    assert answer.header("retry-after") == "1"
    assert answer.header("content-type") == "application/json"
    assert answer.json["error"]["message"] == "The request could not be checked. Try again."
    entry = fragile.envoy.access_log(answer.json["error"]["request_id"])
    assert (entry["status"], entry["details"], entry["decision"]) == (503, "ext_authz_error", None)
    assert len(fragile.upstream.received) == before
    until(lambda: fragile.ask("conduit", "/v1/models", headers=headers).status == 200)


def test_where_failures_are_allowed_a_request_goes_on_unchecked_but_says_of_nobody_who_it_is(
    fragile: PublicApis,
) -> None:
    def allow_failures(config: Config) -> None:
        ext_authz(config)["failure_mode_allow"] = True
        ext_authz(config)["failure_mode_allow_header_add"] = True

    headers = [("authorization", f"Bearer {UNKNOWN}"), ("x-tollkeeper-key-id", "key_spoofed")]
    with another_envoy(fragile, allow_failures) as allowing:
        assert allowing.ask("conduit", "/v1/models", headers=headers).status == 401
        with stopped(fragile.server.process):
            assert allowing.ask("conduit", "/v1/models", headers=headers).status == 200
        received = fragile.upstream.received[-1]
        assert received.values("x-envoy-auth-failure-mode-allowed") == ["true"]
        assert received.values("x-tollkeeper-key-id") == []
        assert received.values("authorization") == [f"Bearer {UNKNOWN}"]


def test_every_request_is_in_the_access_log_with_its_decision_and_without_its_key(fragile: PublicApis) -> None:
    created = fragile.client.create_key(tenant_id="ilumiera", resources=["source"])
    for path, status, decision in (("/source/a", 200, "ALLOWED"), ("/quiz", 403, "RESOURCE_DENIED")):
        marked = f"{path}?{decision}={created.api_key}"
        assert fragile.ask("ilumiera", marked, headers=[("api-key", created.api_key)]).status == status
        until(lambda decision=decision: f'"decision":"{decision}"' in fragile.envoy.log)  # type: ignore[misc]
    assert created.key.key_id in fragile.envoy.log
    assert created.api_key not in fragile.envoy.log
    assert created.api_key not in fragile.server.stderr


def test_without_its_database_the_api_answers_in_its_own_words_where_it_has_any(fragile: PublicApis) -> None:
    # Well-formed, so that only the database could tell that it is revoked.
    created = fragile.client.create_key(tenant_id="conduit")
    elsewhere = fragile.client.create_key(tenant_id="everywhere", permissions=["read"])
    for process in fragile.server.family():
        if process.name() == "postgres":
            process.kill()
    until(lambda: fragile.ask("conduit", "/v1/models", headers=[bearer(created.api_key)]).status == 503)
    # Longer than anything is remembered: in the end even the gateway is not known any more.
    over = time.monotonic() + 3
    while time.monotonic() < over:
        answer = fragile.ask("conduit", "/v1/models", headers=[bearer(created.api_key)])
        assert (answer.status, answer.json["error"]["code"]) == (503, "service_unavailable")
        assert answer.header("retry-after") == "1"
    # The gateway's own words, for an API that has none.
    with another_envoy(fragile, lambda config: _serve_hosts(config, "everywhere")) as other:
        answer = other.ask("everywhere", "/api/a", headers=[bearer(elsewhere.api_key)])
        assert (answer.status, answer.json["error"]["message"]) == (
            503,
            "The request could not be checked. Try again.",
        )


def test_when_the_server_is_killed_a_client_gets_a_503_at_once(fragile: PublicApis) -> None:
    fragile.server.stop(signal.SIGKILL)
    started = time.monotonic()
    answer = fragile.ask("conduit", "/v1/models", headers=[bearer(UNKNOWN)])
    assert time.monotonic() - started < 1
    assert (answer.status, answer.header("retry-after")) == (503, "1")


def bearer(api_key: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {api_key}")


def _serve_hosts(config: Config, name: str) -> None:
    hosts = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    hosts["route_config"]["virtual_hosts"].append(
        {
            "name": name,
            "domains": [f"{name}.localhost"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
        }
    )
