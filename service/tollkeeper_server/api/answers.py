"""Answers to verifications, of which the parts that repeat are made once.

They are made as bytes, part by part: protobuf reads messages that stand one after the other as one.
"""

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.convert_limits import limit_state_message
from tollkeeper_server.api.convert_verification import answer_rest, answer_start
from tollkeeper_server.api.wire import delimited, tag
from tollkeeper_server.core.decision import Decision, DecisionCode
from tollkeeper_server.core.key import Key, Secret
from tollkeeper_server.core.limits import LimitState
from tollkeeper_server.core.made_once import MadeOnce

STARTS_MAX = 4096
LIMITS_MAX = 64

_REQUEST_ID = tag(pb.VerifyResponse, "request_id")


class Answers:
    """Makes answers, encoded. For each key, as it is held in memory, keeps the bytes that they begin with.

    Charges that were made together are told the same of their limits, so that is encoded for all of them at once.
    """

    def __init__(self) -> None:
        self._starts = MadeOnce[bytes](values_max=STARTS_MAX)
        self._limits = MadeOnce[bytes](values_max=LIMITS_MAX)
        self._revision: tuple[int, bytes] = (0, b"")

    def of(self, decision: Decision) -> bytes:
        """What is told of ``decision``."""
        start = self.start(decision.code, key=decision.key, secret=decision.secret)
        answer = start + self.end(decision.request_id, decision.revision)
        if decision.limits:
            answer += self._of_limits(decision.limits)
        rest = answer_rest(decision)
        return answer if rest is None else answer + rest.SerializeToString()

    def start(self, code: DecisionCode, *, key: Key | None, secret: Secret | None) -> bytes:
        """What is told of the code and the key, the same for every such decision about the same API key."""
        made = self._starts.get(key, code, secret)
        if made is not None:
            return made
        start = answer_start(code, key=key, secret=secret).SerializeToString()
        return self._starts.put(start, key, code, secret)

    def end(self, request_id: str, revision: int) -> bytes:
        """What is told of the call, and of the revision that is reflected."""
        known, told = self._revision
        if known != revision:
            told = pb.VerifyResponse(revision=revision).SerializeToString()
            self._revision = revision, told
        return told + delimited(_REQUEST_ID, request_id.encode())

    def _of_limits(self, limits: tuple[LimitState, ...]) -> bytes:
        made = self._limits.get(limits)
        if made is not None:
            return made
        told = pb.VerifyResponse(limits=map(limit_state_message, limits)).SerializeToString()
        return self._limits.put(told, limits)
