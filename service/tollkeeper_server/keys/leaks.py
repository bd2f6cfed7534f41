"""API keys that leaked: whoever holds one may end its key."""

from collections.abc import Callable, Sequence
from datetime import datetime

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring
from tollkeeper_server.core.key import Key, RevokeReason
from tollkeeper_server.keys import life
from tollkeeper_server.keys.import_commands import LeakedKey, ReportedKeys, ReportLeakedKeys
from tollkeeper_server.keys.journal import Journal, Operation
from tollkeeper_server.keys.lookup import find_by_digests
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.requests import Answer, Request
from tollkeeper_server.keys.workspace import Needs, Workspace
from tollkeeper_server.storage.postgres import Postgres


class Possession:
    """Tells which keys API keys prove, whoever's they are."""

    def __init__(self, *, postgres: Postgres, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._postgres = postgres
        self._keyring = keyring
        self._clock = clock

    async def proven(self, api_keys: Sequence[str]) -> list[Key | None]:
        """The key behind each API key; None where it proves none. Raises Unavailable."""
        asked = [self._keyring.candidates(api_key) for api_key in api_keys]
        async with self._postgres.connection() as connection:
            records, _ = await find_by_digests(connection, [digest for digests in asked for digest in digests])
        now = self._clock()
        proofs = {digest: it.key for digest, it in records.items() if it.expires_at is None or now < it.expires_at}
        return [next((proofs[digest] for digest in digests if digest in proofs), None) for digests in asked]


class Leaks:
    """Ends keys that leaked. Faults and repetition are as in ``KeyService``."""

    def __init__(
        self, *, possession: Possession, keyring: Keyring, journal: Journal, confirmations: Confirmations
    ) -> None:
        self._possession = possession
        self._keyring = keyring
        self._journal = journal
        self._confirmations = confirmations

    async def report(self, caller: Caller, command: ReportLeakedKeys) -> ReportedKeys:
        """Revoke the key of each API key that is one of ours, whatever its tenant, as COMPROMISED.

        Keys that are revoked stay as they are.
        """
        leaked = command.leaked_keys
        found = await self._possession.proven([each.api_key for each in leaked])
        names = tuple("" if key is None else key.key_id for key in found)
        content = {"leaked": [(self._keyring.digest(it.api_key).hex(), it.url, it.source) for it in leaked]}
        request = Request.by(caller, "ReportLeakedKeys", request_id=command.request_id, content=content)

        def apply(workspace: Workspace) -> Answer:
            for name, each in zip(names, leaked, strict=True):
                key = workspace.key(name) if name else None
                if key is not None and key.revoked_at is None:
                    key = life.revoked(key, reason=RevokeReason.COMPROMISED, now=workspace.now())
                    workspace.put_key(key, request, note=_note(each))
            return Answer(revision=workspace.revision, key_ids=names)

        needs = Needs(key_ids=frozenset(names) - {""})
        answer = await self._journal.do(Operation(request=request, needs=needs, apply=apply))
        propagation, effective_at = await self._confirmations.wait(answer.revision)
        return ReportedKeys(ours=tuple(map(bool, answer.key_ids)), propagation=propagation, effective_at=effective_at)


def _note(leaked: LeakedKey) -> dict[str, str]:
    return {"revoke_comment": "reported as leaked", "leak_url": leaked.url, "leak_source": leaked.source}
