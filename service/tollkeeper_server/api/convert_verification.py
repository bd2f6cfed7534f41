"""Verifications and decisions between the contract and the domain. All pure."""

from collections.abc import Iterable, Mapping

from tollkeeper.v1 import key_pb2, verification_service_pb2
from tollkeeper_server.api.convert import duration_from, enum_map
from tollkeeper_server.api.convert_keys import identity_message
from tollkeeper_server.api.convert_limits import limit_state_message
from tollkeeper_server.core.decision import MESSAGES, Decision, DecisionCode, DegradationReason, Kept
from tollkeeper_server.core.key import Key, Secret
from tollkeeper_server.core.policy import Use
from tollkeeper_server.quota.settlements import Settlement
from tollkeeper_server.verify.quotas import QuotaReport
from tollkeeper_server.verify.verification import Verification

DECISION_CODES = enum_map(DecisionCode, verification_service_pb2.DecisionCode, prefix="DECISION_CODE_")
DEGRADATION_REASONS = enum_map(
    DegradationReason, verification_service_pb2.DegradationReason, prefix="DEGRADATION_REASON_"
)

SECRETS = enum_map(Secret, key_pb2.Secret, prefix="SECRET_")

DEGRADATION_MESSAGES = {
    DegradationReason.RATE_LOCAL: "Redis did not answer: rate limits were held by this server's share of them.",
    DegradationReason.LEDGER_DIRECT: "Redis did not answer: quotas were charged in the ledger directly.",
    DegradationReason.FIGURES_APPROXIMATE: "Some figures of limits are approximate.",
}

_CHARGES_DEFAULT = {"requests": 1}


def verification_from(
    request: verification_service_pb2.VerifyRequest, *, use: Use, tenant_id: str | None, request_id: str
) -> Verification:
    """What a valid request asks, of which ``use`` was read, about the keys of ``tenant_id`` (None: of any tenant)."""
    return Verification(
        api_key=request.api_key,
        tenant_id=tenant_id,
        use=use,
        charges=charges_from(request.charges),
        consume=not request.dry_run,
        reserve=request.reserve,
        keep=request.keep,
        once_id=request.request_id,
        min_revision=request.min_revision,
        request_id=request_id,
    )


def charges_from(charges: Mapping[str, int]) -> Mapping[str, int]:
    """Amounts by unit; one request where none are given."""
    return dict(charges) if charges else _CHARGES_DEFAULT


def answer_rest(decision: Decision) -> verification_service_pb2.VerifyResponse | None:
    """What few answers have to tell: how long to wait, what is held, kept, or was done without."""
    kept = decision.kept
    if decision.retry_after is None and not decision.reservation_id and not decision.degradations and kept is None:
        return None
    response = verification_service_pb2.VerifyResponse()
    if decision.retry_after is not None:
        response.retry_after.CopyFrom(duration_from(decision.retry_after))
    if decision.reservation_id:
        response.reservation_id = decision.reservation_id
    if decision.degradations:
        response.degradations.extend(_degradation_messages(decision.degradations))
    if kept is not None:
        response.kept.CopyFrom(_kept_message(kept))
    return response


def answer_start(
    code: DecisionCode, *, key: Key | None, secret: Secret | None
) -> verification_service_pb2.VerifyResponse:
    """What every answer tells that has the same code, for the same API key: to keep, and to begin answers with."""
    return verification_service_pb2.VerifyResponse(
        code=DECISION_CODES[code],
        message=MESSAGES[code],
        key=None if key is None else identity_message(key),
        secret=key_pb2.SECRET_UNSPECIFIED if secret is None else SECRETS[secret],
    )


def check_quota_response(report: QuotaReport) -> verification_service_pb2.CheckQuotaResponse:
    """Where the limits stand."""
    return verification_service_pb2.CheckQuotaResponse(
        code=DECISION_CODES[report.code],
        limits=map(limit_state_message, report.limits),
        retry_after=None if report.retry_after is None else duration_from(report.retry_after),
        degradations=_degradation_messages(report.degradations),
    )


def settle_response(settlement: Settlement) -> verification_service_pb2.SettleResponse:
    """The limits after a reservation was settled."""
    return verification_service_pb2.SettleResponse(
        limits=map(limit_state_message, settlement.limits), already_settled=settlement.already_settled
    )


def _kept_message(kept: Kept) -> verification_service_pb2.Kept:
    return verification_service_pb2.Kept(usable_for=duration_from(kept.usable_for), verifications=kept.verifications)


def _degradation_messages(
    reasons: Iterable[DegradationReason],
) -> Iterable[verification_service_pb2.Degradation]:
    return [
        verification_service_pb2.Degradation(reason=DEGRADATION_REASONS[reason], message=DEGRADATION_MESSAGES[reason])
        for reason in reasons
    ]
