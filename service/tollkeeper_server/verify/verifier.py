"""The Verifier: the one place where a verification is decided, whatever way it came in.

    parse key ─ find record ─ proven? ─ state, expiry, client IP, resource, permissions ─ charge all limits ─ decision

Cheap and pure comes first, spending last. A denial is a value; an exception means that no decision could be made.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from tollkeeper_server.core.decision import Decision, DecisionCode, Kept
from tollkeeper_server.core.errors import TollkeeperError, Unavailable
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.policy import judge
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.settlements import Settlement
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.verify.begun import Outcome
from tollkeeper_server.verify.directory import Found, KeyDirectory
from tollkeeper_server.verify.verification import Precedent, Verification


class KeptUse(NamedTuple):
    """What a caller used the kept answers of one key for."""

    key_id: str
    verifications: int
    charges: Mapping[str, int]
    """Of all of them together."""


_ALLOWED: Mapping[str, int] = {DecisionCode.ALLOWED: 1}


class Verifier:
    """Decides verifications.

    Every method raises Unavailable or ResourceExhausted if a store that the answer needs does not answer.
    """

    def __init__(
        self, *, directory: KeyDirectory, charger: Charger, usage: UsageRecorder, clock: Callable[[], datetime]
    ) -> None:
        self._directory = directory
        self._charger = charger
        self._usage = usage
        self._clock = clock

    @property
    def revision(self) -> int:
        """What answers from memory reflect."""
        return self._directory.revision

    async def verify(self, verification: Verification) -> Decision:
        """Decide, and charge if the decision is ALLOWED.

        KEY_INVALID is the same answer for an API key that is malformed, unknown, or another tenant's.
        """
        judged = self._judge_from_memory(verification)
        if judged is None:
            found = await self._directory.find(verification.api_key, min_revision=verification.min_revision)
            judged = self._judge(verification, found)
        return judged if isinstance(judged, Decision) else await self._charge(verification, judged)

    def begin(self, verification: Verification) -> Outcome | Coroutine[Any, Any, Outcome]:
        """As ``verify``, for one of many: what memory alone can answer costs no task, and a fault is an outcome."""
        try:
            judged = self._judge_from_memory(verification)
        except TollkeeperError as fault:
            return fault
        if judged is None:
            return _or_fault(self.verify(verification))
        return judged if isinstance(judged, Decision) else _or_fault(self._charge(verification, judged))

    def precedent(self, verification: Verification) -> Precedent | None:
        """What later verifications that ask the same can rely on: None unless memory knows that the rules allow it."""
        found = self._directory.recall(verification.api_key)
        record = found.record if isinstance(found, Found) else None
        if record is None or verification.min_revision or verification.tenant_id not in (None, record.key.tenant_id):
            return None
        precedent = Precedent.of(verification, record)
        now = self._time_if_held(precedent)
        if now is None or judge(record.key, verification.use, now=now, owner=record.owner) is not DecisionCode.ALLOWED:
            return None
        return precedent

    def allows_again(self, *precedents: Precedent) -> bool:
        """Whether to decide each anew would give ALLOWED, from memory and without a charge; the trace is the same.

        Takes a fraction of the time. If it is False, nobody knows yet, and there is no trace.
        """
        now = self._time_if_held(*precedents)
        if now is None:
            return False
        for verification, record, _, is_charged in precedents:
            assert not is_charged, "what limits say is asked of them"
            self._record(record, DecisionCode.ALLOWED, verification, now)
        return True

    def charge_again(
        self, precedent: Precedent, *, request_id: str, once_id: str = ""
    ) -> Coroutine[Any, Any, Outcome] | None:
        """The charge of the same verification under other ids; None if it has to be looked at as any other."""
        now = self._time_if_held(precedent)
        if now is None:
            return None
        record = precedent.record
        admitted = _Admitted(record.key, record, self._directory.revision, now, request_id, once_id)
        return _or_fault(self._charge(precedent.verification, admitted))

    async def settle(
        self, reservation_id: str, *, tenant_id: str | None, charges: Mapping[str, int], verifications: int = 1
    ) -> Settlement:
        """Charge what was really used instead of what a reservation holds; doing so again changes nothing.

        ``verifications`` tells to how many a kept answer was given. Raises NotFound if ``tenant_id`` (None: any tenant)
        has no such reservation.
        """
        return await self._charger.settle(
            reservation_id, tenant_id=tenant_id, charges=charges, verifications=verifications
        )

    async def record_kept(self, uses: Sequence[KeptUse], *, tenant_id: str | None) -> None:
        """Count as usage what kept answers were used for, of keys of ``tenant_id`` (None: of any tenant) only."""
        found = await asyncio.gather(*(self._directory.find_by_key_id(use.key_id) for use in uses))
        now = self._clock()
        for use, (key, _) in zip(uses, found, strict=True):
            if key is not None and tenant_id in (None, key.tenant_id):
                self._usage.record_kept(key, verifications=use.verifications, charges=use.charges, now=now)

    def _time_if_held(self, *precedents: Precedent) -> datetime | None:
        """The time, if the rules allow the same now."""
        if not self._directory.holds(*[precedent.record for precedent in precedents]):
            return None
        now = self._clock()
        for precedent in precedents:
            if now >= precedent.ends_at:
                return None
        return now

    def _judge_from_memory(self, verification: Verification) -> "Decision | _Admitted | None":
        """As ``_judge``; None if memory does not know the key."""
        if not verification.api_key:
            return Decision(code=DecisionCode.KEY_MISSING, request_id=verification.request_id)
        found = self._directory.recall(verification.api_key, min_revision=verification.min_revision)
        return None if isinstance(found, tuple) else self._judge(verification, found)

    def _judge(self, verification: Verification, found: Found | None) -> "Decision | _Admitted":
        """Everything but the charge: the decision, or what is left to charge."""
        request_id = verification.request_id
        if found is None:
            return Decision(code=DecisionCode.KEY_INVALID, request_id=request_id)
        if found.revision < verification.min_revision:
            raise Unavailable("min_revision has not reached this server", reason="REVISION_NOT_REACHED")
        secret = found.record
        if secret is None or verification.tenant_id not in (None, secret.key.tenant_id):
            return Decision(code=DecisionCode.KEY_INVALID, request_id=request_id)
        now = self._clock()
        key = found.key_at(now)
        if key is None:
            self._record(secret, DecisionCode.KEY_INVALID, verification, now)
            return Decision(code=DecisionCode.KEY_INVALID, request_id=request_id)
        code = judge(key, verification.use, now=now, owner=secret.owner)
        if code is DecisionCode.ALLOWED and verification.is_charged_to(secret):
            return _Admitted(key, secret, found.revision, now, request_id, verification.once_id)
        self._record(secret, code, verification, now)
        return Decision(code=code, key=key, secret=secret.secret, revision=found.revision, request_id=request_id)

    async def _charge(self, verification: Verification, admitted: "_Admitted") -> Decision:
        key, secret = admitted.key, admitted.secret
        outcome = await self._charger.charge(
            key,
            owner=secret.owner,
            charges=verification.charges,
            consume=verification.consume,
            counts=_ALLOWED if verification.reserve else {**_ALLOWED, **verification.charges},
            request_id=admitted.once_id,
            reserve=verification.reserve,
            keep=verification.keep,
        )
        if outcome.reservation_id:
            counted = outcome.kept is not None or outcome.counted
            self._record_held(secret, verification, admitted.at, counted=counted)
        else:
            self._record(secret, outcome.code, verification, admitted.at, counted=outcome.counted)
        return Decision(
            code=outcome.code,
            key=key,
            secret=secret.secret,
            limits=outcome.limits,
            retry_after=outcome.retry_after,
            reservation_id=outcome.reservation_id,
            degradations=outcome.degradations,
            revision=admitted.revision,
            request_id=admitted.request_id,
            kept=_until_end(outcome.kept, key.expires_at, secret.expires_at, now=admitted.at),
        )

    def _record(
        self,
        secret: SecretRecord,
        code: DecisionCode,
        verification: Verification,
        now: datetime,
        *,
        counted: bool = False,
    ) -> None:
        client_ip = verification.use.client_ip
        if not verification.consume:
            return
        if code is DecisionCode.KEY_INVALID:
            self._usage.record_ended(secret, now=now)
        elif verification.by_caller or counted:
            self._usage.record_use(secret, client_ip=client_ip, now=now)
        else:
            self._usage.record(secret, code=code, charges=verification.charges, client_ip=client_ip, now=now)

    def _record_held(self, secret: SecretRecord, verification: Verification, now: datetime, *, counted: bool) -> None:
        """Units that are held, and the verifications of a kept answer, are counted by what ends the reservation."""
        client_ip = verification.use.client_ip
        if counted:
            self._usage.record_use(secret, client_ip=client_ip, now=now)
        else:
            self._usage.record(secret, code=DecisionCode.ALLOWED, charges={}, client_ip=client_ip, now=now)


class _Admitted(NamedTuple):
    """A verification that every rule but the limits allows."""

    key: Key
    secret: SecretRecord
    revision: int
    at: datetime
    request_id: str
    once_id: str


async def _or_fault(work: Coroutine[Any, Any, Decision]) -> Outcome:
    try:
        return await work
    except TollkeeperError as fault:
        return fault


def _until_end(kept: Kept | None, *ends_at: datetime | None, now: datetime) -> Kept | None:
    """No answer is kept beyond the end of its key, or of the API key that proved it."""
    if kept is None:
        return None
    return replace(kept, usable_for=min([kept.usable_for, *(end - now for end in ends_at if end is not None)]))
