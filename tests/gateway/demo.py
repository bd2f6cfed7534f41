"""Five public APIs behind a real Envoy, with a key for each: `make demo`.

Starts Tollkeeper on stores of its own, Envoy with the shipped configuration and profiles, and a small upstream; prints
the examples of the APIs' own documents, ready to run. All of it is gone after Ctrl-C.
"""

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.e2e.server_process import ServerProcess
from tests.gateway.envoy import EnvoyProcess, example
from tests.gateway.issuer import Issuer
from tests.gateway.stack import edge_address, edge_server, keep_service_key
from tests.gateway.upstream import Received, Upstream
from tollkeeper import Client, Limit

USER = "0005000000000008"
"""Whoever signs in."""

TEXT = """\
Five public APIs on http://localhost:{public}, each behind a name of its own. In another terminal:

# Ilumiera: the key in a header of its own
curl -X POST http://ilumiera.localhost:{public}/source/ingestSource \\
  -H "api-key: {ilumiera}" \\
  -H "Content-Type: application/json" \\
  -d '{{"source": {{"sourceType": "youtube", "userId": "user-123", "url": "https://www.youtube.com/watch?v=..."}}}}'

# An AI-powered API: a bearer key with the permission "read"; without it, or with another, errors name what is wrong
curl -X POST http://ai-powered.localhost:{public}/v1/generate \\
  -H "Authorization: Bearer {ai_powered}" \\
  -H "Content-Type: application/json" \\
  -d '{{"prompt": "Hello, world!", "model": "gpt-4"}}'
curl -X POST http://ai-powered.localhost:{public}/v1/generate

# An API with a path for each product: two limits in the headers of every answer, and one product that the key is for
curl -i -X POST http://product-slug.localhost:{public}/api/your-product-slug \\
  -H "Authorization: Bearer {ila}" \\
  -H "Content-Type: application/json" \\
  -d '{{ "inputs": {{ "field1": "value1" }} }}'
curl -i -H "X-API-Key: {ila}" http://product-slug.localhost:{public}/api/another-product

# Illumass: sign in, then create an API key with what you got
curl --data '{{ "email": "<email>", "password": "<password>" }}' \\
  -H 'Content-Type: application/json' \\
  'http://illumass.localhost:{public}/v4/login?expiresIn=1h'
curl -H 'Authorization: Bearer {session}' \\
  -H 'Content-Type: application/json' \\
  --data '{{ "description": "<description>" }}' \\
  'http://illumass.localhost:{public}/v4/api-keys/_create?expiresIn=1h'

# Conduit.im: errors in the manner of OpenAI's API
curl -X POST "http://conduit.localhost:{public}/v1/chat/completions" \\
  -H "Authorization: Bearer {conduit}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "gpt-4", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
curl -X POST "http://conduit.localhost:{public}/v1/chat/completions"

# Tollkeeper's own API as JSON, as root
curl -H "Authorization: Bearer {root}" http://localhost:{management}/v1/keys?tenant_id=conduit

Ctrl-C stops everything and forgets the keys.
"""


class DemoUpstream(Upstream):
    """The services behind the APIs; that of Illumass also signs users in."""

    def __init__(self, issuer: Issuer) -> None:
        super().__init__()
        self._issuer = issuer

    def answer(self, received: Received) -> Any:
        """What the service answers."""
        if not received.path.startswith("/v4/login"):
            return super().answer(received)
        ttl = 3600
        return {
            "requestId": received.values("x-request-id")[0],
            "status": 200,
            "error": None,
            "controller": "auth",
            "action": "login",
            "collection": None,
            "index": None,
            "volatile": None,
            "result": {
                "_id": USER,
                "expiresAt": (int(time.time()) + ttl) * 1000,
                "jwt": self._issuer.sign_in(USER, ttl_seconds=ttl),
                "ttl": ttl * 1000,
            },
        }


def seed(client: Client) -> dict[str, str]:
    """A key for each API."""
    limits = [Limit.rate("per-minute", 60, timedelta(minutes=1)), Limit.rate("per-day", 1000, timedelta(days=1))]
    product = client.create_key(
        tenant_id="ila", prefix="ila", length=76, resources=["your-product-slug"], limits=limits, name="demo"
    )
    return {
        "ila": product.api_key,
        "ilumiera": client.create_key(tenant_id="ilumiera", owner_id="org-1", name="demo").api_key,
        "ai_powered": client.create_key(tenant_id="ai-powered", permissions=["read"], name="demo").api_key,
        "conduit": client.create_key(tenant_id="conduit", name="demo").api_key,
    }


@contextlib.contextmanager
def demo(*, public: int, management: int) -> Iterator[str]:
    """Everything, on these ports (0: any free one); gives what to try."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-demo-")))
        issuer = Issuer(directory / "key-set.json", tenant_id="illumass")
        server: ServerProcess = stack.enter_context(edge_server(directory / "data", **issuer.settings))
        upstream = stack.enter_context(DemoUpstream(issuer))
        with server.client() as client:
            keys = seed(client)
            keep_service_key(client, directory / "service-key")
        config = example(
            service_key_file=directory / "service-key",
            endpoints={
                "tollkeeper": [server.address],
                "tollkeeper-edge": [edge_address(server)],
                "upstream": [upstream.address],
            },
            ports={"public": public, "management": management},
        )
        envoy = stack.enter_context(EnvoyProcess(config))
        yield TEXT.format(
            public=envoy.ports["public"],
            management=envoy.ports["management"],
            root=server.root_key,
            session=issuer.sign_in(USER),
            **keys,
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Five public APIs behind a real Envoy, with a key for each.")
    parser.add_argument("--port", type=int, default=10000, help="where the public APIs are")
    parser.add_argument("--management-port", type=int, default=10001, help="where Tollkeeper's own API is, as JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts it in the background has it ignored
    print("Starting Tollkeeper, Envoy and an upstream ...", flush=True)
    running = demo(public=arguments.port, management=arguments.management_port)
    with contextlib.suppress(KeyboardInterrupt), running as text:
        print(text, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
