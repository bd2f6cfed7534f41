"""A caller is recognized only where to verify its API key would let it in, from memory, with the same trace (R0)."""

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.key import Key, KeyState, Owner
from tollkeeper_server.core.policy import Use
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.keys.workspace import Algorithm
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.proofs import PROOFS_MAX, Proofs
from tollkeeper_server.verify.replica import Replica
from tollkeeper_server.verify.verifier import Verification, Verifier

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEYRING = Keyring(peppers={1: b"p" * 32}, tag_keys={1: b"t" * 32})
API_KEY = KEYRING.mint(prefix="tk", length=43, seed=KEYRING.new_seed(os.urandom(32)))
AGE_MAX = 60.0
LEASE = 1000.0


class NoStore:
    """A Postgres that cannot be asked."""

    def connection(self, **_: Any) -> Any:
        raise Unavailable("Postgres is away", reason="POSTGRES_UNAVAILABLE")


class Memory:
    """The parts that answer from memory, at any time, and nothing behind them."""

    def __init__(self) -> None:
        self.at = 0.0
        self.cache = RecordCache[SecretRecord](entries_max=9, unknown_max=9, tombstones_max=9, age_max_seconds=AGE_MAX)
        self.replica = Replica("", cache=self.cache, clock=lambda: self.at)
        self.replica.revision = 1
        self.replica._lease.renew(sent_at=0, seconds=LEASE)
        directory = KeyDirectory(
            NoStore(),  # type: ignore[arg-type]
            keyring=KEYRING,
            cache=self.cache,
            replica=self.replica,
            upgrades=None,  # type: ignore[arg-type]
            clock=lambda: self.at,
        )
        self.usage, self.usage_of_proofs = UsageRecorder(), UsageRecorder()
        charger: Charger = None  # type: ignore[assignment]
        self.verifier = Verifier(directory=directory, charger=charger, usage=self.usage, clock=self.now)
        self.proofs = Proofs(directory=directory, usage=self.usage_of_proofs, clock=self.now)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.at)

    def store(self, record: SecretRecord, *, revision: int = 1) -> None:
        assert self.cache.put(record.digest, record, subjects=("key_1",), revision=revision, now=self.at)

    def verified(self, address: str) -> Caller | None:
        """Who is let in if the API key is verified; None if it is not, or not without a store."""
        use = Use(client_ip=ip_address(address) if address else None)
        asked = Verification(api_key=API_KEY, tenant_id=None, use=use, charges={}, by_caller=True)
        try:
            decision = asyncio.run(self.verifier.verify(asked))
        except Unavailable:
            return None
        return Caller.of(decision.key, address=address) if decision.allowed and decision.key else None

    def traces(self) -> list[Any]:
        """What either way noted of the use."""
        return [
            [(minute.key.key_id, minute.starts_at, minute.digests, minute.networks()) for minute in usage.take()]
            for usage in (self.usage, self.usage_of_proofs)
        ]


def record(**fields: Any) -> SecretRecord:
    key = Key(key_id="key_1", tenant_id="acme", permissions=("tollkeeper:verify",), created_at=NOW, updated_at=NOW)
    return SecretRecord(key=replace(key, **fields), expires_at=None, digest=KEYRING.digest(API_KEY))


def moments() -> st.SearchStrategy[datetime | None]:
    return st.none() | st.sampled_from([NOW + timedelta(seconds=seconds) for seconds in (5, 10, 30)])


records = st.builds(
    lambda state, ends, secret_ends, cidrs, suspended: replace(
        record(stored_state=state, expires_at=ends, allowed_cidrs=cidrs),
        expires_at=secret_ends,
        owner=Owner(owner_id="o", tenant_id="acme", suspended=True, created_at=NOW, updated_at=NOW)
        if suspended
        else None,
    ),
    state=st.sampled_from([KeyState.ACTIVE, KeyState.ACTIVE, KeyState.DISABLED, KeyState.REVOKED]),
    ends=moments(),
    secret_ends=moments(),
    cidrs=st.sampled_from([(), (ip_network("192.0.2.0/24"),), (ip_network("2001:db8::/32"),)]),
    suspended=st.sampled_from([False, False, False, True]),
)


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
    memory.proofs.remember(API_KEY, address=address)
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
    memory.proofs.remember(API_KEY, address="192.0.2.7")
    assert memory.proofs.recognize(API_KEY, address="192.0.2.7") == Caller.of(record().key, address="192.0.2.7")
    assert memory.proofs.recognize(API_KEY, address="192.0.2.8") is None
    assert memory.proofs.recognize(API_KEY[:-1], address="192.0.2.7") is None


@pytest.mark.parametrize("end", ["change", "lease"])
def test_nobody_is_recognized_after_a_change_or_without_the_lease(end: str) -> None:
    memory = Memory()
    memory.store(record())
    memory.proofs.remember(API_KEY, address="")
    assert memory.proofs.recognize(API_KEY, address="") is not None
    if end == "change":
        memory.cache.change("key_1", revision=2)
    else:
        memory.replica._lease.end()
    assert memory.proofs.recognize(API_KEY, address="") is None


def test_the_api_key_of_another_system_is_verified_each_time() -> None:
    memory = Memory()
    memory.store(replace(record(), algorithm=Algorithm.SHA256))
    memory.proofs.remember(API_KEY, address="")
    assert memory.proofs.recognize(API_KEY, address="") is None


def test_what_is_remembered_is_bounded_and_holds_no_api_key() -> None:
    memory = Memory()
    memory.store(record())
    for number in range(PROOFS_MAX + 10):
        memory.proofs.remember(API_KEY, address=str(ip_address(number)))
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
        planted.setattr("tollkeeper_server.verify.proofs.judge", lambda *_, **__: DecisionCode.ALLOWED)
        with pytest.raises(AssertionError):
            compare(ending, None, changed=False, address="", asked_from="", at=10)
