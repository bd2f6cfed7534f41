"""TLS on both ports: who is let in, that new certificates need no restart, and that a fault in one is told."""

import ssl
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.certificates import Authority, Files
from tests.e2e.server_process import ServerProcess, refusal, run
from tests.e2e.under_load import eventually
from tests.gateway.stack import PROFILES, edge_address
from tollkeeper import AsyncClient, Client, Unavailable

EDGE = {"EDGE_LISTEN": "127.0.0.1:0", "PROFILES": str(PROFILES)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def served(authority: Authority) -> Files:
    return authority.issue("server")


def server_settings(files: Files, client_ca: Path | None = None) -> dict[str, str]:
    settings = {"TLS_CERT": str(files.cert), "TLS_KEY": str(files.key)}
    return settings | ({"TLS_CLIENT_CA": str(client_ca)} if client_ca else {})


class TlsServer(ServerProcess):
    """A server that is talked to by TLS."""

    def __init__(self, credentials: grpc.ChannelCredentials, data_dir: Path, **settings: str) -> None:
        super().__init__(data_dir, **settings)
        self.credentials = credentials


def credentials(authority: Authority, own: Files | None = None) -> grpc.ChannelCredentials:
    trusted = authority.file.read_bytes()
    if own is None:
        return grpc.ssl_channel_credentials(trusted)
    return grpc.ssl_channel_credentials(trusted, own.key.read_bytes(), own.cert.read_bytes())


def refused(address: str, token: str, given: grpc.ChannelCredentials | None) -> bool:
    with Client(address, token=token, credentials=given, wait_for_ready=False) as stranger:
        try:
            stranger.verify("tk_unknown")
        except Unavailable:
            return True
        return False


def test_both_ports_are_served_with_tls_and_without_it_nobody_gets_in(
    authority: Authority, served: Files, data_dir: Path, tmp_path: Path
) -> None:
    with TlsServer(credentials(authority), data_dir, **server_settings(served), **EDGE) as server:
        with server.client() as client:
            assert client.verify(client.create_key().api_key).allowed
        with server.channel(edge_address(server)) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert refused(server.address, server.root_key, None)
        assert refused(server.address, server.root_key, credentials(Authority(tmp_path / "other", "other")))


def test_with_client_authorities_only_clients_with_a_certificate_of_theirs_get_in(
    authority: Authority, served: Files, data_dir: Path, tmp_path: Path
) -> None:
    clients, strangers = Authority(tmp_path / "clients", "clients"), Authority(tmp_path / "strangers", "strangers")
    settings = server_settings(served, client_ca=clients.file)
    known = credentials(authority, clients.issue("gateway"))
    with TlsServer(known, data_dir, **settings, **EDGE) as server:
        with server.client() as client:
            assert client.verify(client.create_key().api_key).allowed
        assert refused(server.address, server.root_key, credentials(authority))
        assert refused(server.address, server.root_key, credentials(authority, strangers.issue("stranger")))
        with grpc.secure_channel(edge_address(server), credentials(authority)) as channel:
            with pytest.raises(grpc.RpcError) as refusal_of_edge:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert refusal_of_edge.value.code() is grpc.StatusCode.UNAVAILABLE


def test_clients_and_the_command_find_their_certificates_in_the_environment(
    authority: Authority, served: Files, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Authority(tmp_path / "clients", "clients")
    own = clients.issue("operator")
    settings = server_settings(served, client_ca=clients.file)
    with TlsServer(credentials(authority, own), data_dir, **settings) as server:
        environment = {
            "ADDRESS": server.address,
            "TOKEN": server.root_key,
            "TLS_CA": str(authority.file),
            "TLS_CLIENT_CERT": str(own.cert),
            "TLS_CLIENT_KEY": str(own.key),
        }
        listed = run("tollkeeper", "keys", "list", "--json", **environment)
        assert (listed.returncode, listed.stderr) == (0, "")
        for name, value in environment.items():
            monkeypatch.setenv(f"TOLLKEEPER_{name}", value)
        with Client.from_env() as client:
            assert client.create_key(name="by TLS").key.name == "by TLS"
        monkeypatch.setenv("TOLLKEEPER_TLS_CLIENT_KEY", str(served.key))
        with pytest.raises(ValueError, match=r"TOLLKEEPER_TLS_CLIENT_CERT: .* must be a certificate in PEM"):
            Client.from_env()
        broken = run("tollkeeper", "keys", "list", **environment | {"TLS_CA": str(tmp_path / "none")})
        assert broken.returncode == 2
        assert f"TOLLKEEPER_TLS_CA: cannot read {tmp_path}/none" in broken.stderr
        assert broken.stderr.count("\n") == 1


async def test_a_new_certificate_needs_no_restart_and_half_of_one_changes_nothing(
    authority: Authority, served: Files, data_dir: Path
) -> None:
    renewed = authority.issue("renewed")
    settings = server_settings(served) | {"WORKERS": "2"}
    with TlsServer(credentials(authority), data_dir, **settings) as server:
        async with AsyncClient(server.address, token=server.root_key, credentials=credentials(authority)) as client:
            api_key = (await client.create_key()).api_key
            old, new = served.cert.read_text(), renewed.cert.read_text()
            assert shown(server) == old

            served.cert.write_text(new)
            await eventually(lambda: shown(server) == old and len(server.events("tls_refused")) == 2)
            assert "TOLLKEEPER_TLS_KEY: " in server.events("tls_refused")[0]["reason"]

            served.key.write_bytes(renewed.key.read_bytes())
            await eventually(lambda: shown(server) == new and len(server.events("tls_reloaded")) == 2)
            assert all(shown(server) == new for _ in range(10))
            assert (await client.verify(api_key)).allowed  # its connection is older, and stays


def shown(server: ServerProcess) -> str:
    """The certificate that a new connection is shown."""
    host, _, port = server.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=10)


def test_files_that_cannot_be_used_are_told_in_one_line_before_anything_is_started(
    authority: Authority, served: Files, data_dir: Path
) -> None:
    mixed = Files(served.cert, authority.issue("other").key)
    assert "TOLLKEEPER_TLS_KEY: " in refusal("serve", DATA_DIR=str(data_dir), **server_settings(mixed))
    assert not data_dir.exists()
