"""Calls that repeat earlier ones: answered without being read again, as long as the same answer holds.

A service that protects an endpoint asks the same of a hot API key again and again: same caller, same address, same
message, byte for byte. Whether it is still right is asked each time, of the records in memory and their lease; what
else went into the answer is in what repeats. So no answer outlives a change, and charges are made each time.
"""

from collections.abc import Coroutine
from functools import partial
from typing import Any, NamedTuple

from tollkeeper_server.api.answers import Answers
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.handler import BeginAnswer
from tollkeeper_server.api.metadata import bearer_token, new_request_id, shown_credentials
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import TollkeeperError
from tollkeeper_server.core.recurring import Recurring
from tollkeeper_server.verify.begun import Outcome
from tollkeeper_server.verify.proofs import Places, Proof, Proofs
from tollkeeper_server.verify.verification import Precedent
from tollkeeper_server.verify.verifier import Verifier

REPEATS_MAX = 8_192
SEEN_MAX = 16_384


class Known(NamedTuple):
    """A question that was allowed: as long as the precedent stands, its answer is known but for ids and limits."""

    precedent: Precedent
    start: bytes
    """What the answer begins with."""


class _Repeat(NamedTuple):
    proof: Proof
    known: Known


class Repeats:
    """Remembers calls of Verify, and answers those that repeat one of them."""

    def __init__(self, *, verifier: Verifier, proofs: Proofs, answers: Answers, metrics: CallMetrics) -> None:
        self._verifier = verifier
        self._proofs = proofs
        self._answers = answers
        self._metrics = metrics
        self._places = Places()
        self._repeats = Recurring[_Repeat](values_max=REPEATS_MAX, seen_max=SEEN_MAX)

    def recall(self, received: bytes, call: Call) -> bytes | BeginAnswer | None:
        """The answer to ``received``, or what begins it; None if it has to be read.

        Who calls, the decision and the trace in the usage are the same as if it were read.
        """
        shown = shown_credentials(call.metadata)
        if len(shown) != 1:
            return None
        # With its length, so that nothing shown can be taken for the beginning of a message.
        place = self._places.of(f"{call.address} {len(shown[0])} {shown[0]!s} ".encode() + received)
        repeat = self._repeats.get(place)
        answer = None if repeat is None else self._again(repeat, call)
        if repeat is not None or self._repeats.recurs(place):
            call.place = place  # if it is read, it is worth to be remembered
        return answer

    def remember(self, known: Known, call: Call) -> None:
        """Remember a call that asks what is known, if such calls come again."""
        if call.place is None:
            return
        proof = self._proofs.find(bearer_token(call.metadata), address=call.address)
        if proof is not None:
            self._repeats.put(call.place, _Repeat(proof, known))

    def _again(self, repeat: _Repeat, call: Call) -> bytes | BeginAnswer | None:
        precedent, start = repeat.known
        if precedent.is_charged:
            return partial(self._charge, repeat, call)
        if not self._verifier.allows_again(repeat.proof.precedent, precedent):
            return None
        self._name(repeat, call)
        self._count(DecisionCode.ALLOWED, call)
        return start + self._answers.end(call.request_id, self._verifier.revision)

    def _charge(self, repeat: _Repeat, call: Call) -> Coroutine[Any, Any, bytes] | None:
        if not self._verifier.allows_again(repeat.proof.precedent):
            return None
        self._name(repeat, call)
        work = self._verifier.charge_again(repeat.known.precedent, request_id=call.request_id)
        return None if work is None else self._decided(work, call)

    async def _decided(self, work: Coroutine[Any, Any, Outcome], call: Call) -> bytes:
        outcome = await work
        if isinstance(outcome, TollkeeperError):
            raise outcome
        self._count(outcome.code, call)
        return self._answers.of(outcome)

    def _name(self, repeat: _Repeat, call: Call) -> None:
        call.caller = repeat.proof.caller
        call.request_id = new_request_id()

    def _count(self, code: DecisionCode, call: Call) -> None:
        call.decision = code
        self._metrics.decided(code)
