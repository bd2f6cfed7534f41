"""Counting in memory: what keys did, minute by minute. Nothing here waits, so that it costs a verification little."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.usage import metrics

KEY_MINUTES_MAX = 50_000
"""Most that is remembered until it is taken: one for each key and each minute in which it was used."""
UNITS_MAX = 32
"""Most units that are counted of one key in one minute."""
NETWORKS_MAX = 32
"""Most client networks that are remembered of one key in one minute."""

_MINUTE = timedelta(minutes=1)
_NEVER = datetime.min.replace(tzinfo=UTC)
_IPV4_BITS, _IPV6_BITS = 24, 48

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class KeyMinute:
    """What one key did in one minute."""

    __slots__ = ("_client_ip", "_networks", "_secret", "decisions", "digests", "ended", "key", "starts_at", "units")

    def __init__(self, key: Key, starts_at: datetime) -> None:
        self.key = key
        self.starts_at = starts_at
        self.decisions: dict[DecisionCode, int] = {}
        self.units: dict[str, int] = {}
        self.digests: set[bytes] = set()
        """The API keys that proved it."""
        self.ended = False
        """An API key was used after the overlap of its rotation."""
        self._networks: set[tuple[int, int]] = set()
        self._secret: SecretRecord | None = None
        self._client_ip: Address | None = None

    def use(self, secret: SecretRecord, client_ip: Address | None) -> None:
        """Note which API key was used, and from where; most often it is what it was before."""
        if secret is not self._secret:
            self._secret = secret
            self.digests.add(secret.digest)
        if client_ip is not self._client_ip and client_ip is not None:
            self._client_ip = client_ip
            if len(self._networks) < NETWORKS_MAX:
                self._networks.add(_network_number(client_ip))

    def charge(self, charges: Mapping[str, int]) -> None:
        """Count units. This is the only place that does."""
        units = self.units
        for unit, amount in charges.items():
            if unit in units or len(units) < UNITS_MAX:
                units[unit] = units.get(unit, 0) + amount
            else:
                metrics.USAGE_LOST.inc()

    def networks(self) -> list[Network]:
        """The networks that it was used from."""
        return [
            IPv4Network((number << (32 - _IPV4_BITS), _IPV4_BITS))
            if version == 4
            else IPv6Network((number << (128 - _IPV6_BITS), _IPV6_BITS))
            for version, number in self._networks
        ]


class UsageRecorder:
    """Counts verifications of proven keys until they are taken away, to be stored.

    What a server has counted and not stored yet is lost if it is killed: its last seconds or, while Postgres is away,
    what happened since. A server that is stopped stores all of it first. Beyond KEY_MINUTES_MAX nothing new is
    remembered, and the metric ``tollkeeper_usage_lost_total`` tells of it. Its length is what it remembers.
    """

    def __init__(self) -> None:
        self._minutes: dict[datetime, dict[str, KeyMinute]] = {}
        self._current: dict[str, KeyMinute] = {}
        self._starts_at = self._ends_at = _NEVER
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def record(
        self,
        secret: SecretRecord,
        *,
        code: DecisionCode,
        charges: Mapping[str, int],
        client_ip: Address | None,
        now: datetime,
    ) -> None:
        """Count the decision about a proven key and, if it is ALLOWED, the units charged."""
        minute = self._minute(secret.key, now)
        if minute is None:
            return
        minute.use(secret, client_ip)
        decisions = minute.decisions
        decisions[code] = decisions.get(code, 0) + 1
        if code is DecisionCode.ALLOWED:
            minute.charge(charges)

    def record_charge(self, key: Key, *, charges: Mapping[str, int], now: datetime) -> None:
        """Count units that were charged to a key without a verification."""
        minute = self._minute(key, now)
        if minute is not None:
            minute.charge(charges)

    def record_kept(self, key: Key, *, verifications: int, charges: Mapping[str, int], now: datetime) -> None:
        """Count verifications that a caller answered from what it had kept, and their units, all of them together."""
        minute = self._minute(key, now)
        if minute is None:
            return
        decisions = minute.decisions
        decisions[DecisionCode.ALLOWED] = decisions.get(DecisionCode.ALLOWED, 0) + verifications
        minute.charge(charges)

    def record_use(self, secret: SecretRecord, *, client_ip: Address | None, now: datetime) -> None:
        """Note the use of an API key that counts as no verification, or is counted elsewhere."""
        minute = self._minute(secret.key, now)
        if minute is not None:
            minute.use(secret, client_ip)

    def record_ended(self, secret: SecretRecord, *, now: datetime) -> None:
        """Note that an API key was used after the overlap of its rotation; it proves nothing any more."""
        minute = self._minute(secret.key, now)
        if minute is not None:
            minute.ended = True

    def take(self) -> list[KeyMinute]:
        """All that was counted; it is forgotten here."""
        taken = [minute for minutes in self._minutes.values() for minute in minutes.values()]
        self._minutes = {}
        self._starts_at = self._ends_at = _NEVER
        self._size = 0
        return taken

    def _minute(self, key: Key, now: datetime) -> KeyMinute | None:
        if not self._starts_at <= now < self._ends_at:
            self._starts_at = now.replace(second=0, microsecond=0)
            self._ends_at = self._starts_at + _MINUTE
            self._current = self._minutes.setdefault(self._starts_at, {})
        return self._current.get(key.key_id) or self._begin(key)

    def _begin(self, key: Key) -> KeyMinute | None:
        if self._size >= KEY_MINUTES_MAX:
            metrics.USAGE_LOST.inc()
            return None
        self._size += 1
        minute = self._current[key.key_id] = KeyMinute(key, self._starts_at)
        return minute


def _network_number(client_ip: Address) -> tuple[int, int]:
    """The network of an address, in the cheapest form: IP version, and the bits in front."""
    if isinstance(client_ip, IPv6Address):
        if client_ip.ipv4_mapped is None:
            return 6, int(client_ip) >> (128 - _IPV6_BITS)
        client_ip = client_ip.ipv4_mapped
    return 4, int(client_ip) >> (32 - _IPV4_BITS)
