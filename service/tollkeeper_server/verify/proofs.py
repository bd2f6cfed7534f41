"""What callers proved with their API keys, remembered from call to call."""

import hashlib
import os
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from typing import NamedTuple

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.policy import Use, judge
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.verify.directory import Found, KeyDirectory

PROOFS_MAX = 4096


class _Proof(NamedTuple):
    record: SecretRecord
    use: Use
    caller: Caller


class Proofs:
    """Recognizes an API key that a caller has shown before, in a third of the time that it takes to verify it.

    A service sends the same API key with every call. Who that is can be remembered; whether it may call cannot: as long
    as the directory still has, and may answer with, the very record that was found behind the API key, the rules judge
    its use anew. In all other cases nothing is recognized, and the API key has to be verified.

    API keys are told apart by a hash that only this process can make, so none stays in memory.
    """

    def __init__(self, *, directory: KeyDirectory, usage: UsageRecorder, clock: Callable[[], datetime]) -> None:
        self._directory = directory
        self._usage = usage
        self._clock = clock
        self._hash = hashlib.blake2b(key=os.urandom(32), digest_size=16)
        self._proofs: dict[bytes, _Proof] = {}

    def recognize(self, api_key: str, *, address: str) -> Caller | None:
        """Who showed ``api_key`` from ``address`` before, if to verify it would give ALLOWED and need no store.

        The use is noted, as that verification would.
        """
        proof = self._proofs.get(self._place(api_key, address))
        if proof is None or not self._directory.holds(proof.record):
            return None
        record, use, caller = proof
        now = self._clock()
        if record.expires_at is not None and now >= record.expires_at:
            return None
        if judge(record.key, use, now=now, owner=record.owner) is not DecisionCode.ALLOWED:
            return None
        self._usage.record_use(record, client_ip=use.client_ip, now=now)
        return caller

    def remember(self, api_key: str, *, address: str) -> None:
        """Remember who shows ``api_key``, if the directory has it in memory."""
        found = self._directory.recall(api_key)
        if not isinstance(found, Found) or found.record is None or not self._directory.holds(found.record):
            return
        place = self._place(api_key, address)
        self._proofs.pop(place, None)
        if len(self._proofs) >= PROOFS_MAX:
            del self._proofs[next(iter(self._proofs))]
        use = Use(client_ip=ip_address(address) if address else None)
        self._proofs[place] = _Proof(found.record, use, Caller.of(found.record.key, address=address))

    def _place(self, api_key: str, address: str) -> bytes:
        place = self._hash.copy()
        place.update(f"{address} {api_key}".encode())
        return place.digest()
