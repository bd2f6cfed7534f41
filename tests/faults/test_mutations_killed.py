"""A server that is killed in the middle of mutations: each is done as a whole and once, or not at all."""

import asyncio
import random
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from tests.e2e.server_process import ServerProcess
from tests.integration.keys_support import ROOT, Keys, keys_on
from tollkeeper.v1 import key_pb2, key_service_pb2_grpc
from tollkeeper.v1 import key_service_pb2 as pb

MUTATIONS = 200
CALLERS = 8
KEYS = 20
SECRETS = {"PEPPERS": f"1:{b64encode(b'p' * 32).decode()}", "TAG_KEYS": f"1:{b64encode(b't' * 32).decode()}"}
"""Those of ``keys_support.KEYRING``."""
LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


@dataclass
class Asked:
    """One mutation, and what was answered first."""

    method: str
    request: Any
    answers: list[Message] = field(default_factory=list)
    lost: int = 0


def plan(key_ids: list[str], doomed: list[str], draw: random.Random) -> list[Asked]:
    """Mutations of which each is possible whatever the others have done."""
    asked = [Asked("RevokeKey", pb.RevokeKeyRequest(key_id=key_id, request_id=f"revoke-{key_id}")) for key_id in doomed]
    while len(asked) < MUTATIONS:
        named = {"key_id": draw.choice(key_ids), "request_id": f"r-{len(asked)}"}
        name, request_id = f"name-{len(asked)}", named["request_id"]
        updated = key_pb2.Key(key_id=named["key_id"], name=name)
        owner = pb.Owner(owner_id="o", display_name=name)
        asked.append(
            draw.choice(
                (
                    Asked("CreateKey", pb.CreateKeyRequest(name=name, request_id=request_id)),
                    Asked(
                        "UpdateKey",
                        pb.UpdateKeyRequest(key=updated, update_mask=FieldMask(paths=["name"]), request_id=request_id),
                    ),
                    Asked("RotateKey", pb.RotateKeyRequest(**named, overlap=Duration(seconds=draw.choice((0, 3600))))),
                    Asked("DisableKey", pb.DisableKeyRequest(**named)),
                    Asked("EnableKey", pb.EnableKeyRequest(**named)),
                    Asked("SetOwner", pb.SetOwnerRequest(owner=owner, request_id=request_id)),
                )
            )
        )
    draw.shuffle(asked)
    return asked


async def ask(stub: Any, token: str, asked: Asked) -> None:
    """Ask, and keep the answer; it may be lost with the server."""
    try:
        answer = await getattr(stub, asked.method)(
            asked.request, metadata=(("authorization", f"Bearer {token}"),), timeout=20
        )
    except grpc.aio.AioRpcError as error:
        if error.code() not in LOST:
            raise
        asked.lost += 1
    else:
        asked.answers.append(answer)


async def ask_all(server: ServerProcess, token: str, asked: list[Asked], *, kill_after: int | None) -> bool:
    """Ask everything, some at a time; kill the server once so many were answered, and tell whether that was done."""
    queue, answered = list(asked), 0

    async def caller(stub: Any) -> None:
        nonlocal answered
        while queue and server.process.is_running():
            one = queue.pop()
            before = len(one.answers)
            await ask(stub, token, one)
            answered += len(one.answers) > before
            if kill_after is not None and answered >= kill_after:
                server.process.kill()
                return

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        await asyncio.gather(*(caller(stub) for _ in range(CALLERS)))
    return kill_after is not None and answered >= kill_after


def told(answer: Any) -> dict[str, Any]:
    """What may not differ from answer to answer."""
    return {name: str(getattr(answer, name, "")) for name in ("key", "owner", "api_key", "fingerprint", "revision")}


async def check_database(keys: Keys, asked: list[Asked]) -> None:
    changes = [row["revision"] for row in await keys.rows("SELECT revision FROM changes ORDER BY revision")]
    assert changes == list(range(1, len(changes) + 1))
    audited = await keys.rows("SELECT revision, request_id, key_id, after FROM audit_events ORDER BY revision")
    assert [event["revision"] for event in audited] == changes
    of_requests = [event["request_id"] for event in audited if event["request_id"]]
    assert len(of_requests) == len(set(of_requests))
    always = {it.request.request_id for it in asked if it.method not in ("DisableKey", "EnableKey")}
    assert always <= set(of_requests)
    remembered = await keys.rows("SELECT count(*) FROM idempotency")
    assert remembered == [{"count": len(asked)}]
    differing = await keys.rows(
        "SELECT key_id FROM keys JOIN LATERAL (SELECT after FROM audit_events WHERE key_id = keys.key_id"
        " ORDER BY revision DESC LIMIT 1) AS last ON true"
        " WHERE (after->>'revision')::bigint <> revision OR after->>'name' <> name OR after->>'state' <> state"
    )
    assert differing == []
    assert (
        await keys.rows(
            "SELECT key_id FROM keys LEFT JOIN secrets USING (key_id) GROUP BY key_id"
            " HAVING count(*) FILTER (WHERE digest IS NOT NULL AND secrets.expires_at IS NULL) <> 1"
        )
        == []
    )


@pytest.mark.timeout(600)
async def test_no_mutation_is_half_done_or_done_twice_when_servers_are_killed(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    draw = random.Random(7)
    async with keys_on(postgres_url) as keys:
        root = await keys.create(ROOT, tenant_id="", permissions=("tollkeeper:*",))
        made = [(await keys.create(tenant_id="")).key.key_id for _ in range(KEYS + KEYS // 2)]
        asked = plan(made[:KEYS], made[KEYS:], draw)
        kills = 0
        while open_ := [one for one in asked if not one.answers]:
            with ServerProcess(tmp_path, POSTGRES_URL=postgres_url, REDIS_URL=redis_url, **SECRETS) as server:
                kills += await ask_all(server, root.api_key, open_, kill_after=draw.randint(1, 25))
        with ServerProcess(tmp_path, POSTGRES_URL=postgres_url, REDIS_URL=redis_url, **SECRETS) as server:
            await ask_all(server, root.api_key, asked, kill_after=None)
        assert kills >= 5
        assert any(one.lost for one in asked)
        for one in asked:
            assert len(one.answers) == 2
            assert told(one.answers[0]) == told(one.answers[1])
        await check_database(keys, asked)
