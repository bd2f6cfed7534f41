"""Everything that gateways call, put onto a gRPC server of its own."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import grpc
from envoy.service.auth.v3 import external_auth_pb2
from envoy.service.ratelimit.v3 import rls_pb2
from grpc_health.v1 import health_pb2_grpc

from tollkeeper_server.api.handler import Gate
from tollkeeper_server.api.health import HealthServicer
from tollkeeper_server.api.server import generic_handler
from tollkeeper_server.edge.authorization import AuthorizationServicer
from tollkeeper_server.edge.callers import PatientAuthenticator
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.creation import KeyCreator
from tollkeeper_server.edge.gateway import Gateway
from tollkeeper_server.edge.library import ProfileLibrary
from tollkeeper_server.edge.rate_limits import RateLimitServicer
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.verify.quotas import Quotas
from tollkeeper_server.verify.verifier import Verifier

AUTHORIZATION_SERVICE = external_auth_pb2.DESCRIPTOR.services_by_name["Authorization"]
RATE_LIMIT_SERVICE = rls_pb2.DESCRIPTOR.services_by_name["RateLimitService"]


def register_edge(
    server: grpc.aio.Server,
    *,
    gate: Gate,
    verifier: Verifier,
    quotas: Quotas,
    keys: KeyService,
    profiles: ProfileLibrary,
    client_address: ClientAddress,
    clock: Callable[[], datetime],
) -> HealthServicer:
    """Put the services onto ``server``, all but health behind ``gate``; whoever calls has health to drain."""
    servicers = {
        AUTHORIZATION_SERVICE: AuthorizationServicer(
            gateway=Gateway(verifier=verifier, quotas=quotas, client_address=client_address),
            creator=KeyCreator(keys=keys, authenticator=gate.authenticator, client_address=client_address),
            profiles=profiles,
            clock=clock,
            metrics=gate.metrics,
        ),
        RATE_LIMIT_SERVICE: RateLimitServicer(quotas=quotas, profiles=profiles, clock=clock),
    }
    patient = replace(gate, authenticator=PatientAuthenticator(gate.authenticator))
    for service, servicer in servicers.items():
        server.add_generic_rpc_handlers((generic_handler(service, servicer, patient),))
    health = HealthServicer([service.full_name for service in servicers])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return health
