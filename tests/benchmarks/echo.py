"""A bare grpc.aio server that answers every Verify with the same message: the floor that Verify is measured against."""

import asyncio
import sys

import grpc
import uvloop

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper.v1 import verification_service_pb2_grpc as pb_grpc


class Echo(pb_grpc.VerificationServiceServicer):
    """Answers without looking."""

    def __init__(self, answer: pb.VerifyResponse) -> None:
        self._answer = answer

    async def Verify(self, request: pb.VerifyRequest, context: object) -> pb.VerifyResponse:
        return self._answer


async def serve(answer: pb.VerifyResponse) -> None:
    """Serve on a free port, print it, and stay until standard input ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_VerificationServiceServicer_to_server(Echo(answer), server)  # type: ignore[abstract]  # Verify alone is measured
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(pb.VerifyResponse.FromString(bytes.fromhex(sys.argv[1]))))
