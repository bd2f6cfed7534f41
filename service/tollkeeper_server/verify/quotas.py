"""Limits by themselves: where they stand, and charges by those who know whose request it is."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from tollkeeper_server.core.decision import DecisionCode, DegradationReason
from tollkeeper_server.core.errors import NotFound
from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.core.limits import LimitState
from tollkeeper_server.core.value import value
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.demands import ChargeOutcome
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.verify.directory import KeyDirectory


@value
class QuotaReport:
    """Where limits stand, and the code that Verify would give for them alone."""

    code: DecisionCode
    limits: tuple[LimitState, ...]
    retry_after: timedelta | None
    degradations: tuple[DegradationReason, ...]


class Quotas:
    """Looks at limits, and charges them, whatever else there is to say of a key.

    Every method raises Unavailable or ResourceExhausted if a store that the answer needs does not answer.
    """

    def __init__(
        self, *, directory: KeyDirectory, charger: Charger, usage: UsageRecorder, clock: Callable[[], datetime]
    ) -> None:
        self._directory = directory
        self._charger = charger
        self._usage = usage
        self._clock = clock

    async def check(
        self,
        *,
        tenant_id: str | None,
        key_id: str = "",
        api_key: str = "",
        owner_id: str = "",
        charges: Mapping[str, int],
    ) -> QuotaReport:
        """Where limits stand: those of a key and its owner, named by ``key_id`` or ``api_key``, or of an owner alone.

        Consumes nothing. Raises NotFound if ``tenant_id`` (None: any tenant, for keys only) has no such key or owner.
        """
        if owner_id:
            assert tenant_id is not None, "owners are named inside a tenant"
            return await self._report(None, await self._owner(tenant_id, owner_id), charges=charges, consume=False)
        key, owner = await self._known(tenant_id, key_id=key_id, api_key=api_key)
        return await self._report(key, owner, charges=charges, consume=False)

    async def charge(
        self, *, tenant_id: str, key_id: str = "", owner_id: str = "", charges: Mapping[str, int]
    ) -> QuotaReport:
        """As ``check``, and charge if it fits; nothing else about the key or owner is looked at.

        For gateways that know whose request it is, and ask for limits alone. What only an owner was charged is in no
        key's usage.
        """
        if owner_id:
            return await self._report(None, await self._owner(tenant_id, owner_id), charges=charges, consume=True)
        key, owner = await self._known(tenant_id, key_id=key_id, api_key="")
        outcome = await self._charger.charge(key, owner=owner, charges=charges, consume=True, counts=charges)
        if outcome.code is DecisionCode.ALLOWED and not outcome.counted:
            self._usage.record_charge(key, charges=charges, now=self._clock())
        return _report(outcome)

    async def _report(
        self, key: Key | None, owner: Owner | None, *, charges: Mapping[str, int], consume: bool
    ) -> QuotaReport:
        return _report(await self._charger.charge(key, owner=owner, charges=charges, consume=consume))

    async def _owner(self, tenant_id: str, owner_id: str) -> Owner:
        owner = await self._directory.find_owner(tenant_id, owner_id)
        if owner is None:
            raise NotFound("there is no such owner", reason="OWNER_NOT_FOUND")
        return owner

    async def _known(self, tenant_id: str | None, *, key_id: str, api_key: str) -> tuple[Key, Owner | None]:
        key, owner = await self._found(key_id=key_id, api_key=api_key)
        if key is None or tenant_id not in (None, key.tenant_id):
            raise NotFound("there is no such key", reason="KEY_NOT_FOUND")
        return key, owner

    async def _found(self, *, key_id: str, api_key: str) -> tuple[Key | None, Owner | None]:
        if key_id:
            return await self._directory.find_by_key_id(key_id)
        found = await self._directory.find(api_key)
        if found is None or found.record is None:
            return None, None
        return found.key_at(self._clock()), found.record.owner


def _report(outcome: ChargeOutcome) -> QuotaReport:
    return QuotaReport(
        code=outcome.code, limits=outcome.limits, retry_after=outcome.retry_after, degradations=outcome.degradations
    )
