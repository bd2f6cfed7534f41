"""What this server has spent from pools: its part of what the reconciler needs to know of a lost one."""

from collections import defaultdict
from collections.abc import Mapping
from operator import itemgetter

from tollkeeper_server.core.lease import Lease
from tollkeeper_server.core.rate_window import COUNT_MAX
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, Verdict
from tollkeeper_server.storage.boottime import boottime

Pool = tuple[str, int]
"""An account, and the generation of its pool."""


class Spends:
    """Counts the units of charges that Redis has answered.

    A charge without an answer may have been made. If it has a record, another server may be told of it by Redis, and
    allow what nobody has counted: so it is *doubted*, and counted with the next pool of its account that is lost,
    unless it was made in the ledger after all.

    An answer that is kept may be many verifications: whoever tells it again counts them all again, for who charged them
    may not have. So it is doubted for a single one only, which is what it is if it is asked for again without keeping.
    """

    def __init__(self) -> None:
        self.lease = Lease()
        """Without it nothing may be spent: the others may take this server for dead."""
        self._spent: defaultdict[Pool, int] = defaultdict(int)
        self._doubted: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """Units by account and record."""
        self._ends_us: dict[str, int] = {}
        self._reported: set[Pool] = set()

    @property
    def are_open(self) -> bool:
        """Whether this server may spend from pools."""
        return self.lease.holds(boottime())

    def accept(self, charge: Charge, answer: ChargeAnswer, *others: Charge) -> bool:
        """Count a charge that was made, and others told the same; False if they must not be used."""
        is_told_again = answer.verdict is Verdict.REPLAYED and answer.rates.times > 1
        if not (answer.verdict is Verdict.ADMITTED or is_told_again) or not charge.consume or not charge.pools:
            return True
        pools = [(pool.account, standing.generation) for pool, standing in zip(charge.pools, answer.pools, strict=True)]
        if not self.are_open or not self._reported.isdisjoint(pools):
            self.doubt(charge, *others)
            return False
        times = answer.rates.times * (1 + len(others))
        for demand, pool in zip(charge.pools, pools, strict=True):
            self._spent[pool] += demand.units * times
            self._ends_us[demand.account] = demand.window.ends_us
        return True

    def doubt(self, *charges: Charge) -> None:
        """The charges were not answered."""
        for charge in charges:
            if charge.record and charge.consume:
                for pool in charge.pools:
                    self._doubted[pool.account][charge.record] = pool.units
                    self._ends_us[pool.account] = pool.window.ends_us

    def doubted(self, charge: Charge) -> set[str]:
        """The accounts of the charge for which it is doubted."""
        return {pool.account for pool in charge.pools if charge.record in self._doubted.get(pool.account, ())}

    def dispel(self, charge: Charge) -> None:
        """What was doubted has been charged in the ledger."""
        for pool in charge.pools:
            self._doubted.get(pool.account, {}).pop(charge.record, None)

    def report(self, pools: Mapping[Pool, int]) -> list[int]:
        """Units spent from each pool, by what it was granted; none of them is spent from after this.

        What was doubted counts as far as a pool can have held it. The rest waits for the next pool of the account.
        """
        for pool, granted in pools.items():
            if pool not in self._reported:
                self._reported.add(pool)
                self._believe(pool, granted)
        return [self._spent.get(pool, 0) for pool in pools]

    def _believe(self, pool: Pool, granted: int) -> None:
        doubted, room = self._doubted.get(pool[0], {}), granted - self._spent.get(pool, 0)
        for record in list(doubted):
            units = min(doubted[record], room)
            if units <= 0:
                break
            self._spent[pool] += units
            room -= units
            doubted[record] -= units
            if not doubted[record]:
                del doubted[record]

    def pools(self) -> Mapping[Pool, int]:
        """Every pool that something was spent from, newest first; nobody knows yet what they will have been granted."""
        return dict.fromkeys(sorted(self._spent, key=itemgetter(1), reverse=True), COUNT_MAX)

    def forget(self, *, before_us: int) -> None:
        """Drop what belongs to windows that ended before that."""
        over = {account for account, ends_us in self._ends_us.items() if ends_us < before_us}
        for account in over:
            del self._ends_us[account]
            self._doubted.pop(account, None)
        for pool in [pool for pool in self._spent if pool[0] in over]:
            del self._spent[pool]
        self._reported = {pool for pool in self._reported if pool[0] not in over}
