"""The request path: may this key do this, now, from here, at this cost?"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from tollkeeper._async.calls import AsyncCalls
from tollkeeper._decisions import Decision, QuotaReport, Settlement, Verification
from tollkeeper._errors import CallError, Unavailable
from tollkeeper._near_cache import Ask, NearCache, question_of
from tollkeeper._requests import verification as requests
from tollkeeper._results import verification as results
from tollkeeper.v1 import verification_service_pb2 as pb


class AsyncVerificationCalls(AsyncCalls):
    """Verifies API keys, and charges and settles what they use."""

    async def verify(
        self,
        api_key: str,
        *,
        resource: str = "",
        permissions: Sequence[str] = (),
        client_ip: str | IPv4Address | IPv6Address | None = None,
        charges: Mapping[str, int] | None = None,
        reserve: bool = False,
        dry_run: bool = False,
        min_revision: int = 0,
        request_id: str | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> Decision:
        """Verifies an API key and charges what the request is about to use. A denial is an answer, not an error.

        :param api_key: as the end client sent it; empty answers KEY_MISSING.
        :param resource: what the request is for.
        :param permissions: every permission that the request needs.
        :param client_ip: address of the end client, needed for keys that are bound to networks.
        :param charges: amount by unit; None charges one of ``requests``, an empty mapping nothing.
        :param reserve: holds the charge until :meth:`settle`, for costs known only afterwards.
        :param dry_run: decides as if the charge were made, and charges nothing.
        :param min_revision: the answer reflects every change up to this revision.
        :param request_id: names the verification, so that a repeated one is charged once; made up if None.
        :param tenant_id: knows this tenant's keys only; for root callers.
        """
        near, question = self._near_cache, None
        if near is not None and not (reserve or dry_run or request_id):
            question = question_of(api_key, resource, permissions, client_ip, charges, tenant_id)
            kept = near.recall(question, min_revision)
            if kept is not None:
                return kept
        verification = Verification(
            api_key,
            resource=resource,
            permissions=permissions,
            client_ip=client_ip,
            charges=charges,
            reserve=reserve,
            dry_run=dry_run,
            min_revision=min_revision,
            request_id=request_id,
            tenant_id=tenant_id,
        )
        request = requests.verify(verification)
        if near is not None and question is not None and (ask := near.ask(question, charges)) is not None:
            return await self._verify_and_keep(near, ask, request, timeout)
        return results.decision(await self._verify(request, timeout))

    async def verify_many(
        self, verifications: Iterable[Verification], *, timeout: float | None = None
    ) -> list[Decision | CallError]:
        """Verifies up to 1,000 at once: one outcome each, in order. What could not be decided is a CallError."""
        request = requests.batch_verify(verifications)
        if not request.requests:
            return []
        response = await self._call(self._stubs.verification.BatchVerify, request, timeout, self._verify_timeout)
        return results.decisions(response, request)

    async def check_quota(
        self,
        *,
        key_id: str | None = None,
        api_key: str | None = None,
        owner_id: str | None = None,
        charges: Mapping[str, int] | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> QuotaReport:
        """The state of every limit of a key or an owner, and whether ``charges`` would fit. Consumes nothing.

        Give exactly one of ``key_id``, ``api_key`` and ``owner_id``; ``tenant_id`` is the owner's, for root callers.
        Raises :class:`NotFound` if there is none such.
        """
        request = requests.check_quota(
            key_id=key_id, api_key=api_key, owner_id=owner_id, charges=charges, tenant_id=tenant_id
        )
        response = await self._call(self._stubs.verification.CheckQuota, request, timeout, self._verify_timeout)
        return results.quota_report(response)

    async def settle(
        self, reservation_id: str, charges: Mapping[str, int], *, timeout: float | None = None
    ) -> Settlement:
        """Replaces the held charge of a reservation by what was really used; empty ``charges`` release all of it.

        More than was held is recorded as overdraft and blocks what follows. Settling again changes nothing and says so.
        Raises :class:`NotFound` if there is no such reservation.
        """
        request = requests.settle(reservation_id, charges)
        response = await self._call(self._stubs.verification.Settle, request, timeout, self._verify_timeout)
        return results.settlement(response)

    async def _verify(self, request: pb.VerifyRequest, timeout: float | None) -> pb.VerifyResponse:
        """One question to a server."""
        response: pb.VerifyResponse = await self._call(self._verify_rpc, request, timeout, self._verify_timeout)
        return response

    async def _verify_and_keep(
        self, near: NearCache, ask: Ask, request: pb.VerifyRequest, timeout: float | None
    ) -> Decision:
        """As ``_verify``, and keep the answer as far as the server allows it."""
        request.keep = ask.keep
        try:
            response = await self._verify(request, timeout)
        except Unavailable:
            if ask.keep == 1:
                raise
            near.no_blocks()
            request.keep = 0  # charging one takes fewer stores, and the same request is charged once
            response = await self._verify(request, timeout)
        finally:
            near.done(ask)
        decision = results.decision(response)
        near.keep(
            ask,
            decision,
            block=response.kept.verifications if response.HasField("kept") else 1,
            usable_for=response.kept.usable_for.ToNanoseconds() / 1e9,
            reservation_id=response.reservation_id if response.HasField("kept") else "",
        )
        return decision
