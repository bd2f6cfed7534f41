"""Postgres: one pool, and one place where the driver's errors become ours."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.startup import StartupError

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 5.0
STATEMENT_SECONDS_MAX = 60.0
"""Longest that a statement may take, whatever time its block is given."""

APPLICATION_ROLE = "tollkeeper_app"
"""Whom every connection of a server acts as, whoever it logs in as: see ``storage.roles``."""

# Every statement is small and served by an index. So its plan is made once on each connection, not for every execution,
# which takes longer than the statement; and one made while a table was small must not read all of it when it has grown.
_SESSION = {
    "application_name": "tollkeeper",
    "timezone": "UTC",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    # Callers' keys and root callers cross tenants; what belongs to one narrows itself with ``acting_in``.
    "tollkeeper.tenant": "*",
}
_SERVING = _SESSION | {"role": APPLICATION_ROLE}

_ACT_IN = """
    SELECT set_config('tollkeeper.tenant', $1, true), set_config('plan_cache_mode', 'force_custom_plan', true),
        set_config('enable_sort', 'off', true)
"""

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"

_log = structlog.get_logger()

_UNAVAILABLE = (
    OSError,  # refused, reset, unreachable; TimeoutError is one as well
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting up, shutting down, crashed, statement cancelled
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.TransactionRollbackError,  # deadlock
    asyncpg.ReadOnlySQLTransactionError,  # demoted by a failover
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InternalClientError,  # no primary to be found; or the connection was ended while it was idle
)


class Postgres:
    """A pool of connections to one database. Reconnects by itself after Postgres was away."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    @classmethod
    async def connect(cls, url: str, *, pool_size: int = 10) -> "Postgres":
        """Open a pool of up to ``pool_size`` connections; raises StartupError if not even one can be had."""
        with _startup_errors(url):
            pool = await asyncpg.create_pool(
                url,
                min_size=0,
                max_size=pool_size,
                reset=_keep_session,
                max_cached_statement_lifetime=0,
                timeout=CONNECT_SECONDS,
                command_timeout=STATEMENT_SECONDS_MAX,
                server_settings=_SERVING,
            )
            async with pool.acquire(timeout=CONNECT_SECONDS):
                return cls(pool)

    async def close(self) -> None:
        """Close every connection, waiting for what is under way for up to 5 seconds."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._pool.close()
        except TimeoutError:
            _log.warning("postgres_close_timed_out")

    @asynccontextmanager
    async def connection(self, *, timeout_seconds: float = 5.0) -> AsyncIterator[Connection]:
        """A connection on which every statement commits on its own.

        Session state must be left as it was found. Raises Unavailable if the whole block, waiting for the connection
        included, does not get through in time, or if Postgres is away.
        """
        with _translated():
            async with asyncio.timeout(timeout_seconds), self._pool.acquire(timeout=timeout_seconds) as connection:
                try:
                    yield connection
                except asyncpg.InternalClientError:  # Postgres was ending the connection while it was idle
                    connection.terminate()
                    raise

    @asynccontextmanager
    async def transaction(self, *, timeout_seconds: float = 5.0) -> AsyncIterator[Connection]:
        """As ``connection``, in one transaction: committed at the end of the block, rolled back if it raises."""
        async with self.connection(timeout_seconds=timeout_seconds) as connection, connection.transaction():
            yield connection


async def connect(url: str, *, as_owner: bool = False) -> "asyncpg.Connection[asyncpg.Record]":
    """One connection outside any pool; raises StartupError if it cannot be had.

    ``as_owner`` acts as whoever the URL logs in as, which migrations need.
    """
    with _startup_errors(url):
        settings = _SESSION if as_owner else _SERVING
        return await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=settings)


@asynccontextmanager
async def acting_in(tenant_id: str, connection: Connection) -> AsyncIterator[None]:
    """A transaction in which rows of other tenants do not exist, and statements are planned for their values.

    Which index serves a page best depends on the values: an owner may have every key, or one. It is always one that has
    the order of the page; before a new table is analyzed, to sort all of it may seem cheaper.
    """
    async with connection.transaction():
        await connection.execute(_ACT_IN, tenant_id)
        yield


async def _keep_session(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Instead of the driver's reset, which costs a round trip: no statement here changes the session."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except asyncpg.InterfaceError as error:
        if type(error) is not asyncpg.InterfaceError:  # its subclasses are our mistakes, itself a closed connection
            raise
        raise _unavailable(error) from error
    except _UNAVAILABLE as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> Unavailable:
    _log.warning("postgres_unavailable", error_type=type(error).__name__, error=str(error))
    return Unavailable("the database did not answer, or not in time", reason="POSTGRES_UNAVAILABLE")


@contextmanager
def _startup_errors(url: str) -> Iterator[None]:
    """One line for the operator, without the password. A malformed URL is not quoted at all, for it may be in there."""
    try:
        yield
    except TimeoutError as error:
        raise StartupError(f"no answer from Postgres at {_place(url)} in {CONNECT_SECONDS:.0f} seconds") from error
    except OSError as error:
        raise StartupError(f"cannot reach Postgres at {_place(url)}: {error.strerror or error}") from error
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        expected = "postgresql://user:password@host:port/database"
        raise StartupError(f"the Postgres URL is not valid; expected {expected}") from error
    except (asyncpg.InvalidParameterValueError, asyncpg.InsufficientPrivilegeError) as error:  # of the role
        raise StartupError(
            f"cannot become {APPLICATION_ROLE} in Postgres at {_place(url)}: run `tollkeeper-server migrate` as the"
            f" owner of the database, and GRANT {APPLICATION_ROLE} to whom this server logs in as"
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StartupError(f"cannot use Postgres at {_place(url)}: {str(error).splitlines()[0]}") from error


def _place(url: str) -> str:
    """Where ``url`` leads, without user and password."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host", ["localhost"])[0]
