"""What the VerificationService answers."""

from collections.abc import Iterable

from tollkeeper._decisions import (
    Decision,
    DecisionCode,
    Degradation,
    DegradationReason,
    KeyIdentity,
    QuotaReport,
    Secret,
    Settlement,
)
from tollkeeper._error_details import status_error
from tollkeeper._errors import CallError, Internal
from tollkeeper._results import values
from tollkeeper.v1 import key_pb2
from tollkeeper.v1 import verification_service_pb2 as pb

DECISION_CODES = values.members(pb.DecisionCode.DESCRIPTOR, DecisionCode.__members__)
DEGRADATION_REASONS = values.members(pb.DegradationReason.DESCRIPTOR, DegradationReason.__members__)
SECRETS = values.members(key_pb2.Secret.DESCRIPTOR, Secret.__members__)


def decision(response: pb.VerifyResponse) -> Decision:
    """The decision of a verification. A code that is not known becomes UNSPECIFIED, which denies."""
    return Decision(
        code=DECISION_CODES.get(response.code, DecisionCode.UNSPECIFIED),
        message=response.message,
        key=_key_identity(response.key) if response.HasField("key") else None,
        limits=values.limit_states(response.limits),
        retry_after=values.delta_of(response, "retry_after"),
        # The reservation of an answer that is kept is the near-cache's to settle.
        reservation_id="" if response.HasField("kept") else response.reservation_id,
        revision=response.revision,
        degradations=_degradations(response.degradations),
        request_id=response.request_id,
        secret=SECRETS.get(response.secret, Secret.UNSPECIFIED),
    )


def decisions(response: pb.BatchVerifyResponse, request: pb.BatchVerifyRequest) -> list[Decision | CallError]:
    """One outcome for each question, in order. Raises Internal if they are not as many as the questions."""
    if len(response.results) != len(request.requests):
        fault = f"{len(response.results)} answers to {len(request.requests)} questions"
        raise Internal("BatchVerify", "INTERNAL", fault)
    asked = zip(response.results, request.requests, strict=True)
    return [_outcome(result, request_id=question.request_id) for result, question in asked]


def quota_report(response: pb.CheckQuotaResponse) -> QuotaReport:
    """The limits as they stand."""
    return QuotaReport(
        code=DECISION_CODES.get(response.code, DecisionCode.UNSPECIFIED),
        limits=values.limit_states(response.limits),
        retry_after=values.delta_of(response, "retry_after"),
        degradations=_degradations(response.degradations),
    )


def settlement(response: pb.SettleResponse) -> Settlement:
    """A reservation after it was settled."""
    return Settlement(limits=values.limit_states(response.limits), already_settled=response.already_settled)


def response_of(result: pb.VerifyResult, *, request_id: str) -> pb.VerifyResponse:
    """The answer to the question called ``request_id``, one of many. Raises the CallError that is there instead.

    An answer is known by its place, and says besides which question it is for: who is allowed must not be mistaken.
    """
    match result.WhichOneof("result"):
        case "response" if result.response.request_id == request_id:
            return result.response
        case "response":
            raise Internal("Verify", "INTERNAL", "the answer is to another question")
        case "error":
            raise status_error("Verify", result.error)
        case _:
            raise Internal("Verify", "INTERNAL", "the answer is empty")


def _outcome(result: pb.VerifyResult, *, request_id: str) -> Decision | CallError:
    try:
        return decision(response_of(result, request_id=request_id))
    except CallError as error:
        return error


def _key_identity(identity: key_pb2.KeyIdentity) -> KeyIdentity:
    return KeyIdentity(
        key_id=identity.key_id,
        tenant_id=identity.tenant_id,
        owner_id=identity.owner_id,
        name=identity.name,
        environment=identity.environment,
        permissions=tuple(identity.permissions),
        resources=tuple(identity.resources),
        metadata=values.plain(identity.metadata),
        expires_at=values.time_of(identity, "expires_at"),
    )


def _degradations(degradations: Iterable[pb.Degradation]) -> tuple[Degradation, ...]:
    return tuple(
        Degradation(
            reason=DEGRADATION_REASONS.get(degradation.reason, DegradationReason.UNSPECIFIED),
            message=degradation.message,
        )
        for degradation in degradations
    )
