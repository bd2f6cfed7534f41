"""The journal: every mutation goes through here, and commits with its revision, its audit event and its answer.

Mutations happen one after the other, over all servers: who writes holds a lock to the commit. So each sees what all
before it have done, none is lost, and of two that started from the same record one finds it changed. To hold the lock
for less than a millisecond each, a server commits all that have come in meanwhile in one transaction. In there each
still succeeds or fails on its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tollkeeper_server.core.errors import TollkeeperError, Unavailable
from tollkeeper_server.keys.requests import Answer, Request
from tollkeeper_server.keys.store import open_workspace, store_workspace
from tollkeeper_server.keys.workspace import Needs, Workspace
from tollkeeper_server.storage.batcher import Batcher
from tollkeeper_server.storage.postgres import Postgres

BATCH_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One mutation: ``apply`` changes the records that it ``needs``, or raises before it has changed anything."""

    request: Request
    needs: Needs
    apply: Callable[[Workspace], Answer]


class Journal:
    """Commits operations. What is in the answer of one is durable, and so is all that it says of the change."""

    def __init__(self, postgres: Postgres, *, clock: Callable[[], datetime]) -> None:
        self._postgres = postgres
        self._clock = clock
        self._batcher = Batcher(self._commit, batch_max=BATCH_MAX)

    async def do(self, operation: Operation) -> Answer:
        """Do it, once: a request that was answered in the last 24 hours gets that answer again.

        Raises what ``operation`` raises, AlreadyExists if its request_id was used for something else, and Unavailable
        if Postgres does not answer in time; in that case it may have been done, which a repetition tells.
        """
        outcome = await self._batcher.submit(operation)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._batcher.close()

    async def _commit(self, operations: Sequence[Operation]) -> list[Answer | Exception]:
        try:
            return await self._commit_together(operations)
        except Unavailable:
            raise
        except Exception:
            if len(operations) == 1:
                raise
        return [await self._commit_alone(operation) for operation in operations]  # the fault of one is no other's

    async def _commit_alone(self, operation: Operation) -> Answer | Exception:
        try:
            (outcome,) = await self._commit_together([operation])
        except Exception as fault:
            return fault
        return outcome

    async def _commit_together(self, operations: Sequence[Operation]) -> list[Answer | Exception]:
        async with self._postgres.transaction() as connection:
            workspace = await open_workspace(
                connection,
                Needs.of(operation.needs for operation in operations),
                [operation.request for operation in operations if operation.request.request_id],
                clock=self._clock,
            )
            outcomes = [_apply(operation, workspace) for operation in operations]
            await store_workspace(connection, workspace)
        return outcomes


def _apply(operation: Operation, workspace: Workspace) -> Answer | Exception:
    try:
        known = workspace.answer_to(operation.request)
        if known is not None:
            return known
        answer = operation.apply(workspace)
    except TollkeeperError as fault:
        return fault
    workspace.remember(operation.request, answer)
    return answer
