"""envoy.service.ratelimit.v3.RateLimitService: gateways that know whose request it is, and ask for its limits alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from envoy.config.core.v3 import base_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2 as pb

from tollkeeper_server.api import fields
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.convert import duration_from
from tollkeeper_server.api.handler import rpc
from tollkeeper_server.core.caller import CallerPermission
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import InvalidArgument, NotFound, Violation
from tollkeeper_server.edge.callers import tenant_of
from tollkeeper_server.edge.library import ProfileLibrary
from tollkeeper_server.edge.outcome import Outcome, answer_of, limit_headers
from tollkeeper_server.edge.profile import Profile
from tollkeeper_server.verify.quotas import QuotaReport, Quotas

DESCRIPTORS_MAX = 16
_UINT32_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Demand:
    """What one descriptor asks for."""

    subject: Mapping[str, str]
    """``key_id`` or ``owner_id``."""
    charges: Mapping[str, int]


class RateLimitServicer:
    """Charges the limits of the key (and its owner), or of the owner alone, that a descriptor names.

    The domain is the name of a profile: its tenant is whose keys count, and its words are what a client gets that is
    over a limit. A descriptor has an entry ``key_id`` or ``owner_id``, and may have one ``unit``, else "requests" are
    counted.
    """

    def __init__(self, *, quotas: Quotas, profiles: ProfileLibrary, clock: Callable[[], datetime]) -> None:
        self._quotas = quotas
        self._profiles = profiles
        self._clock = clock

    @rpc(CallerPermission.VERIFY)
    async def ShouldRateLimit(self, request: pb.RateLimitRequest, call: Call) -> pb.RateLimitResponse:
        """Whether the request fits, charged if it does.

        Of several descriptors all have to fit. They are asked first, then charged one after the other: should another
        request be faster in between, those before the one that no longer fits stay charged.
        """
        profile = self._profiles.current.named(request.domain)
        if profile is None:
            raise NotFound("the domain is the name of no profile", reason="PROFILE_UNKNOWN")
        tenant_id = tenant_of(profile, call.caller)
        demands = _demands(request)
        reports: list[QuotaReport] = []
        if len(demands) > 1:
            reports = [
                await self._quotas.check(tenant_id=tenant_id, charges=demand.charges, **demand.subject)
                for demand in demands
            ]
        if all(report.code is DecisionCode.ALLOWED for report in reports):
            reports = [
                await self._quotas.charge(tenant_id=tenant_id, charges=demand.charges, **demand.subject)
                for demand in demands
            ]
        outcome = _outcome(profile, reports, request_id=call.request_id)
        call.decision = outcome.code if isinstance(outcome.code, DecisionCode) else None
        return _response(outcome, reports, now=self._clock())


def _demands(request: pb.RateLimitRequest) -> list[Demand]:
    """What is asked for; raises InvalidArgument with everything that is not understood."""
    violations = []
    if not 1 <= len(request.descriptors) <= DESCRIPTORS_MAX:
        violations.append(Violation("descriptors", f"must be 1 to {DESCRIPTORS_MAX}"))
    demands = []
    for index, descriptor in enumerate(request.descriptors):
        entries = {entry.key: entry.value for entry in descriptor.entries}
        problem = _problem(entries, descriptor)
        if problem:
            violations.append(Violation(f"descriptors[{index}]", problem))
        amount = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else request.hits_addend or 1
        unit = entries.pop("unit", "requests")
        demands.append(Demand(entries, {unit: amount}))
    if violations:
        raise InvalidArgument(violations)
    return demands


def _problem(entries: Mapping[str, str], descriptor: ratelimit_pb2.RateLimitDescriptor) -> str:
    subjects = entries.keys() - {"unit"}
    if len(entries) != len(descriptor.entries) or subjects not in ({"key_id"}, {"owner_id"}):
        return "must have the entry key_id or owner_id and, if need be, unit, each once and no others"
    if descriptor.HasField("limit"):
        return "must have no limit of its own; limits are those of the key or owner"
    problems = [
        *(fields.key_id(entries["key_id"]) if "key_id" in entries else fields.owner_id(entries["owner_id"])),
        *fields.charges({entries.get("unit", "requests"): 1}),
    ]
    return problems[0][1] if problems else ""


def _outcome(profile: Profile, reports: list[QuotaReport], *, request_id: str) -> Outcome:
    """All together: the first that does not fit speaks for the answer."""
    denied = next((report for report in reports if report.code is not DecisionCode.ALLOWED), None)
    return Outcome(
        code=DecisionCode.ALLOWED if denied is None else denied.code,
        profile=profile,
        request_id=request_id,
        limits=[limit for report in reports for limit in report.limits],
        retry_after=None if denied is None else denied.retry_after,
    )


def _response(outcome: Outcome, reports: list[QuotaReport], *, now: datetime) -> pb.RateLimitResponse:
    statuses = [_status(report, now=now) for report in reports]
    if outcome.code is DecisionCode.ALLOWED:
        return pb.RateLimitResponse(
            overall_code=pb.RateLimitResponse.OK,
            statuses=statuses,
            response_headers_to_add=[_header(*header) for header in limit_headers(outcome, now=now)],
        )
    answer = answer_of(outcome, now=now)
    return pb.RateLimitResponse(
        overall_code=pb.RateLimitResponse.OVER_LIMIT,
        statuses=statuses,
        response_headers_to_add=[_header(*header) for header in answer.headers],
        raw_body=answer.body.encode(),
    )


def _status(report: QuotaReport, *, now: datetime) -> pb.RateLimitResponse.DescriptorStatus:
    """One descriptor's limits, of which Envoy hears of the tightest."""
    fits = report.code is DecisionCode.ALLOWED
    code = pb.RateLimitResponse.OK if fits else pb.RateLimitResponse.OVER_LIMIT
    held = [limit for limit in report.limits if not limit.shadow]
    if not held:
        return pb.RateLimitResponse.DescriptorStatus(code=code)
    tightest = min(held, key=lambda limit: (not limit.exceeded, limit.remaining))
    reset_in = None if tightest.reset_at is None or tightest.reset_at < now else tightest.reset_at - now
    return pb.RateLimitResponse.DescriptorStatus(
        code=code,
        current_limit=pb.RateLimitResponse.RateLimit(
            name=tightest.name, requests_per_unit=min(tightest.limit, _UINT32_MAX)
        ),
        limit_remaining=min(tightest.remaining, _UINT32_MAX),
        duration_until_reset=None if reset_in is None else duration_from(reset_in),
    )


def _header(name: str, value: str) -> base_pb2.HeaderValue:
    return base_pb2.HeaderValue(key=name, value=value)
