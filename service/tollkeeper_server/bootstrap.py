"""The first key of a database, which makes all others."""

from datetime import UTC, datetime

from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.key import ROOT_TENANT
from tollkeeper_server.keys.commands import CreateKey
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.settings import Settings
from tollkeeper_server.storage.postgres import Postgres

_BOOTSTRAP = Caller(key_id="bootstrap", tenant_id=ROOT_TENANT, permissions=("tollkeeper:*",))
"""Who creates root keys: whoever may read the server's secrets."""


async def create_root_key(settings: Settings, postgres_url: str) -> str:
    """Create a key of the root tenant that may call everything, and give its API key. Raises StartupError."""
    postgres = await Postgres.connect(postgres_url, pool_size=1)
    try:
        confirmations = Confirmations(postgres, clock=_now)
        keys = KeyService(postgres=postgres, keyring=settings.keyring(), confirmations=confirmations, clock=_now)
        created = await keys.create(_BOOTSTRAP, CreateKey(name="root", permissions=tuple(CallerPermission)))
        return created.api_key
    finally:
        await postgres.close()


def _now() -> datetime:
    return datetime.now(UTC)
