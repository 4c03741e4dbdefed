"""LoginThrottle: how often one address may try to log in."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

MAX_ATTEMPTS = 10  # at once
ATTEMPT_SECONDS = 30.0  # after which one more is allowed
MAX_ADDRESSES = 10_000  # that are remembered; beyond these the one that was heard of longest ago is forgotten


class LoginThrottle:
    """Counts attempts by address. MAX_ATTEMPTS are allowed at once, then one every ATTEMPT_SECONDS.

    Only the event loop's thread may use it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free: OrderedDict[str, float] = OrderedDict()  # when all attempts are allowed again, by address

    def attempt(self, address: str) -> float:
        """Count an attempt and return 0, or return the seconds to wait before the next one is allowed."""
        now = self._clock()
        key = _network(address)
        free = max(now, self._free.get(key, now)) + ATTEMPT_SECONDS
        wait = free - now - MAX_ATTEMPTS * ATTEMPT_SECONDS
        if wait > 0:
            return wait
        self._free[key] = free
        self._free.move_to_end(key)
        if len(self._free) > MAX_ADDRESSES:
            self._free.popitem(last=False)
        return 0.0

    def forget(self, address: str) -> None:
        """Forget the attempts of an address, because one of them had the password."""
        self._free.pop(_network(address), None)


def _network(address: str) -> str:
    """Return the address, or for IPv6 the /64 network, all of whose addresses one customer has."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a server that knows no address of its client
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((int(parsed), 64), strict=False))
    return str(parsed)
