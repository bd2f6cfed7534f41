"""The counters of limits in Redis: many charges in one run of one script."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.quota.charge_script import RECORD_MS, SCRIPT, grant_argument, parts_of, told
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, Grant, Told, alike, home
from tollkeeper_server.storage.redis import Redis, Script, ScriptLost

_TOLD = b"1"
"""The record of a charge that was made elsewhere."""
_COUNTED = b"\xc3"
"""How the record of one that was made here ends if its usage was counted: "true", as MessagePack."""

EPOCH_TIMEOUT_SECONDS = 0.5
REMEMBER_TIMEOUT_SECONDS = 2.0


class ChargeStore:
    """The counters of all limits, in Redis. The clock is Redis's own, so servers need not agree on the time."""

    def __init__(self, redis: Redis, *, script: Script = SCRIPT) -> None:
        self._redis = redis
        self._plain = script
        self._of_epoch: Script | None = None
        self._epoch = ""
        self.touched: set[str] = set()
        """Hashes that charges may have counted usage in; for whoever stores that to take."""

    async def remember(self, records: Sequence[str]) -> dict[str, bool]:
        """Remember charges that were made elsewhere, and give those that were made here as well. Raises Unavailable.

        Of each it tells whether its usage was counted here.
        """
        found = await self._redis.set_missing(
            records, _TOLD, lifetime_ms=RECORD_MS, timeout_seconds=REMEMBER_TIMEOUT_SECONDS
        )
        charged = {record: was for record, was in zip(records, found, strict=True) if was not in (None, _TOLD)}
        return {record: was is not None and was.endswith(_COUNTED) for record, was in charged.items()}

    @property
    def script(self) -> str:
        """What tells this script from those of other versions."""
        return self._plain.digest

    async def knows(self, epoch: str, *, seal: str) -> bool:
        """Whether Redis is still in ``epoch``, neither restarted nor replaced since that began, and knows the script.

        Raises Unavailable.
        """
        scripts = _marker(epoch), self._script_of(epoch, seal)
        return await self._redis.knows(*scripts, timeout_seconds=EPOCH_TIMEOUT_SECONDS)

    async def load(self, epoch: str, *, seal: str) -> None:
        """Let Redis know the script, as it is in ``epoch``. Raises Unavailable."""
        await self._redis.load(self._script_of(epoch, seal), timeout_seconds=EPOCH_TIMEOUT_SECONDS)

    async def begin(self, epoch: str, *, seal: str) -> None:
        """Let Redis know ``epoch``, and the script. Raises Unavailable."""
        await self.load(epoch, seal=seal)
        await self._redis.load(_marker(epoch), timeout_seconds=EPOCH_TIMEOUT_SECONDS)

    def enter(self, epoch: str, *, seal: str | None) -> None:
        """From now on trust the pools of ``epoch`` and no others, and count usage in its hashes.

        Without a ``seal`` Redis is not known to know the script, and pools are not charged.
        """
        self._of_epoch = None if seal is None else self._script_of(epoch, seal)
        self._epoch = epoch

    async def charge(self, charges: Sequence[Charge], *, timeout_seconds: float) -> list[ChargeAnswer | Unavailable]:
        """Make each charge on its own, in order, and give what came of it.

        That is Unavailable if Redis failed or did not answer in time; the charge may have been made. ScriptLost says
        that Redis was restarted or replaced, so that nothing can be known about its pools; nothing was charged.
        """
        groups = [[position] for position in range(len(charges))]
        told = await self._charge(charges, groups, timeout_seconds)
        return [each.answer for each in sorted(told, key=lambda each: each.positions[0])]

    async def charge_together(self, charges: Sequence[Charge], *, timeout_seconds: float) -> list[Told]:
        """As ``charge``, but those that are the same but for their records are made together, which costs as one.

        They come out as if made one by one, and where limits stand is told as it is after all of them.
        """
        return await self._charge(charges, alike(charges), timeout_seconds)

    async def _charge(
        self, charges: Sequence[Charge], groups: Sequence[Sequence[int]], timeout_seconds: float
    ) -> list[Told]:
        runs: defaultdict[tuple[int, bool], list[Sequence[int]]] = defaultdict(list)
        for group in groups:
            charge = charges[group[0]]
            runs[self._redis.slot(home(charge)), charge.needs_epoch].append(group)
        if len(runs) == 1:
            return await self._run(charges, groups, timeout_seconds)
        told = await asyncio.gather(*(self._run(charges, run, timeout_seconds) for run in runs.values()))
        return list(chain.from_iterable(told))

    async def grant(self, grants: Sequence[Grant], *, timeout_seconds: float) -> None:
        """Hand blocks to their pools; what does not arrive is void. Raises Unavailable if that cannot be known."""
        by_slot: defaultdict[int, list[Grant]] = defaultdict(list)
        for each in grants:
            by_slot[self._redis.slot(each.name)].append(each)
        await asyncio.gather(
            *(
                self._redis.run(
                    self._script(needs_epoch=True),
                    keys=[each.name for each in together],
                    arguments=[grant_argument(each) for each in together],
                    timeout_seconds=timeout_seconds,
                )
                for together in by_slot.values()
            )
        )

    async def _run(
        self, charges: Sequence[Charge], groups: Sequence[Sequence[int]], timeout_seconds: float
    ) -> list[Told]:
        parts = []
        for group in groups:
            charge = charges[group[0]]
            records = [charges[position].record for position in group] if charge.record else ()
            parts += parts_of(charge, len(group), records, self._epoch)
            if charge.counted:
                self.touched.add(charge.counted.hash_name(self._epoch))
        try:
            answer = await self._redis.run(
                self._script(needs_epoch=charges[groups[0][0]].needs_epoch),
                keys=[key for key, _ in parts],
                arguments=[argument for _, argument in parts],
                timeout_seconds=timeout_seconds,
            )
        except Unavailable as fault:
            return [Told(group, fault) for group in groups]
        return told(charges, groups, answer)

    def _script_of(self, epoch: str, seal: str) -> Script:
        return Script(f"{self._plain.text.replace('@EPOCH@', epoch)}\n-- {seal}", is_pinned=True)

    def _script(self, *, needs_epoch: bool) -> Script:
        if not needs_epoch:
            return self._plain
        if self._of_epoch is None:
            raise ScriptLost("the epoch of Redis is not known yet", reason="REDIS_UNAVAILABLE")
        return self._of_epoch


def _marker(epoch: str) -> Script:
    """What every version of the server can tell an epoch by."""
    return Script(f"return '{epoch}'", is_pinned=True)
