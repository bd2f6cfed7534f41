"""Answers to verifications, of which the parts that repeat are made once.

They are made as bytes, part by part: protobuf reads messages that stand one after the other as one.
"""

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.convert_limits import limit_state_message
from tollkeeper_server.api.convert_verification import answer_rest, answer_start
from tollkeeper_server.core.decision import Decision, DecisionCode
from tollkeeper_server.core.key import Key, Secret
from tollkeeper_server.core.limits import LimitState

STARTS_MAX = 4096
LIMITS_MAX = 64

# A string of fewer than 128 bytes, as request ids are: number and kind of the field, length, text.
_REQUEST_ID_TAG = bytes((pb.VerifyResponse.DESCRIPTOR.fields_by_name["request_id"].number << 3 | 2,))


class Answers:
    """Makes answers, encoded. For each key, as it is held in memory, keeps the bytes that they begin with.

    Charges that were made together are told the same of their limits, so that is encoded for all of them at once.
    """

    def __init__(self) -> None:
        self._starts: dict[tuple[int, DecisionCode, Secret | None], tuple[Key | None, bytes]] = {}
        self._limits: dict[int, tuple[tuple[LimitState, ...], bytes]] = {}
        self._revision: tuple[int, bytes] = (0, b"")

    def of(self, decision: Decision) -> bytes:
        """What is told of ``decision``."""
        answer = self.start(decision) + self.end(decision.request_id, decision.revision)
        if decision.limits:
            answer += self._of_limits(decision.limits)
        rest = answer_rest(decision)
        return answer if rest is None else answer + rest.SerializeToString()

    def start(self, decision: Decision) -> bytes:
        """What is told of the code and the key, the same for every such decision about the same API key."""
        code, key, secret = decision.code, decision.key, decision.secret
        place = id(key), code, secret
        made = self._starts.get(place)
        if made is not None and made[0] is key:
            return made[1]
        if len(self._starts) >= STARTS_MAX:
            del self._starts[next(iter(self._starts))]
        start = answer_start(code, key=key, secret=secret).SerializeToString()
        self._starts[place] = (key, start)  # holding the key keeps its id from being another's
        return start

    def end(self, request_id: str, revision: int) -> bytes:
        """What is told of the call, and of the revision that is reflected."""
        known, told = self._revision
        if known != revision:
            told = pb.VerifyResponse(revision=revision).SerializeToString()
            self._revision = revision, told
        named = request_id.encode()
        return told + _REQUEST_ID_TAG + bytes((len(named),)) + named

    def _of_limits(self, limits: tuple[LimitState, ...]) -> bytes:
        made = self._limits.get(id(limits))
        if made is not None and made[0] is limits:
            return made[1]
        if len(self._limits) >= LIMITS_MAX:
            del self._limits[next(iter(self._limits))]
        told = pb.VerifyResponse(limits=map(limit_state_message, limits)).SerializeToString()
        self._limits[id(limits)] = (limits, told)
        return told
