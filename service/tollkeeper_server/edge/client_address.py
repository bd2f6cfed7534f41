"""The address of the end client, as far as it can be believed."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from tollkeeper_server.api.fields import ip_from
from tollkeeper_server.edge.http_request import HttpRequest

_EXTERNAL = "x-envoy-external-address"
_FORWARDED = "x-forwarded-for"
_SETTING = re.compile(rf"peer|{_EXTERNAL}|{_FORWARDED}:([1-9]|1[0-9]|20)")


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """Where the address is found.

    ``peer``: where the connection to Envoy came from, which nobody can make up; with a balancer in front of Envoy it
    is the balancer's. ``x-envoy-external-address``: what Envoy's own count of trusted proxies gives; only for an Envoy
    at the edge (``use_remote_address``), which overwrites what a client sends. ``x-forwarded-for:N``: the N-th address
    from the right, where all to the right of it were added by trusted proxies.
    """

    _header: str
    _from_right: int

    @classmethod
    def parse(cls, setting: str) -> "ClientAddress":
        """Raises ValueError unless ``setting`` is one of the three."""
        match = _SETTING.fullmatch(setting)
        if match is None:
            raise ValueError(f"must be peer, {_EXTERNAL} or {_FORWARDED}:N with N from 1 to 20")
        return cls("" if setting == "peer" else setting.partition(":")[0], int(match[1] or 1))

    def of(self, request: HttpRequest) -> IPv4Address | IPv6Address | None:
        """The address; None if it is not there or not one, which denies keys that are bound to networks."""
        if not self._header:
            return ip_from(request.peer)
        addresses = [address for value in request.values(self._header) for address in value.split(",")]
        if len(addresses) < self._from_right:
            return None
        return ip_from(addresses[-self._from_right].strip(" \t"))
