"""Decides requests of end clients in the terms of a profile, by the one Verifier.

path ─ API key ─ route ─ verification ─ limits that the profile shows besides
"""

from collections.abc import Sequence

from tollkeeper_server.core.decision import Decision, DecisionCode
from tollkeeper_server.core.errors import TollkeeperError
from tollkeeper_server.core.limits import LimitState
from tollkeeper_server.core.policy import Use
from tollkeeper_server.edge.asked import Asked, Wanted
from tollkeeper_server.edge.callers import tenant_of
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.credentials import Credential, find_credential
from tollkeeper_server.edge.http_request import UNREADABLE
from tollkeeper_server.edge.outcome import Outcome, outcome_of
from tollkeeper_server.edge.profile import EdgeCode, Profile
from tollkeeper_server.verify.quotas import Quotas
from tollkeeper_server.verify.verification import Verification
from tollkeeper_server.verify.verifier import Verifier

_PROVEN = frozenset({DecisionCode.ALLOWED, DecisionCode.RESOURCE_DENIED, DecisionCode.PERMISSION_DENIED})
"""Decisions on a key with which nothing is wrong."""

_AFTER_CHARGE = frozenset(
    {
        DecisionCode.ALLOWED,
        DecisionCode.RATE_LIMITED,
        DecisionCode.QUOTA_EXCEEDED,
        DecisionCode.SPEND_LIMIT_EXCEEDED,
    }
)
"""Decisions that looked at limits, if anything was to be charged."""


class Gateway:
    """Decides requests of end clients."""

    def __init__(self, *, verifier: Verifier, quotas: Quotas, client_address: ClientAddress) -> None:
        self._verifier = verifier
        self._quotas = quotas
        self._client_address = client_address

    async def decide(self, asked: Asked, wanted: Wanted) -> Outcome:
        """What becomes of the request, charged if it is allowed.

        Raises PermissionDenied or FailedPrecondition if the calling gateway may not see the keys of the profile, and
        whatever the Verifier raises if no decision can be made.
        """
        tenant_id = tenant_of(asked.profile, asked.caller)
        credential = find_credential(asked.request, asked.profile.sources)
        if credential.conflict:
            return outcome_of(asked, EdgeCode.CREDENTIALS_CONFLICT)
        decision = await self._verifier.verify(self._question(asked, credential, wanted, tenant_id=tenant_id))
        return Outcome(
            code=wanted.refusal if wanted.refusal and decision.code in _PROVEN else decision.code,
            profile=asked.profile,
            request_id=asked.request_id,
            key=decision.key,
            limits=await self._limits(asked.profile, wanted, decision),
            retry_after=decision.retry_after,
            reservation_id=decision.reservation_id,
            used=credential.used,
        )

    def _question(self, asked: Asked, credential: Credential, wanted: Wanted, *, tenant_id: str) -> Verification:
        api_key = credential.api_key
        return Verification(
            # What does not look like a key of this API is to be invalid here even if it is another API's.
            api_key=api_key if not api_key or asked.profile.key_shape.fits(api_key) else UNREADABLE,
            tenant_id=tenant_id,
            use=Use(
                resource=wanted.resource,
                required_permissions=wanted.permissions,
                client_ip=self._client_address.of(asked.request),
            ),
            charges=wanted.charges,
            reserve=wanted.reserve,
            # No once_id: a client could repeat the id of its request, and be charged once for all.
            request_id=asked.request_id,
        )

    async def _limits(self, profile: Profile, wanted: Wanted, decision: Decision) -> Sequence[LimitState]:
        """Where the limits stand; if the profile always shows them, also after a denial that did not look at them."""
        key = decision.key
        looked_at = bool(wanted.charges) and decision.code in _AFTER_CHARGE
        if looked_at or key is None or not profile.limit_headers.every_answer:
            return decision.limits
        try:
            report = await self._quotas.check(tenant_id=key.tenant_id, key_id=key.key_id, charges={})
        except TollkeeperError:
            return ()  # the decision stands without them
        return report.limits
