"""The checker: which verifications were ALLOWED although they started when the API key was dead everywhere.

An API key is dead from the moment at which a mutation that took something away *returned* (or, if its answer was
PENDING, from its ``effective_at``), until a mutation that gives it back is *sent*. A verification counts that started
and ended in between: what started earlier may see the key as it was, what ended later as it will be. Each
verification is looked at once, so that the whole is linear in their number.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.faults.history.record import Outcome, Probe, Records, Way

FOREVER = 1 << 62
MEMORY_NS_MAX = 50_000
SOON_NS = (1_000_000, 10_000_000, 100_000_000)


@dataclass(slots=True)
class Span:
    """A stretch of time in which an API key must be denied, or must be allowed."""

    cause: str
    since: int
    until: int = FOREVER


@dataclass(slots=True)
class Verdict:
    """What was found so far."""

    probes: int = 0
    checked: int = 0
    """Verifications of API keys that were dead."""
    stale: list[tuple[Probe, Span]] = field(default_factory=list)
    """Those of them that were ALLOWED."""
    of_living: int = 0
    """Verifications of API keys that nothing had been taken from, or that had it back."""
    refused: list[tuple[Probe, Span]] = field(default_factory=list)
    """Those of them that were denied."""
    by_way: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    checked_by_way: Counter[str] = field(default_factory=Counter)
    from_memory: int = 0
    """Those that a near-cache answered, as told by how long they took."""
    soon: list[int] = field(default_factory=lambda: [0] * len(SOON_NS))
    """How many of those checked started within 1, 10 and 100 ms of the death."""

    @property
    def is_wrong(self) -> bool:
        """Whether any answer must not be."""
        return bool(self.stale or self.refused)


class Checker:
    """Follows the files of the verifying processes, and judges them by the deaths that it is told of."""

    def __init__(self, files: Iterable[Records]) -> None:
        self._files = list(files)
        self._deaths: defaultdict[int, list[Span]] = defaultdict(list)
        self._lives: defaultdict[int, list[Span]] = defaultdict(list)
        self.verdict = Verdict()

    def died(self, secret: int, cause: str, *, since: int) -> Span:
        """An API key is dead; the answer has to be told when it lives again."""
        death = Span(cause, since)
        self._deaths[secret].append(death)
        return death

    def lives(self, secret: int, cause: str, *, since: int) -> Span:
        """An API key lives; the answer has to be told when something is taken from it."""
        life = Span(cause, since)
        self._lives[secret].append(life)
        return life

    def read(self) -> Verdict:
        """Judge what was recorded since the last time."""
        for file in self._files:
            for secret, way, outcome, started, ended in file.new():
                self._judge(secret, way, outcome, started, ended)
        return self.verdict

    def _judge(self, secret: int, way: int, outcome: int, started: int, ended: int) -> None:
        verdict, way_name = self.verdict, _WAYS[way]
        verdict.probes += 1
        verdict.from_memory += way == Way.CLIENT and ended - started < MEMORY_NS_MAX
        verdict.by_way[way_name] += 1
        verdict.outcomes[_OUTCOMES[outcome]] += 1
        if outcome == Outcome.FAILED:
            return
        if death := _span(self._deaths[secret], started, ended):
            verdict.checked += 1
            verdict.checked_by_way[way_name] += 1
            for index, bound in enumerate(SOON_NS):
                verdict.soon[index] += started < death.since + bound
            if outcome == Outcome.ALLOWED:
                verdict.stale.append((Probe(secret, Way(way), Outcome(outcome), started, ended), death))
        elif life := _span(self._lives[secret], started, ended):
            verdict.of_living += 1
            if outcome == Outcome.DENIED:
                verdict.refused.append((Probe(secret, Way(way), Outcome(outcome), started, ended), life))


def _span(spans: Sequence[Span], started: int, ended: int) -> Span | None:
    """The one in which all of it falls."""
    return next((span for span in spans if span.since <= started and ended <= span.until), None)


_WAYS = {way.value: way.name.lower() for way in Way}
_OUTCOMES = {outcome.value: outcome.name.lower() for outcome in Outcome}


def told(verdict: Verdict) -> str:
    """The verdict in a few lines."""
    ways = ", ".join(f"{way} {verdict.by_way[way]:,} ({verdict.checked_by_way[way]:,})" for way in _WAYS.values())
    within = ", ".join(
        f"{count:,} within {bound // 1_000_000} ms" for count, bound in zip(verdict.soon, SOON_NS, strict=True)
    )
    outcomes = ", ".join(f"{verdict.outcomes[name]:,} {name}" for name in _OUTCOMES.values())
    lines = [
        f"{verdict.probes:,} verifications: {outcomes}; {verdict.from_memory:,} answered by near-caches",
        f"of dead API keys {verdict.checked:,}: {within} of the death",
        f"by way (of dead ones): {ways}",
        f"stale ALLOWED: {len(verdict.stale)}",
        f"of living API keys {verdict.of_living:,}, refused: {len(verdict.refused)}",
    ]
    for probe, span in (*verdict.stale[:5], *verdict.refused[:5]):
        late, took = (probe.started - span.since) / 1e6, (probe.ended - probe.started) / 1e6
        lines.append(
            f"  secret {probe.secret}, {probe.way.name}: started {late:.3f} ms after {span.cause}, took {took:.3f} ms"
        )
    return "\n".join(lines)
