"""envoy.service.auth.v3.Authorization: Envoy asks about each request before it goes upstream."""

from collections.abc import Callable
from datetime import datetime

import orjson
from envoy.service.auth.v3 import external_auth_pb2 as pb

from tollkeeper_server.api.call import Call
from tollkeeper_server.api.handler import rpc
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.core.caller import CallerPermission
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import InvalidArgument, ResourceExhausted, Unavailable
from tollkeeper_server.edge.answers import Allowances, denied, refused, undecided
from tollkeeper_server.edge.asked import Asked, wanted_by
from tollkeeper_server.edge.creation import KeyCreator
from tollkeeper_server.edge.gateway import Gateway
from tollkeeper_server.edge.http_request import HttpRequest
from tollkeeper_server.edge.library import ProfileLibrary
from tollkeeper_server.edge.outcome import Outcome, outcome_of
from tollkeeper_server.edge.profile import EdgeCode
from tollkeeper_server.edge.route_context import read_context

CONTEXT_INVALID = "CONTEXT_INVALID"
PROFILE_UNKNOWN = "PROFILE_UNKNOWN"


class AuthorizationServicer:
    """Answers Envoy's Check in the terms of a profile."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        creator: KeyCreator,
        profiles: ProfileLibrary,
        clock: Callable[[], datetime],
        metrics: CallMetrics,
    ) -> None:
        self._gateway = gateway
        self._creator = creator
        self._profiles = profiles
        self._clock = clock
        self._metrics = metrics
        self._allowances = Allowances()

    @rpc(CallerPermission.VERIFY)
    async def Check(self, request: pb.CheckRequest, call: Call) -> pb.CheckResponse | bytes:
        """Whether the request may go on.

        What the gateway's own configuration gets wrong is refused with 403: as a denial, which ``failure_mode_allow``
        does not let through.
        """
        http = HttpRequest(request.attributes)
        call.request_id = http.request_id or call.request_id
        try:
            context = read_context(request.attributes.context_extensions)
        except InvalidArgument as fault:
            return self._refused(call, CONTEXT_INVALID, fault.message)
        profiles = self._profiles.current
        profile = profiles.of_host(http.host) if context.profile is None else profiles.named(context.profile)
        if profile is None:
            return self._refused(call, PROFILE_UNKNOWN, "no profile is for this request")
        asked = Asked(request=http, profile=profile, context=context, caller=call.caller, request_id=call.request_id)
        outcome = await self._outcome(asked)
        now = self._clock()
        if isinstance(outcome.code, EdgeCode):
            call.reason = outcome.code.value
            return undecided(outcome, now=now) if outcome.code is EdgeCode.UNAVAILABLE else denied(outcome, now=now)
        call.decision = outcome.code
        self._metrics.decided(outcome.code)
        if outcome.code is DecisionCode.ALLOWED:
            return self._allowances.of(outcome, http, now=now)
        return denied(outcome, now=now)

    async def _outcome(self, asked: Asked) -> Outcome:
        """What becomes of the request. If nothing can be decided, that is an outcome where the profile answers it."""
        wanted = wanted_by(asked)
        try:
            if wanted.creation is not None:
                return await self._creator.create(asked, wanted.creation)
            return await self._gateway.decide(asked, wanted)
        except (Unavailable, ResourceExhausted):
            if EdgeCode.UNAVAILABLE not in asked.profile.answers:
                raise
            return outcome_of(asked, EdgeCode.UNAVAILABLE)

    @staticmethod
    def _refused(call: Call, reason: str, message: str) -> pb.CheckResponse:
        call.reason = reason
        error = {"code": reason, "message": message, "request_id": call.request_id}
        return refused(status=403, body=orjson.dumps({"error": error}).decode())
