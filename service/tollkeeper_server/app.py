"""The parts of a server, built and connected to their stores; the only place that does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from tollkeeper_server.audit.service import AuditService
from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.edge.document import Faulty
from tollkeeper_server.edge.library import ProfileLibrary
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.keys.upgrades import Upgrades
from tollkeeper_server.quota.charging import charging
from tollkeeper_server.settings import Settings, StoreUrls
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis
from tollkeeper_server.usage.flusher import UsageFlusher
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.usage.service import UsageService
from tollkeeper_server.usage.upkeep import UsageUpkeep
from tollkeeper_server.verify.callers import CallerAuthenticator
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.proofs import Proofs
from tollkeeper_server.verify.quotas import Quotas
from tollkeeper_server.verify.replica import Replica
from tollkeeper_server.verify.sign_in import SignIn
from tollkeeper_server.verify.signing_keys import SigningKeys
from tollkeeper_server.verify.verifier import Verifier
from tollkeeper_server.verify.watchers import Watchers

CACHE_BOUNDS = {"unknown_max": 100_000, "tombstones_max": 100_000, "age_max_seconds": 60}


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The parts that serve calls, connected to their stores."""

    keys: KeyService
    usage: UsageService
    audit: AuditService
    verifier: Verifier
    watchers: Watchers
    quotas: Quotas
    proofs: Proofs
    authenticator: CallerAuthenticator
    profiles: ProfileLibrary | None
    """None if gateways are not served."""


@contextlib.asynccontextmanager
async def application(settings: Settings, stores: StoreUrls) -> AsyncIterator[Application]:
    """Connect to the stores and build everything on them; what is built last is closed first. Raises StartupError."""
    async with contextlib.AsyncExitStack() as stack:
        keyring = settings.keyring()
        postgres = await Postgres.connect(stores.postgres, pool_size=settings.postgres_pool_size)
        stack.push_async_callback(postgres.close)
        redis = await Redis.connect(stores.redis)
        stack.push_async_callback(redis.close)
        cache = RecordCache[SecretRecord](entries_max=settings.cache_keys, **CACHE_BOUNDS)
        replica = Replica(stores.postgres, cache=cache)
        stack.push_async_callback(replica.leave)
        await stack.enter_async_context(_background(replica.run(), name="replica"))
        confirmations = Confirmations(postgres, clock=now)
        stack.push_async_callback(confirmations.close)
        upgrades = Upgrades(postgres, pepper_version=keyring.current_pepper_version)
        await stack.enter_async_context(_background(upgrades.run(), name="upgrades"))
        directory = KeyDirectory(postgres, keyring=keyring, cache=cache, replica=replica, upgrades=upgrades)
        stack.push_async_callback(directory.close)
        charger = await stack.enter_async_context(charging(postgres, redis))
        usage = UsageRecorder()
        await stack.enter_async_context(_counting(usage, postgres))
        verifier = Verifier(directory=directory, charger=charger, usage=usage, clock=now)
        quotas = Quotas(directory=directory, charger=charger, usage=usage, clock=now)
        proofs = Proofs(verifier)
        keys = KeyService(postgres=postgres, keyring=keyring, confirmations=confirmations, clock=now)
        stack.push_async_callback(keys.close)
        yield Application(
            keys=keys,
            usage=UsageService(postgres=postgres, clock=now),
            audit=AuditService(postgres=postgres),
            verifier=verifier,
            watchers=replica.watchers,
            quotas=quotas,
            proofs=proofs,
            authenticator=CallerAuthenticator(verifier, proofs=proofs, sign_in=_sign_in(settings)),
            profiles=await stack.enter_async_context(_profiles(settings)),
        )


@contextlib.asynccontextmanager
async def _counting(usage: UsageRecorder, postgres: Postgres) -> AsyncIterator[None]:
    """Store what is counted during the block, the last of it at its end, and keep what is stored in shape."""
    flusher = UsageFlusher(usage, postgres=postgres)
    upkeep = UsageUpkeep(postgres=postgres, clock=now)
    try:
        async with _background(flusher.run(), name="usage"), _background(upkeep.run(), name="usage_upkeep"):
            yield
    finally:
        await flusher.close()


def _sign_in(settings: Settings) -> SignIn | None:
    """None if users may not sign in."""
    issuer = settings.sign_in_from()
    if issuer is None or settings.sign_in_jwks is None:
        return None
    return SignIn(issuer, keys=SigningKeys(settings.sign_in_jwks))


@contextlib.asynccontextmanager
async def _profiles(settings: Settings) -> AsyncIterator[ProfileLibrary | None]:
    """The profiles of the public APIs, following their files."""
    if settings.edge_listen is None:
        yield None
        return
    try:
        profiles = ProfileLibrary(settings.given_profiles(), log=structlog.get_logger())
    except Faulty as error:
        raise StartupError(f"the profiles are not valid:\n{error}") from None
    async with _background(profiles.watch(), name="profiles"):
        yield profiles


@contextlib.asynccontextmanager
async def _background(work: Coroutine[None, None, None], *, name: str) -> AsyncIterator[None]:
    """Do ``work`` beside the block, which ends it; should it fail before, that is logged at once."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        structlog.get_logger().error("background_task_failed", task=task.get_name(), exc_info=fault)


def now() -> datetime:
    """What all parts go by."""
    return datetime.now(UTC)
