"""Refilling pools: blocks on their way from the ledger to Redis."""

import asyncio
from collections.abc import Mapping, Sequence

from tollkeeper_server.quota import metrics
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, Grant
from tollkeeper_server.quota.counters import Counters
from tollkeeper_server.quota.epochs import EpochPassed, Epochs
from tollkeeper_server.quota.ledger import Block, Ledger, Need
from tollkeeper_server.storage.batcher import Batcher

BATCH_MAX = 200
GRANT_US = 1_000_000
"""How long a grant may be on its way. The reconciler counts a pool as lost for good only after that."""
_PATIENCE_SECONDS = 0.005


class Refills:
    """Refills pools, those of many requests in one transaction; requests that wait for the same pool share a block."""

    def __init__(self, *, ledger: Ledger, counters: Counters, epochs: Epochs) -> None:
        self._ledger = ledger
        self._counters = counters
        self._epochs = epochs
        self._batcher: Batcher[Need, None] = Batcher(self._flush, batch_max=BATCH_MAX)

    async def refill(self, charge: Charge, answer: ChargeAnswer) -> None:
        """Bring what ``charge`` lacks as far as the limits allow; whether it fits, asking again will tell.

        Raises Unavailable if Postgres does not answer.
        """
        times = answer.rates.times
        needs = [
            Need(
                demand,
                standing.generation,
                max(0, demand.units * times - standing.left),
                standing.received,
                answer.now_us,
            )
            for demand, standing in zip(charge.pools, answer.pools, strict=True)
            if standing.generation < 0 or standing.exceeded or demand.units * times > standing.left
        ]
        await asyncio.gather(*map(self._batcher.submit, needs))

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._batcher.close()

    async def _flush(self, needs: Sequence[Need]) -> Sequence[None]:
        try:
            blocks = await self._ledger.refill(needs, epoch=self._epochs.current)
        except EpochPassed:
            await self._epochs.adopt()
            return [None] * len(needs)
        metrics.BLOCKS.inc(len(blocks))
        blocks = {**blocks, **{need.demand.account: await self._without_lost(need, blocks) for need in needs}}
        expires_us = self._counters.clock.now_us() + GRANT_US
        grants = {need.demand.account: _grant(need, blocks[need.demand.account], expires_us) for need in needs}
        if any(_is_on_its_way(need, blocks[need.demand.account]) for need in needs):
            await asyncio.sleep(_PATIENCE_SECONDS)
        await self._counters.grant(list(grants.values()))
        return [None] * len(needs)

    async def _without_lost(self, need: Need, blocks: Mapping[str, Block]) -> Block:
        """The block, after what was lost on its way to the pool before has gone back to the ledger."""
        account = need.demand.account
        block = blocks[account]
        lost = block.arrived - need.received
        if need.seen != block.generation or lost <= 0 or self._counters.clock.now_us() - need.seen_us > GRANT_US // 2:
            return block
        return await self._ledger.give_back(account, lost, block=block)


def _is_on_its_way(need: Need, block: Block) -> bool:
    """Whether another server has just made the pool, so that its first block must be on its way."""
    return not block.makes_pool and block.generation != need.seen


def _grant(need: Need, block: Block, expires_us: int) -> Grant:
    return Grant(
        need.demand.name,
        block.generation,
        block.makes_pool,
        block.units,
        block.debited,
        block.revision,
        need.demand.window.ends_us,
        expires_us,
    )
