"""Health, as grpc.health.v1 has it: the only service that needs no caller."""

import asyncio
from collections.abc import Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
NOT_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

Context = grpc.aio.ServicerContext[Any, Any]


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """One health for the server and each of its services: SERVING until ``drain``, NOT_SERVING from then on."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = {"", *services}
        self._draining = asyncio.Event()
        self._closed = asyncio.Event()

    def drain(self) -> None:
        """Tell everyone who asks or watches to go elsewhere."""
        self._draining.set()

    def close(self) -> None:
        """End all watches: unlike other calls they do not finish by themselves, and would hold up the server's stop."""
        self._closed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The health of one service, or of the whole server if none is named."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return self._health()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """The health now, and again when it changes."""
        if request.service not in self._services:
            await context.write(SERVICE_UNKNOWN)
        else:
            health = self._health()
            await context.write(health)
            if health is SERVING:
                await self._draining.wait()
                await context.write(NOT_SERVING)
        await self._closed.wait()

    def _health(self) -> health_pb2.HealthCheckResponse:
        return NOT_SERVING if self._draining.is_set() else SERVING
