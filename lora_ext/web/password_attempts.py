"""Slows the guessing of passwords, without a thread that sleeps and without locking anybody out for good."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

FREE_ATTEMPTS = 5
"""Wrong passwords in a row that a client may give at once."""
MAX_WAIT_SECONDS = 60.0
"""Seconds that a client waits at most; the wait doubles from one second on."""
FORGET_SECONDS = 900.0
"""Seconds after its last wrong password that a client begins anew."""
BURST, RATE = 100.0, 1.0
"""Wrong passwords of all clients together: this many at once, then this many a second."""
_CLIENTS = 4096


class PasswordAttempts:
    """Wrong passwords of each client, and of all clients that never gave a right one.

    An attempt that comes too early is refused before its password is compared, so that parallel requests gain nothing.
    A right password does not take wrong ones off the count: whoever shares an address with a user (behind one proxy)
    would otherwise guess without end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}
        """Client → how many in a row, and when the last was."""
        self._known: dict[str, None] = {}
        self._left, self._at = BURST, clock()

    def seconds_to_wait(self, client: str, *, known: bool = False) -> float:
        """Seconds until a client's next password is compared; 0 for now. known: it has given a right one before."""
        now = self._clock()
        count, last = self._failed.get(client, (0, now))
        if now - last > FORGET_SECONDS:
            self._failed.pop(client, None)
            count = 0
        own = (
            last + min(2.0 ** min(count - FREE_ATTEMPTS, 10), MAX_WAIT_SECONDS) - now if count >= FREE_ATTEMPTS else 0.0
        )
        self._left, self._at = min(BURST, self._left + (now - self._at) * RATE), now
        everyone = 0.0 if known or client in self._known or self._left >= 1 else (1 - self._left) / RATE
        return max(own, everyone, 0.0)

    def record_failure(self, client: str) -> None:
        """Notes a wrong password."""
        count, _ = self._failed.pop(client, (0, 0.0))
        self._failed[client] = (count + 1, self._clock())
        self._left = max(0.0, self._left - 1)
        while len(self._failed) > _CLIENTS:  # the one whose last wrong password is the oldest
            del self._failed[next(iter(self._failed))]

    def record_success(self, client: str) -> None:
        """Notes a right password: wrong ones of others do not slow this client."""
        self._known.pop(client, None)
        self._known[client] = None
        while len(self._known) > _CLIENTS:
            del self._known[next(iter(self._known))]


def client_key(host: str | None) -> str:
    """The name under which attempts are counted: an IPv4 address, or the 64 bits of an IPv6 network."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or ""
    if address.version == 6:
        return str(ipaddress.ip_network(f"{str(address).partition('%')[0]}/64", strict=False))
    return str(address)
