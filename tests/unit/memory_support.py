"""What tests of memory alone share: records, and the parts that answer from them with no store behind."""

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import strategies as st

from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.key import Key, KeyState, Owner
from tollkeeper_server.core.policy import Use
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.proofs import Proofs
from tollkeeper_server.verify.replica import Replica
from tollkeeper_server.verify.verification import Verification
from tollkeeper_server.verify.verifier import Verifier

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEYRING = Keyring(peppers={1: b"p" * 32}, tag_keys={1: b"t" * 32})
API_KEY = KEYRING.mint(prefix="tk", length=43, seed=KEYRING.new_seed(os.urandom(32)))
AGE_MAX = 60.0
LEASE = 1000.0
run = asyncio.new_event_loop().run_until_complete
"""Runs a coroutine; always in the same loop, for parts belong to the one that they were used in first."""
NO_CHARGER: Charger = None  # type: ignore[assignment]


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
        self.verifier, proving = (
            Verifier(directory=directory, charger=NO_CHARGER, usage=usage, clock=self.now)
            for usage in (self.usage, self.usage_of_proofs)
        )
        self.proofs = Proofs(proving)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.at)

    def store(self, record: SecretRecord, *, revision: int = 1) -> None:
        subjects = (record.key.key_id,)
        assert self.cache.put(record.digest, record, subjects=subjects, revision=revision, now=self.at)

    def verified(self, address: str) -> Caller | None:
        """Who is let in if the API key is verified; None if it is not, or not without a store."""
        try:
            decision = run(self.verifier.verify(shown(address)))
        except Unavailable:
            return None
        return Caller.of(decision.key, address=address) if decision.allowed and decision.key else None

    def remember(self, address: str) -> None:
        """Remember whoever is let in now."""
        if (caller := self.verified(address)) is not None:
            self.proofs.remember(caller, shown(address))
        self.usage.take()

    def traces(self) -> list[Any]:
        """What either way noted of the use."""
        return [
            [(minute.key.key_id, minute.starts_at, minute.digests, minute.networks()) for minute in usage.take()]
            for usage in (self.usage, self.usage_of_proofs)
        ]


def shown(address: str) -> Verification:
    """What is asked of a caller's API key that is shown from ``address``."""
    use = Use(client_ip=ip_address(address) if address else None)
    return Verification(api_key=API_KEY, tenant_id=None, use=use, charges={}, by_caller=True)


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
