"""A caller is recognized only where to verify its API key would let it in, from memory, with the same trace (R0)."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.memory_support import AGE_MAX, API_KEY, LEASE, NOW, Memory, record, records
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.keys.workspace import Algorithm
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.proofs import PROOFS_MAX
from tollkeeper_server.verify.verification import Precedent


@given(
    first=records,
    then=st.none() | records,
    changed=st.booleans(),
    address=st.sampled_from(["", "192.0.2.7", "198.51.100.1", "2001:db8::1"]),
    other_address=st.booleans(),
    at=st.sampled_from([0.0, 5.0, 9.99, 10.0, 30.0, AGE_MAX, LEASE]),
)
def test_who_is_recognized_would_be_let_in_by_a_verification_too(
    first: SecretRecord, then: SecretRecord | None, changed: bool, address: str, other_address: bool, at: float
) -> None:
    asked_from = "198.51.100.1" if other_address else address
    compare(first, then, changed=changed, address=address, asked_from=asked_from, at=at)


def compare(
    first: SecretRecord, then: SecretRecord | None, *, changed: bool, address: str, asked_from: str, at: float
) -> None:
    memory = Memory()
    memory.store(first)
    memory.remember(address)
    memory.at = at
    if changed:
        memory.cache.change("key_1", revision=2)
    if then is not None:
        memory.store(then, revision=2)
    recognized = memory.proofs.recognize(API_KEY, address=asked_from)
    verified = memory.verified(asked_from)
    if recognized is not None or (then is None and not changed and asked_from == address):
        assert recognized == verified
    verified_trace, proofs_trace = memory.traces()
    assert proofs_trace == (verified_trace if recognized is not None else [])


def test_a_caller_is_recognized_once_remembered_and_no_other() -> None:
    memory = Memory()
    memory.store(record())
    assert memory.proofs.recognize(API_KEY, address="192.0.2.7") is None
    memory.remember("192.0.2.7")
    assert memory.proofs.recognize(API_KEY, address="192.0.2.7") == Caller.of(record().key, address="192.0.2.7")
    assert memory.proofs.recognize(API_KEY, address="192.0.2.8") is None
    assert memory.proofs.recognize(API_KEY[:-1], address="192.0.2.7") is None


@pytest.mark.parametrize("end", ["change", "lease"])
def test_nobody_is_recognized_after_a_change_or_without_the_lease(end: str) -> None:
    memory = Memory()
    memory.store(record())
    memory.remember("")
    assert memory.proofs.recognize(API_KEY, address="") is not None
    if end == "change":
        memory.cache.change("key_1", revision=2)
    else:
        memory.replica._lease.end()
    assert memory.proofs.recognize(API_KEY, address="") is None


def test_the_api_key_of_another_system_is_verified_each_time() -> None:
    memory = Memory()
    memory.store(replace(record(), algorithm=Algorithm.SHA256))
    memory.remember("")
    assert memory.proofs.recognize(API_KEY, address="") is None


def test_what_is_remembered_is_bounded_and_holds_no_api_key() -> None:
    memory = Memory()
    memory.store(record())
    for number in range(PROOFS_MAX + 10):
        memory.remember(str(ip_address(number)))
    assert len(memory.proofs._proofs) == PROOFS_MAX
    assert memory.proofs.recognize(API_KEY, address=str(ip_address(0))) is None
    assert API_KEY not in repr(memory.proofs._proofs)


def test_a_proof_believed_without_looking_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as planted:
        planted.setattr(KeyDirectory, "holds", lambda *_: True)
        with pytest.raises(AssertionError):
            compare(record(), None, changed=True, address="", asked_from="", at=0)
    ending = record(expires_at=NOW + timedelta(seconds=5))
    with monkeypatch.context() as planted:
        planted.setattr(Precedent, "ends_at", NOW + timedelta(days=1))
        with pytest.raises(AssertionError):
            compare(ending, None, changed=False, address="", asked_from="", at=10)
