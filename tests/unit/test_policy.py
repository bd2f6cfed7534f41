from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.decision import MESSAGES, DecisionCode
from tollkeeper_server.core.errors import PermissionDenied
from tollkeeper_server.core.key import ROOT_TENANT, Key, KeyState
from tollkeeper_server.core.policy import Use, grants, judge

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
A_KEY = Key(
    key_id="key_1",
    tenant_id="acme",
    created_at=NOW,
    updated_at=NOW,
    permissions=("read", "invoices:*"),
    resources=("billing",),
    allowed_cidrs=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
    expires_at=NOW + timedelta(seconds=1),
)
GOOD_USE = Use(resource="billing", required_permissions=("read",), client_ip=ip_address("10.1.2.3"))


def changed(key: Key = A_KEY, **changes: object) -> Key:
    fields = {name: getattr(key, name) for name in Key.__slots__}
    return Key(**{**fields, **changes})


def test_a_use_that_every_rule_allows_is_allowed() -> None:
    assert judge(A_KEY, GOOD_USE, now=NOW) is DecisionCode.ALLOWED


@pytest.mark.parametrize(
    ("state", "code"),
    [(KeyState.REVOKED, DecisionCode.KEY_REVOKED), (KeyState.DISABLED, DecisionCode.KEY_DISABLED)],
)
def test_a_key_that_is_switched_off_is_denied_whatever_the_use(state: KeyState, code: DecisionCode) -> None:
    assert judge(changed(stored_state=state), Use(), now=NOW + timedelta(days=1)) is code


def test_a_key_ends_at_the_very_moment_it_expires() -> None:
    assert A_KEY.expires_at is not None
    assert judge(A_KEY, GOOD_USE, now=A_KEY.expires_at - timedelta(microseconds=1)) is DecisionCode.ALLOWED
    assert judge(A_KEY, GOOD_USE, now=A_KEY.expires_at) is DecisionCode.KEY_EXPIRED


@pytest.mark.parametrize("address", ["10.0.0.0", "10.255.255.255", "2001:db8::1", "::ffff:10.0.0.1"])
def test_addresses_inside_an_allowed_network_pass(address: str) -> None:
    use = Use(resource="billing", client_ip=ip_address(address))
    assert judge(A_KEY, use, now=NOW) is DecisionCode.ALLOWED


@pytest.mark.parametrize("address", ["9.255.255.255", "11.0.0.0", "2001:db9::1", "::ffff:11.0.0.1", None])
def test_other_addresses_and_an_unknown_address_are_denied(address: str | None) -> None:
    use = Use(resource="billing", client_ip=ip_address(address) if address else None)
    assert judge(A_KEY, use, now=NOW) is DecisionCode.IP_DENIED


@pytest.mark.parametrize("resource", ["", "bill", "billing2", "BILLING"])
def test_a_key_bound_to_resources_is_denied_for_any_other_and_for_none(resource: str) -> None:
    use = Use(resource=resource, client_ip=ip_address("10.0.0.1"))
    assert judge(A_KEY, use, now=NOW) is DecisionCode.RESOURCE_DENIED


def test_every_required_permission_must_be_held() -> None:
    held_and_not = Use(resource="billing", client_ip=ip_address("10.0.0.1"), required_permissions=("read", "write"))
    assert judge(A_KEY, held_and_not, now=NOW) is DecisionCode.PERMISSION_DENIED


def test_the_first_rule_that_denies_answers() -> None:
    nothing_fits = Use(resource="other", required_permissions=("admin",), client_ip=ip_address("192.0.2.1"))
    assert judge(changed(stored_state=KeyState.REVOKED), nothing_fits, now=NOW) is DecisionCode.KEY_REVOKED
    assert judge(A_KEY, nothing_fits, now=NOW + timedelta(days=1)) is DecisionCode.KEY_EXPIRED
    assert judge(A_KEY, nothing_fits, now=NOW) is DecisionCode.IP_DENIED
    assert judge(changed(allowed_cidrs=()), nothing_fits, now=NOW) is DecisionCode.RESOURCE_DENIED
    assert judge(changed(allowed_cidrs=(), resources=()), nothing_fits, now=NOW) is DecisionCode.PERMISSION_DENIED


def test_wildcards_cover_whole_words_only() -> None:
    assert grants(("invoices:*",), "invoices:read")
    assert not grants(("invoices:*",), "invoices")
    assert not grants(("invoices:*",), "invoices2:read")
    assert not grants(("inv*",), "invoices")
    assert grants(("*",), "anything:at.all")
    assert not grants(("*",), "")


@given(st.lists(st.from_regex(r"[a-z*:]{1,8}", fullmatch=True), max_size=6))
def test_a_key_for_everything_still_cannot_call_tollkeeper(held: list[str]) -> None:
    if not any(permission.startswith("tollkeeper:") for permission in held):
        assert not any(grants(held, permission) for permission in CallerPermission)


@given(st.lists(st.text(max_size=8), max_size=6), st.text(min_size=1, max_size=8))
def test_holding_a_permission_literally_is_always_enough(held: list[str], wanted: str) -> None:
    assert grants([*held, wanted], wanted)


def test_a_caller_acts_inside_its_tenant_and_root_anywhere() -> None:
    caller = Caller(key_id="key_1", tenant_id="acme", permissions=("tollkeeper:verify",))
    root = Caller(key_id="key_0", tenant_id=ROOT_TENANT, permissions=("tollkeeper:*",))
    assert caller.tenant("") == caller.tenant("acme") == "acme"
    assert caller.sees("acme")
    assert not caller.sees("other")
    assert root.tenant("acme") == "acme"
    assert root.sees("other")
    with pytest.raises(PermissionDenied):
        caller.tenant("other")


def test_a_caller_needs_the_permission_of_each_call() -> None:
    caller = Caller(key_id="key_1", tenant_id="acme", permissions=("tollkeeper:verify", "*"))
    caller.require(CallerPermission.VERIFY)
    for permission in set(CallerPermission) - {CallerPermission.VERIFY}:
        with pytest.raises(PermissionDenied):
            caller.require(permission)


def test_every_decision_code_has_its_words() -> None:
    assert set(MESSAGES) == set(DecisionCode)
