"""Calls that repeat earlier ones: answered without being read again, as long as the same answer holds.

A service that protects an endpoint asks the same of a hot API key again and again: same caller, same address, same
message, byte for byte. Whether it is still right is asked each time, of the records in memory and their lease; what
else went into the answer is in what repeats. So no answer outlives a change, and charges are made each time.

A call is remembered when it comes for the second time, so that calls that never repeat cost next to nothing, and by a
hash that only this process can make, so that no API key stays in memory.
"""

from collections.abc import Coroutine
from typing import Any, NamedTuple

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.answers import Answers
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.metadata import bearer_token, new_request_id, shown_credentials
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.core.decision import Decision, DecisionCode
from tollkeeper_server.verify.proofs import Places, Proof, Proofs
from tollkeeper_server.verify.verification import Precedent, Verification
from tollkeeper_server.verify.verifier import Verifier

SEEN_MAX = 16_384
KNOWN_MAX = 8_192


class _Known(NamedTuple):
    proof: Proof
    precedent: Precedent
    start: bytes
    """What the answer begins with."""


class Repeats:
    """Remembers calls of Verify, and answers those that repeat one of them."""

    def __init__(self, *, verifier: Verifier, proofs: Proofs, answers: Answers, metrics: CallMetrics) -> None:
        self._verifier = verifier
        self._proofs = proofs
        self._answers = answers
        self._metrics = metrics
        self._places = Places()
        self._seen: dict[bytes, None] = {}
        self._known: dict[bytes, _Known] = {}

    def recall(self, received: bytes, call: Call) -> bytes | Coroutine[Any, Any, bytes] | None:
        """The answer to ``received``, or the work that is left for it; None if it has to be read.

        Who calls, the decision and the trace in the usage are the same as if it were read.
        """
        credentials = shown_credentials(call.metadata)
        if len(credentials) != 1:
            return None
        place = self._places.of(f"{call.address} {credentials[0]!s} ".encode() + received)
        known = self._known.get(place)
        if known is None:
            self._see(place, call)
            return None
        if not self._verifier.allows_again(known.proof.precedent):
            return None
        call.caller = known.proof.caller
        call.request_id = new_request_id()
        if known.precedent.is_charged:
            work = self._verifier.charge_again(known.precedent, request_id=call.request_id)
            return None if work is None else self._decided(work, call)
        if not self._verifier.allows_again(known.precedent):
            return None
        call.decision = DecisionCode.ALLOWED
        self._metrics.decided(DecisionCode.ALLOWED)
        return known.start + self._answers.end(call.request_id, self._verifier.revision)

    def remember(self, request: pb.VerifyRequest, verification: Verification, decision: Decision, call: Call) -> None:
        """Remember what ``decision`` answered, if such calls come again. Those that have an id of their own do not."""
        if call.place is None or request.request_id:
            return
        proof = self._proofs.find(bearer_token(call.metadata), address=call.address)
        precedent = self._verifier.precedent(verification, decision)
        if proof is None or precedent is None:
            return
        if len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[call.place] = _Known(proof, precedent, self._answers.start(decision))

    def _see(self, place: bytes, call: Call) -> None:
        if place in self._seen:
            call.place = place
            return
        if len(self._seen) >= SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[place] = None

    async def _decided(self, work: Coroutine[Any, Any, Decision], call: Call) -> bytes:
        decision = await work
        call.decision = decision.code
        self._metrics.decided(decision.code)
        return self._answers.of(decision)
