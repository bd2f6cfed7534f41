"""A request is read, or refused with every violation, as if each were the first, whatever was read before."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.fields import API_KEY_BYTES_MAX
from tollkeeper_server.api.questions import KNOWN_MAX, Questions
from tollkeeper_server.api.validate_verification import KEEP_MAX, VERIFY
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import InvalidArgument, TollkeeperError
from tollkeeper_server.core.key import ROOT_TENANT

ROOT = Caller(key_id="key_root", tenant_id=ROOT_TENANT, permissions=())
ACME = Caller(key_id="key_acme", tenant_id="acme", permissions=())
SHARED = Questions()
"""Lives through all examples, so that each finds what others left behind."""

requests = st.builds(
    pb.VerifyRequest,
    api_key=st.sampled_from(["", "tk_1", "ü" * (API_KEY_BYTES_MAX // 2), "ü" * (API_KEY_BYTES_MAX // 2 + 1)]),
    resource=st.sampled_from(["", "", "api", "no space", "x" * 129]),
    required_permissions=st.sampled_from([[], ["read"], ["read", "write"], ["r w"], ["read"] * 33]),
    client_ip=st.sampled_from(["", "", "192.0.2.1", "2001:db8::1", "192.0.2.1:80", "fe80::1%eth0"]),
    charges=st.sampled_from([{}, {}, {"tokens": 5}, {"tokens": -1}, {"no space": 1}]),
    reserve=st.booleans(),
    dry_run=st.booleans(),
    min_revision=st.sampled_from([0, 0, 7, -1]),
    request_id=st.sampled_from(["", "r-1", "no space", "x" * 65]),
    tenant_id=st.sampled_from(["", "", "acme", "other", "No"]),
    keep=st.sampled_from([0, 0, 5, -1, KEEP_MAX + 1]),
)


def outcome(questions: Questions, request: pb.VerifyRequest, caller: Caller) -> Any:
    """What is asked, or all that is said of why not."""
    try:
        return questions.read(request, caller, request_id="id", at="requests[3].")
    except TollkeeperError as fault:
        return type(fault), fault.message, getattr(fault, "violations", None)


@given(request=requests, caller=st.sampled_from([ROOT, ACME]))
@example(request=pb.VerifyRequest(api_key="tk_1"), caller=ROOT)
def test_a_request_is_read_as_if_it_were_the_first(request: pb.VerifyRequest, caller: Caller) -> None:
    read = outcome(SHARED, request, caller)
    assert read == outcome(Questions(), request, caller)
    refused = isinstance(read, tuple) and read[0] is InvalidArgument
    assert refused == bool(VERIFY.problems(request))


@pytest.mark.parametrize("field", sorted(pb.VerifyRequest.DESCRIPTOR.fields_by_name))
def test_whatever_is_wrong_is_found_although_the_rest_was_valid_before(field: str) -> None:
    wrong = {
        "api_key": "x" * (API_KEY_BYTES_MAX + 1),
        "resource": "no space",
        "required_permissions": ["no space"],
        "client_ip": "nowhere",
        "charges": {"no space": 1},
        "min_revision": -1,
        "request_id": "no space",
        "tenant_id": "No",
        "keep": -1,
    }
    if field not in wrong:
        assert field in ("reserve", "dry_run")  # for which every value is right
        return
    questions = Questions()
    valid: dict[str, Any] = {"api_key": "tk_1", "resource": "api", "required_permissions": ["read"]}
    questions.read(pb.VerifyRequest(**valid), ROOT, request_id="id")
    with pytest.raises(InvalidArgument) as refused:
        questions.read(pb.VerifyRequest(**{**valid, field: wrong[field]}), ROOT, request_id="id")
    assert all(violation.field.startswith(field) for violation in refused.value.violations)


def test_what_is_remembered_is_bounded() -> None:
    questions = Questions()
    for number in range(KNOWN_MAX + 10):
        questions.read(pb.VerifyRequest(api_key="tk_1", resource=f"r{number}"), ROOT, request_id="id")
    assert len(questions._known) == 10
