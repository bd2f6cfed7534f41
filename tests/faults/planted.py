"""Faults to plant in a server: what each protection is for, switched off."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.quota import charge_script, ledger, reconciler
from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.charges import Charge, ChargeAnswer
from tollkeeper_server.quota.demands import ChargeOutcome, Demands
from tollkeeper_server.quota.spends import Spends
from tollkeeper_server.storage.redis import Script
from tollkeeper_server.usage import store
from tollkeeper_server.usage.drainer import UsageDrainer


def plant(name: str) -> None:
    """Break this process; the empty name leaves it as it is."""
    if name:
        _FAULTS[name]()


def _blocks_are_not_debited() -> None:
    """Redis is believed to know what was used: the ledger hands out blocks and keeps no account."""
    ledger._REFILL = ledger._REFILL.replace("        debited = debited + units,\n", "")


def _any_store_is_trusted() -> None:
    """The script is sent again to a Redis that forgot it, as usual, and pools have no epoch. Blocks are large, so that
    it shows."""
    ledger._REFILL = ledger._REFILL.replace(" / 100)", " / 2)")
    ChargeStore._script_of = lambda self, epoch, seal: Script(charge_script.SCRIPT.text)  # type: ignore[method-assign]


def _charges_are_local() -> None:
    """Each server counts alone, and tells the others later."""
    used: dict[str, int] = {}

    async def charge(self: Charger, key: object, *, charges: Mapping[str, int], **_: object) -> ChargeOutcome:
        (limit,) = key.limits  # type: ignore[attr-defined]
        name = key.key_id  # type: ignore[attr-defined]
        fits = used.get(name, 0) + 1 <= limit.amount
        used[name] = used.get(name, 0) + fits
        code = DecisionCode.ALLOWED if fits else DecisionCode.QUOTA_EXCEEDED
        return ChargeOutcome(code=code, limits=(), retry_after=None)

    Charger.charge = charge  # type: ignore[method-assign]


def _records_are_dropped() -> None:
    """No charge is remembered."""
    original = Demands.charge

    def charge(self: Demands, *, now_us: int, consume: bool, record: str = "") -> Charge:
        return original(self, now_us=now_us, consume=consume)

    Demands.charge = charge  # type: ignore[method-assign]


def _kept_answers_are_charged_once() -> None:
    """A kept answer takes from pools what a single verification does."""
    text = charge_script.SCRIPT.text.replace(
        "asked.pool.left - asked.units * item.times", "asked.pool.left - asked.units"
    )
    assert text != charge_script.SCRIPT.text
    ChargeStore._script_of = lambda self, epoch, seal: Script(text.replace("@EPOCH@", epoch), is_pinned=True)  # type: ignore[method-assign]


def _kept_answers_are_spent_once() -> None:
    """The reconciler hears that a kept answer has spent what a single verification does. Blocks are large, so that it
    shows."""
    ledger._REFILL = ledger._REFILL.replace(" / 100)", " / 2)")
    original = Spends.accept

    def accept(self: Spends, charge: Charge, answer: ChargeAnswer, *others: Charge) -> bool:
        return original(self, charge, answer._replace(rates=answer.rates._replace(times=1)), *others)

    Spends.accept = accept  # type: ignore[method-assign]


def _spends_are_forgotten() -> None:
    """Whoever lost a pool is believed to have spent nothing from it. Blocks are large, so that it shows."""
    ledger._REFILL = ledger._REFILL.replace(" / 100)", " / 2)")
    Spends.report = lambda self, pools: [0 for _ in pools]  # type: ignore[method-assign]


def _the_dead_have_spent_nothing() -> None:
    """Only servers that live are waited for before the rest of a lost pool is given back."""
    ledger._REFILL = ledger._REFILL.replace(" / 100)", " / 2)")
    right = "lease_until > lost.opened_at"
    reconciler._GIVE_BACK = reconciler._GIVE_BACK.replace(right, "lease_until > clock_timestamp()")


def _usage_is_added_up() -> None:
    """Each reading of usage is taken for something new."""
    right = "amount = excluded.amount\n        WHERE bucket.amount < excluded.amount"
    store._RAISE = store._RAISE.replace(right, "amount = bucket.amount + excluded.amount")


def _usage_is_taken_before_it_is_stored() -> None:
    """Usage is deleted when it is read, and stored some time later."""
    original = UsageDrainer._store

    async def take(self: UsageDrainer, hashes: Mapping[str, Mapping[bytes, bytes]]) -> None:
        await self._redis._client.delete(*hashes)
        await asyncio.sleep(3)
        await original(self, hashes)

    UsageDrainer._store = take  # type: ignore[method-assign]


def _repetitions_are_counted() -> None:
    """Usage counts answers, not charges."""
    text = charge_script.SCRIPT.text
    right = "    if told[record] then\n"
    wrong = text.replace(right, right + "      count(item.usage, 1, now)\n")
    assert wrong != text
    defaults = ChargeStore.__init__.__kwdefaults__
    assert defaults is not None
    defaults["script"] = Script(wrong)


def _nothing_is_given_back() -> None:
    """What was charged in Redis and in the ledger stays charged and counted twice."""
    original = ChargeStore.remember

    async def remember(self: ChargeStore, records: Sequence[str]) -> dict[str, bool]:
        await original(self, records)
        return {}

    ChargeStore.remember = remember  # type: ignore[method-assign]


_FAULTS: Mapping[str, Callable[[], None]] = {
    "blocks are not debited": _blocks_are_not_debited,
    "any store is trusted": _any_store_is_trusted,
    "charges are local": _charges_are_local,
    "records are dropped": _records_are_dropped,
    "kept answers are charged once": _kept_answers_are_charged_once,
    "kept answers are spent once": _kept_answers_are_spent_once,
    "spends are forgotten": _spends_are_forgotten,
    "the dead have spent nothing": _the_dead_have_spent_nothing,
    "usage is added up": _usage_is_added_up,
    "usage is taken before it is stored": _usage_is_taken_before_it_is_stored,
    "repetitions are counted": _repetitions_are_counted,
    "nothing is given back": _nothing_is_given_back,
}
