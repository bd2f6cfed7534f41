"""``tollkeeper audit``: what operators do with the log, from the terminal, over the wire."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.integration.api_support import Api, api_on
from tollkeeper.command.app import run
from tollkeeper.v1 import key_service_pb2 as pb


@pytest.fixture
async def api(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        monkeypatch.setenv("TOLLKEEPER_ADDRESS", api.address)
        monkeypatch.setenv("TOLLKEEPER_TOKEN", api.root[0][1].removeprefix("Bearer "))
        yield api


class Terminal:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        ended = await asyncio.to_thread(run, ["audit", *arguments])
        out, err = self._capsys.readouterr()
        assert ended == code, err
        return out, err


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


async def lived(api: Api) -> list[str]:
    ids = []
    for name in ("first", "second", "third"):
        created = await api.keys.CreateKey(pb.CreateKeyRequest(name=name, tenant_id="acme"), metadata=api.root)
        ids.append(created.key.key_id)
    await api.keys.RevokeKey(pb.RevokeKeyRequest(key_id=ids[0], comment="left on a train"), metadata=api.root)
    return ids


async def test_events_are_listed_newest_first_and_filtered(api: Api, audit: Terminal) -> None:
    ids = await lived(api)
    out, _ = await audit("list", "--tenant", "acme")
    heading, *lines = out.splitlines()
    assert heading.split()[:2] == ["SEQUENCE", "WHEN"]
    assert [line.split()[0] for line in lines] == ["4", "3", "2", "1"]
    out, _ = await audit("list", "--tenant", "acme", "--key", ids[0], "--json")
    shown = json.loads(out)
    assert [event["action"] for event in shown["events"]] == ["RevokeKey", "CreateKey"]
    assert shown["events"][0]["after"]["revoke_comment"] == "left on a train"
    assert len(bytes.fromhex(shown["events"][0]["hash"])) == 32
    assert shown["events"][1]["before"] is None
    out, err = await audit("list", "--tenant", "acme", "--max", "3")
    assert len(out.splitlines()) == 4
    assert "raise --max" in err
    assert (await audit("list", "--tenant", "acme", "--until", "2020-01-01T00:00:00Z"))[0] == "No events.\n"


async def test_a_head_that_was_kept_finds_a_tail_that_was_cut_off(
    api: Api, audit: Terminal, postgres_url: str, tmp_path: Path
) -> None:
    heads = tmp_path / "heads"
    await lived(api)
    first, _ = await audit("head", "--tenant", "acme")
    assert first.split()[:2] == ["acme", "4"]
    await lived(api)
    second, _ = await audit("head", "--tenant", "acme")
    own, _ = await audit("head")
    heads.write_text(first + own + second)
    assert (await audit("verify", "--tenant", "acme"))[0] == "Intact: 8 events.\n"
    out, _ = await audit("verify", "--tenant", "acme", "--head", str(heads))
    assert out == "Intact: 8 events, and as it was at event 8.\n"

    owner = await asyncpg.connect(postgres_url)
    await owner.execute("DELETE FROM audit_events WHERE tenant_id = 'acme' AND sequence > 5")
    assert (await audit("verify", "--tenant", "acme"))[0] == "Intact: 5 events.\n"
    _, err = await audit("verify", "--tenant", "acme", "--head", str(heads), code=6)
    assert err == "tollkeeper: events 6 to 8 are missing\n"
    await owner.execute("UPDATE audit_events SET actor = 'nobody' WHERE tenant_id = 'acme' AND sequence = 2")
    out, err = await audit("verify", "--tenant", "acme", "--json", code=6)
    assert json.loads(out) == {"intact": False, "events": 5, "problems": ["event 2, or event 1 was altered"]}
    assert err == "tollkeeper: event 2, or event 1 was altered\n"
    await owner.execute("DELETE FROM audit_events WHERE tenant_id = 'acme'")
    _, err = await audit("verify", "--tenant", "acme", "--head", str(heads), code=6)
    assert err == "tollkeeper: events 1 to 8 are missing\n"
    await owner.close()


async def test_what_cannot_be_verified_is_never_called_intact(api: Api, audit: Terminal, tmp_path: Path) -> None:
    await lived(api)
    heads = tmp_path / "heads"
    for content, told in [
        (None, "cannot read"),
        ("", "is empty"),
        ("nonsense\n", "is not what `tollkeeper audit head` printed"),
        ("other 4 " + "0" * 64 + "\n", "has no head of acme"),
    ]:
        if content is not None:
            heads.write_text(content)
        out, err = await audit("verify", "--tenant", "acme", "--head", str(heads), code=2)
        assert (out, told in err) == ("", True), err
    assert (await audit("head", "--tenant", "nobody", code=4))[1] == "tollkeeper: the log is empty\n"
