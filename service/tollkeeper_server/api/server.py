"""Everything that this server speaks, put onto a gRPC server."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from tollkeeper.v1 import audit_service_pb2, key_service_pb2, usage_service_pb2, verification_service_pb2
from tollkeeper_server.api.audit import AuditServicer
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.handler import Gate, Recall, rpc
from tollkeeper_server.api.health import HealthServicer
from tollkeeper_server.api.keys import KeyServicer
from tollkeeper_server.api.usage import UsageServicer
from tollkeeper_server.api.verification import VerificationServicer
from tollkeeper_server.audit.service import AuditService
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.usage.service import UsageService
from tollkeeper_server.verify.proofs import Proofs
from tollkeeper_server.verify.quotas import Quotas
from tollkeeper_server.verify.verifier import Verifier
from tollkeeper_server.verify.watchers import Watchers

VERIFICATION_SERVICE = verification_service_pb2.DESCRIPTOR.services_by_name["VerificationService"]
KEY_SERVICE = key_service_pb2.DESCRIPTOR.services_by_name["KeyService"]
USAGE_SERVICE = usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"]
AUDIT_SERVICE = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"]
REFLECTION_SERVICE = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

SERVICES = (VERIFICATION_SERVICE, KEY_SERVICE, USAGE_SERVICE, AUDIT_SERVICE)
"""The services of Tollkeeper's own contract."""

_NO_RECALLS: Mapping[str, Recall] = MappingProxyType({})


def register(
    server: grpc.aio.Server,
    *,
    gate: Gate,
    verifier: Verifier,
    quotas: Quotas,
    proofs: Proofs,
    watchers: Watchers,
    keys: KeyService,
    usage: UsageService,
    audit: AuditService,
    clock: Callable[[], datetime],
    with_reflection: bool,
) -> HealthServicer:
    """Put every service onto ``server``, all but health behind ``gate``; whoever calls has health to drain."""
    verification = VerificationServicer(
        verifier=verifier, quotas=quotas, proofs=proofs, watchers=watchers, metrics=gate.metrics
    )
    recalls = {"Verify": verification.repeats.recall}
    server.add_generic_rpc_handlers((generic_handler(VERIFICATION_SERVICE, verification, gate, recalls=recalls),))
    servicers: dict[ServiceDescriptor, object] = {
        KEY_SERVICE: KeyServicer(keys=keys, clock=clock),
        USAGE_SERVICE: UsageServicer(usage=usage),
        AUDIT_SERVICE: AuditServicer(audit=audit),
    }
    if with_reflection:
        servicers[REFLECTION_SERVICE] = ReflectionServicer()
    for service, servicer in servicers.items():
        server.add_generic_rpc_handlers((generic_handler(service, servicer, gate),))
    health = HealthServicer([service.full_name for service in SERVICES])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return health


class ReflectionServicer:
    """Tells known callers what this server speaks, so that ``grpcurl`` and its like need no files."""

    def __init__(self) -> None:
        names = [service.full_name for service in (*SERVICES, HEALTH_SERVICE, REFLECTION_SERVICE)]
        self._reflection = reflection.aio.ReflectionServicer(names)

    @rpc(None)
    async def ServerReflectionInfo(self, requests: AsyncIterable[Any], _call: Call) -> AsyncIterator[Any]:
        """Answers each request for a description."""
        async for response in self._reflection.ServerReflectionInfo(requests, None):
            yield response


def generic_handler(
    service: ServiceDescriptor, servicer: object, gate: Gate, *, recalls: Mapping[str, Recall] = _NO_RECALLS
) -> grpc.GenericRpcHandler:
    """What gRPC serves ``service`` with: every method behind ``gate``, answered by ``servicer``'s of that name."""
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: gate.handler(method, getattr(servicer, method.name), recall=recalls.get(method.name))
            for method in service.methods
        },
    )
