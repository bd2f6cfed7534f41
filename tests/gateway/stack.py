"""Tollkeeper, a real Envoy configured as it is shipped, and an upstream: the whole way of a request."""

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.server_process import ServerProcess
from tests.gateway.envoy import ROOT, Config, EnvoyProcess, example
from tests.gateway.http import Answer, Headers, ask
from tests.gateway.issuer import Issuer
from tests.gateway.upstream import Upstream
from tollkeeper import Client

PROFILES = ROOT / "service" / "profiles"
TEST_PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class PublicApis:
    """Public APIs behind one Envoy."""

    server: ServerProcess
    envoy: EnvoyProcess
    upstream: Upstream
    client: Client
    """Of Tollkeeper, as root."""
    issuer: Issuer
    """Of the users of Illumass."""
    service_key_file: Path
    profiles: Path
    """The directory that the server follows."""

    def ask(
        self, api: str, path: str | bytes, *, method: str = "GET", headers: Headers = (), body: bytes = b""
    ) -> Answer:
        """Ask one of the APIs, as its end clients do."""
        port = self.envoy.ports["public"]
        return ask(port, path, host=f"{api}.localhost", method=method, headers=headers, body=body)

    def manage(self, method: str, path: str, *, headers: Headers | None = None, body: bytes = b"") -> Answer:
        """Ask Tollkeeper's own API in JSON; as root, unless ``headers`` say otherwise."""
        if headers is None:
            headers = [("authorization", f"Bearer {self.server.root_key}")]
        port = self.envoy.ports["management"]
        return ask(port, path, host="tollkeeper.localhost", method=method, headers=headers, body=body)


@contextlib.contextmanager
def public_apis() -> Iterator[PublicApis]:
    """Start everything, on free ports."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-tests-")))
        profiles = shutil.copytree(PROFILES, directory / "profiles")
        shutil.copytree(TEST_PROFILES, profiles, dirs_exist_ok=True)
        issuer = Issuer(directory / "key-set.json", tenant_id="illumass")
        settings = {"PROFILES": str(profiles), **issuer.settings}
        server = stack.enter_context(edge_server(directory / "data", **settings))
        client = stack.enter_context(server.client())
        upstream = stack.enter_context(Upstream())
        service_key_file = directory / "service-key"
        keep_service_key(client, service_key_file)
        config = example(
            service_key_file=service_key_file,
            endpoints={
                "tollkeeper": [server.address],
                "tollkeeper-edge": [edge_address(server)],
                "upstream": [upstream.address],
            },
        )
        envoy = stack.enter_context(EnvoyProcess(config))
        yield PublicApis(server, envoy, upstream, client, issuer, service_key_file, profiles)


@contextlib.contextmanager
def another_envoy(apis: PublicApis, change: Callable[[Config], None]) -> Iterator[PublicApis]:
    """The same APIs behind an Envoy whose configuration was changed."""
    config = example(
        service_key_file=apis.service_key_file,
        endpoints={
            "tollkeeper": [apis.server.address],
            "tollkeeper-edge": [edge_address(apis.server)],
            "upstream": [apis.upstream.address],
        },
    )
    change(config)
    with EnvoyProcess(config) as envoy:
        yield dataclasses.replace(apis, envoy=envoy)


def edge_server(data_dir: Path, **settings: str) -> ServerProcess:
    """A server that serves gateways, too."""
    defaults = {"EDGE_LISTEN": "127.0.0.1:0", "PROFILES": str(PROFILES), "CLIENT_ADDRESS": "x-envoy-external-address"}
    return ServerProcess(data_dir, **{**defaults, **settings})


def edge_address(server: ServerProcess) -> str:
    """Where ``server`` serves gateways."""
    (serving,) = server.events("serving")
    address: str = serving["edge"]
    return address


def keep_service_key(client: Client, file: Path) -> None:
    """Give Envoy a key that may verify and nothing else, in ``file``."""
    created = client.create_key(name="envoy", tenant_id="tollkeeper", permissions=["tollkeeper:verify"])
    file.touch(mode=0o600)
    file.write_text(created.api_key)
