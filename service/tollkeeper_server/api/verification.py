"""VerificationService: the request path."""

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.answers import Answers
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.convert_verification import (
    charges_from,
    check_quota_response,
    settle_response,
)
from tollkeeper_server.api.errors import status_of
from tollkeeper_server.api.handler import rpc
from tollkeeper_server.api.metadata import is_request_id, new_request_id
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.api.questions import Questions, visible_tenant
from tollkeeper_server.api.repeats import Known, Repeats
from tollkeeper_server.api.validate_verification import BATCH_VERIFY, CHECK_QUOTA, SETTLE
from tollkeeper_server.api.verify_stream import LateResults, Results, VerificationStream
from tollkeeper_server.api.watch import watch
from tollkeeper_server.api.wire import delimited, tag
from tollkeeper_server.core.caller import CallerPermission
from tollkeeper_server.core.decision import Decision, DecisionCode
from tollkeeper_server.core.errors import TollkeeperError
from tollkeeper_server.core.recurring import Recurring
from tollkeeper_server.verify.begun import Begun, Outcome, Told, as_they_come, at_once, together
from tollkeeper_server.verify.proofs import Proofs
from tollkeeper_server.verify.quotas import Quotas
from tollkeeper_server.verify.verifier import Verifier
from tollkeeper_server.verify.watchers import Watchers

KNOWN_MAX = 8_192
SEEN_MAX = 16_384

_BATCH_RESULT = tag(pb.BatchVerifyResponse, "results")
_RESPONSE = tag(pb.VerifyResult, "response")


class VerificationServicer:
    """Answers verifications of one at a time and of many."""

    def __init__(
        self, *, verifier: Verifier, quotas: Quotas, proofs: Proofs, watchers: Watchers, metrics: CallMetrics
    ) -> None:
        self._verifier = verifier
        self._quotas = quotas
        self._watchers = watchers
        self._metrics = metrics
        self._questions = Questions()
        self._answers = Answers()
        self._known = Recurring[Known](values_max=KNOWN_MAX, seen_max=SEEN_MAX)
        self.repeats = Repeats(verifier=verifier, proofs=proofs, answers=self._answers, metrics=metrics)

    @rpc(CallerPermission.VERIFY)
    async def Verify(self, request: pb.VerifyRequest, call: Call) -> bytes:
        """One verification, its answer encoded."""
        # Never the id that a header gave: one request of a user may cost several verifications, each charged once.
        call.request_id = _id_of(request)
        begun = self._begin_one(request, call, request_id=call.request_id)
        told = await begun if isinstance(begun, Coroutine) else begun
        if isinstance(told, TollkeeperError):
            raise told
        call.decision = _code_of(told)
        if call.place is not None and call.decision is DecisionCode.ALLOWED and not request.request_id:
            self._remember(request, call)
        return self._answer(told)

    @rpc(CallerPermission.VERIFY)
    async def BatchVerify(self, request: pb.BatchVerifyRequest, call: Call) -> bytes:
        """Many verifications; what is wrong with one is the answer to that one alone. The answer is encoded."""
        BATCH_VERIFY.check(request)
        ids, begun = self._begin(request.requests, call, at="requests[{}].")
        told = zip(await together(begun), ids, strict=True)
        results = [self._result(each, request_id=name) for each, name in told]
        return b"".join(delimited(_BATCH_RESULT, result) for result in results)

    @rpc(CallerPermission.VERIFY)
    def VerifyStream(self, requests: AsyncIterator[pb.VerifyStreamRequest], call: Call) -> AsyncGenerator[bytes, None]:
        """Batch after batch, each question answered as BatchVerify would."""
        return VerificationStream(requests, call, decide=partial(self._decide, call)).responses()

    @rpc(CallerPermission.VERIFY)
    def WatchInvalidations(
        self, requests: AsyncIterator[pb.WatchInvalidationsRequest], call: Call
    ) -> AsyncGenerator[pb.WatchInvalidationsResponse, None]:
        """The changes that end kept answers, and the lease under which they may be given."""
        return watch(requests, call, watchers=self._watchers, verifier=self._verifier)

    @rpc(CallerPermission.VERIFY)
    async def CheckQuota(self, request: pb.CheckQuotaRequest, call: Call) -> pb.CheckQuotaResponse:
        """The limits of a key as they stand."""
        CHECK_QUOTA.check(request)
        named = request.tenant_id
        report = await self._quotas.check(
            tenant_id=call.caller.tenant(named) if request.owner_id else visible_tenant(call.caller, named=named),
            key_id=request.key_id,
            api_key=request.api_key,
            owner_id=request.owner_id,
            charges=charges_from(request.charges),
        )
        return check_quota_response(report)

    @rpc(CallerPermission.VERIFY)
    async def Settle(self, request: pb.SettleRequest, call: Call) -> pb.SettleResponse:
        """What a reservation really cost."""
        SETTLE.check(request)
        settlement = await self._verifier.settle(
            request.reservation_id,
            tenant_id=visible_tenant(call.caller, named=""),
            charges=dict(request.charges),
            verifications=request.verifications or 1,
        )
        return settle_response(settlement)

    def _decide(self, call: Call, requests: Sequence[pb.VerifyRequest]) -> tuple[Results, LateResults | None]:
        """What is known at once, and what comes later, if anything does."""
        ids, begun = self._begin(requests, call)
        known = self._results(at_once(begun), ids)
        return known, None if len(known) == len(begun) else self._late_results(begun, ids)

    async def _late_results(self, begun: Sequence[Begun], ids: Sequence[str]) -> LateResults:
        async with aclosing(as_they_come(begun)) as parts:
            async for part in parts:
                yield self._results(part, ids)

    def _results(self, told: Mapping[int, Told], ids: Sequence[str]) -> Results:
        return {position: self._result(each, request_id=ids[position]) for position, each in told.items()}

    def _begin(
        self, requests: Sequence[pb.VerifyRequest], call: Call, *, at: str = ""
    ) -> tuple[list[str], list[Begun]]:
        """Begin to decide each on its own; ``at`` is where it is found, with its position to be filled in."""
        call.verifications += len(requests)
        ids = [_id_of(request) for request in requests]
        begun: list[Begun] = []
        for position, (request, request_id) in enumerate(zip(requests, ids, strict=True)):
            try:
                begun.append(self._begin_one(request, call, request_id=request_id, at=at.format(position)))
            except TollkeeperError as fault:
                begun.append(fault)
        return ids, begun

    def _begin_one(self, request: pb.VerifyRequest, call: Call, *, request_id: str, at: str = "") -> Begun:
        """Begin to decide one. What was asked before, and allowed, is neither read nor judged again."""
        named = request.request_id
        place = self._questions.place(request, call.caller)
        known = self._known.get(place)
        if known is not None and named in ("", request_id):
            again = self._again(known, request_id=request_id, once_id=named)
            if again is not None:
                return again
        question = self._questions.read(request, call.caller, request_id=request_id, at=at)
        if self._known.recurs(place) and (precedent := self._verifier.precedent(question)) is not None:
            record = precedent.record
            start = self._answers.start(DecisionCode.ALLOWED, key=record.key, secret=record.secret)
            self._known.put(place, Known(precedent, start))
        return self._verifier.begin(question)

    def _again(self, known: Known, *, request_id: str, once_id: str) -> bytes | Coroutine[Any, Any, Outcome] | None:
        precedent, start = known
        if precedent.is_charged:
            return self._verifier.charge_again(precedent, request_id=request_id, once_id=once_id)
        if not self._verifier.allows_again(precedent):
            return None
        return start + self._answers.end(request_id, self._verifier.revision)

    def _remember(self, request: pb.VerifyRequest, call: Call) -> None:
        known = self._known.get(self._questions.place(request, call.caller))
        if known is not None:
            self.repeats.remember(known, call)

    def _answer(self, told: bytes | Decision) -> bytes:
        self._metrics.decided(_code_of(told))
        return told if isinstance(told, bytes) else self._answers.of(told)

    def _result(self, told: Told, *, request_id: str) -> bytes:
        """A VerifyResult, encoded."""
        if isinstance(told, TollkeeperError):
            return pb.VerifyResult(error=status_of(told, request_id=request_id)).SerializeToString()
        return delimited(_RESPONSE, self._answer(told))


def _code_of(told: bytes | Decision) -> DecisionCode:
    """What was decided; only answers to what is ALLOWED are known before."""
    return DecisionCode.ALLOWED if isinstance(told, bytes) else told.code


def _id_of(request: pb.VerifyRequest) -> str:
    """The id that the request names; a new one if it names none, or one that is refused and must not be shown."""
    return request.request_id if is_request_id(request.request_id) else new_request_id()
