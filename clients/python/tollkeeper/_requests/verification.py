"""What the VerificationService is asked."""

from collections.abc import Iterable, Mapping

from tollkeeper._decisions import Verification
from tollkeeper._requests import values
from tollkeeper.v1 import verification_service_pb2 as pb


def verify(question: Verification) -> pb.VerifyRequest:
    """One verification. It always has a request id, so that a repeated one is charged once."""
    return pb.VerifyRequest(
        api_key=question.api_key,
        resource=question.resource,
        required_permissions=values.words(question.permissions, "permissions"),
        client_ip="" if question.client_ip is None else str(question.client_ip),
        charges=values.charges(question.charges),
        reserve=question.reserve,
        dry_run=question.dry_run,
        min_revision=question.min_revision,
        request_id=values.request_id(question.request_id),
        tenant_id=question.tenant_id or "",
    )


def batch_verify(questions: Iterable[Verification]) -> pb.BatchVerifyRequest:
    """Many verifications."""
    return pb.BatchVerifyRequest(requests=[verify(question) for question in questions])


def check_quota(
    *,
    key_id: str | None,
    api_key: str | None,
    owner_id: str | None,
    charges: Mapping[str, int] | None,
    tenant_id: str | None,
) -> pb.CheckQuotaRequest:
    """Asks for limits only, of exactly one subject."""
    subject = values.exactly_one(key_id=key_id, api_key=api_key, owner_id=owner_id)
    return pb.CheckQuotaRequest(**subject, charges=values.charges(charges), tenant_id=tenant_id or "")


def settle(reservation_id: str, charges: Mapping[str, int]) -> pb.SettleRequest:
    """Ends a reservation; no charges release it."""
    return pb.SettleRequest(reservation_id=reservation_id, charges=charges)
