"""Keys of other systems: taken over by their API keys or digests of them, so that nobody has to be given a new one."""

from dataclasses import fields, replace
from typing import Any

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring, foreign_digests
from tollkeeper_server.core.errors import AlreadyExists, InvalidArgument, TollkeeperError, Violation
from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.access import check_expiry, check_gifts
from tollkeeper_server.keys.import_commands import Credential, ImportedKeys, ImportKey, ImportKeys
from tollkeeper_server.keys.journal import Journal, Operation
from tollkeeper_server.keys.minting import Mint, new_key
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.requests import Answer, Request
from tollkeeper_server.keys.workspace import Needs, StoredSecret, Workspace


class Imports:
    """Takes over keys of other systems. Faults and repetition are as in ``KeyService``."""

    def __init__(self, *, keyring: Keyring, journal: Journal, confirmations: Confirmations) -> None:
        self._keyring = keyring
        self._mint = Mint(keyring)
        self._journal = journal
        self._confirmations = confirmations

    async def run(self, caller: Caller, command: ImportKeys) -> ImportedKeys:
        """Import each key that has no fault of its own; all of them commit together.

        A key's fault is InvalidArgument for an expiry out of bounds or a pepper that is not there, PermissionDenied for
        a caller permission that the caller lacks, AlreadyExists if a key has the same API key. Raises PermissionDenied
        for a foreign tenant.
        """
        tenant_id = caller.tenant(command.tenant_id)
        items = [
            replace(item, key=replace(item.key, tenant_id=tenant_id, prefix=""))
            if isinstance(item, ImportKey)
            else item
            for item in command.items
        ]
        content = {"tenant_id": tenant_id, "items": [self._content(item) for item in items]}
        request = Request.by(caller, "ImportKeys", request_id=command.request_id, content=content)

        def apply(workspace: Workspace) -> Answer:
            results = tuple(self._import(caller, item, at, request, workspace) for at, item in enumerate(items))
            return Answer(revision=workspace.revision, items=results)

        digests = {digest for item in items if isinstance(item, ImportKey) for digest in self._forms(item.credential)}
        needs = Needs(digests=frozenset(digests))
        answer = await self._journal.do(Operation(request=request, needs=needs, apply=apply))
        # Caches may remember that they did not know the keys.
        propagation, effective_at = await self._confirmations.wait(answer.revision)
        return ImportedKeys(
            results=answer.items, revision=answer.revision, propagation=propagation, effective_at=effective_at
        )

    def _import(
        self, caller: Caller, item: ImportKey | TollkeeperError, at: int, request: Request, workspace: Workspace
    ) -> Key | TollkeeperError:
        if not isinstance(item, ImportKey):
            return item
        forms, now = self._forms(item.credential), workspace.now()
        try:
            check_gifts(caller, item.key.permissions)
            check_expiry(item.key.expires_at, now=now, field=f"keys[{at}].key.expires_at")
            self._check_pepper(item.credential, at=at)
            if any(map(workspace.is_taken, forms)):
                raise AlreadyExists("a key has this API key already", reason="API_KEY_TAKEN")
        except TollkeeperError as fault:
            return fault
        raw = item.credential.raw_api_key
        key = new_key(item.key, request, now=now, length=0, hint=self._mint.hint(raw, prefix="") if raw else "")
        workspace.put_secret(self._secret(item.credential, key))
        workspace.take(forms)
        return workspace.put_key(key, request)

    def _secret(self, credential: Credential, key: Key) -> StoredSecret:
        if credential.raw_api_key:
            return self._mint.secret(credential.raw_api_key, key, now=key.created_at, imported=True)
        return StoredSecret(
            digest=credential.digest,
            algorithm=credential.algorithm,
            pepper_version=credential.pepper_version,
            key_id=key.key_id,
            created_at=key.created_at,
            imported=True,
        )

    def _forms(self, credential: Credential) -> tuple[bytes, ...]:
        """All that may be stored of the same API key, as far as it can be told."""
        raw = credential.raw_api_key
        return self._keyring.digests(raw) + foreign_digests(raw) if raw else (credential.digest,)

    def _check_pepper(self, credential: Credential, *, at: int) -> None:
        if credential.pepper_version and not self._keyring.has_pepper(credential.pepper_version):
            field = f"keys[{at}].hmac_sha256.pepper_version"
            raise InvalidArgument([Violation(field, "must be the version of a pepper that this server has")])

    def _content(self, item: ImportKey | TollkeeperError) -> Any:
        if not isinstance(item, ImportKey):
            return item.message
        asked = {field.name: getattr(item.key, field.name) for field in fields(item.key)}
        return [asked, item.credential.pepper_version, self._forms(item.credential)[0].hex()]


def _inside(tenant_id: str, item: ImportKey | TollkeeperError) -> ImportKey | TollkeeperError:
    """The item as a key of the tenant, without the prefix that API keys of our making have."""
    if not isinstance(item, ImportKey):
        return item
    return replace(item, key=replace(item.key, tenant_id=tenant_id, prefix=""))
