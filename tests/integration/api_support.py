"""The API as a whole in this process: real parts on real stores, a gRPC server on a free port, a client in front."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import CollectorRegistry

from tollkeeper.v1 import (
    audit_service_pb2_grpc,
    key_service_pb2_grpc,
    usage_service_pb2_grpc,
    verification_service_pb2_grpc,
)
from tollkeeper_server.api.access_log import AccessLog
from tollkeeper_server.api.handler import Gate
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.api.server import SERVICES, register
from tollkeeper_server.app import Application, application
from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.key import ROOT_TENANT
from tollkeeper_server.keys.commands import CreatedKey, CreateKey
from tollkeeper_server.servers import SERVER_OPTIONS
from tollkeeper_server.settings import Settings, StoreUrls

ROOT = Caller(key_id="bootstrap", tenant_id=ROOT_TENANT, permissions=("tollkeeper:*",))
SECRET = b"s" * 32
EVERYTHING = tuple(CallerPermission)
METHODS = {method.name: method for service in SERVICES for method in service.methods}

Metadata = Sequence[tuple[str, str]]


class Log:
    """Remembers what the gate logs."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self.access_log = AccessLog(self)  # type: ignore[arg-type]  # has what is used of a logger

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Those of all calls that have ended."""
        self.access_log.flush()
        return self._lines

    def bind(self) -> Self:
        return self

    def is_enabled_for(self, _level: int) -> bool:
        return True

    def info(self, event: str, *, each: Sequence[dict[str, Any]] = ({},), **fields: Any) -> None:
        self._lines += [{"event": event, **fields, **more} for more in each]

    error = info


class Api:
    """A server and what it takes to call it."""

    def __init__(self, channel: grpc.aio.Channel, parts: Application, registry: CollectorRegistry, log: Log):
        self.channel = channel
        self.parts = parts
        self.registry = registry
        self.log = log
        self.verification: Any = verification_service_pb2_grpc.VerificationServiceStub(channel)
        self.keys: Any = key_service_pb2_grpc.KeyServiceStub(channel)
        self.usage: Any = usage_service_pb2_grpc.UsageServiceStub(channel)
        self.audit: Any = audit_service_pb2_grpc.AuditServiceStub(channel)
        self.address = ""
        self.root: Metadata = ()
        """Credentials of a caller that may do everything everywhere."""

    async def key(self, tenant_id: str = "acme", **fields: Any) -> CreatedKey:
        """A new key, made behind the API's back."""
        return await self.parts.keys.create(ROOT, CreateKey(tenant_id=tenant_id, **fields))

    async def caller(self, tenant_id: str = "acme", permissions: Sequence[str] = EVERYTHING, **fields: Any) -> Metadata:
        """Credentials of a new caller."""
        created = await self.key(tenant_id, permissions=tuple(permissions), **fields)
        return (("authorization", f"Bearer {created.api_key}"),)

    async def call(self, method: str, request: Message | None, *, metadata: Metadata, timeout: float = 5) -> Any:
        """Call any RPC by its name; of a stream its first answer. None sends an empty message, and a stream nothing."""
        descriptor = METHODS[method]
        path = f"/{descriptor.containing_service.full_name}/{method}"
        answer = GetMessageClass(descriptor.output_type)
        asks = GetMessageClass(descriptor.input_type)
        if descriptor.client_streaming:
            streams = self.channel.stream_stream(path, asks.SerializeToString, answer.FromString)
            stream = streams(metadata=metadata, timeout=timeout)
            if (
                request is not None
            ):  # grpc.aio tells a write that a refusal overtakes as an internal error of the client
                await stream.write(request)
            await stream.done_writing()
            return await stream.read()
        unary = self.channel.unary_unary(path, asks.SerializeToString, answer.FromString)
        return await unary(asks() if request is None else request, metadata=metadata, timeout=timeout)


@asynccontextmanager
async def api_on(
    postgres_url: str, redis_url: str, *, more: Mapping[str, Any] | None = None, **gate: Any
) -> AsyncIterator[Api]:
    """Serve the API on these stores, with ``more`` settings."""
    settings = Settings(peppers={1: SECRET}, tag_keys={1: SECRET}, **(more or {}))  # type: ignore[arg-type]
    registry, log = CollectorRegistry(), Log()
    async with application(settings, StoreUrls(postgres=postgres_url, redis=redis_url)) as parts:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        health = register(
            server,
            gate=Gate(
                authenticator=parts.authenticator,
                metrics=CallMetrics(registry),
                access_log=log.access_log,
                log=log,  # type: ignore[arg-type]
                **gate,
            ),
            verifier=parts.verifier,
            quotas=parts.quotas,
            proofs=parts.proofs,
            watchers=parts.watchers,
            keys=parts.keys,
            usage=parts.usage,
            audit=parts.audit,
            clock=lambda: datetime.now(UTC),
            with_reflection=True,
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                api = Api(channel, parts, registry, log)
                api.address = f"127.0.0.1:{port}"
                api.root = await api.caller(ROOT_TENANT)
                yield api
        finally:
            health.close()
            await server.stop(None)
