"""Which names this program answers to: DNS rebinding brings requests under a name that is not one of them.

When the owner of another name lets it point to 127.0.0.1, a page of that name is, for the browser, of the same origin
as this program. Only the `Host` header still tells the name. An IP address as `Host` cannot be rebound: the browser
asks that very address.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import LoraError

ALLOWED_HOST_VARIABLE = "LORA_EXT_ALLOWED_HOST"
"""The environment variable with further names, separated by commas."""
LOOPBACK = "127.0.0.1"
ANY_HOST = "*"

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+(?:%[\w.-]+)?\]|[^\s\[\]/\\@:?#%,*]+)(?::(?P<port>\d{1,5}))?", re.I)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_USUAL_PORTS = {"http": "80", "https": "443"}

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_host(text: str) -> tuple[str, str] | None:
    """(name in lower case, port or "") of a `Host` header, None where it is none."""
    found = _HOST.fullmatch(text)
    if not found:
        return None
    return found["name"].strip("[]").lower().removesuffix("."), found["port"] or ""


def parse_origin(text: str) -> tuple[str, str] | None:
    """(name, port) of an `Origin` header; a scheme's usual port is told as "". None for `null` and for nonsense."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    found = parse_host(parts.netloc)
    if found is None or parts.scheme not in _USUAL_PORTS:
        return None
    return found[0], "" if found[1] == _USUAL_PORTS[parts.scheme] else found[1]


def parse_ip_address(name: str) -> IPAddress | None:
    """Parses an IP address.

    Args:
        name: A host name or an address.

    Returns:
        The address, an IPv4 one where it is mapped into IPv6; None for a real name.
    """
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_loopback(name: str) -> bool:
    """Whether a name to listen on is reached from this machine only.

    Args:
        name: A host name or an address; "" is every address.

    Returns:
        Whether all of its addresses are loopback addresses.

    Raises:
        LoraError: A name without an address.
    """
    found = parse_ip_address(name.strip("[]"))
    if found is not None:
        return found.is_loopback
    if not name:  # every address
        return False
    try:
        known = {str(row[4][0]) for row in socket.getaddrinfo(name, None)}
    except OSError:
        raise LoraError(
            f"--host {name!r} is not an address of this machine; 127.0.0.1 accepts requests from this machine only"
        ) from None
    return all((address := parse_ip_address(one)) is not None and address.is_loopback for one in known)


class AllowedHost(NamedTuple):
    """A name that the user allows. port: "" for every port. star: every name that ends in it; `name` "" is any name."""

    name: str
    port: str = ""
    is_wildcard: bool = False


def parse_allowed_host(text: str, option: str = "--allowed_host") -> AllowedHost:
    """Parses NAME, NAME:PORT, *.NAME or *.

    Args:
        text: The name.
        option: The option or variable that it comes from, for the message.

    Returns:
        The host.

    Raises:
        LoraError: The text is no host name.
    """
    name = text.strip().lower()
    if name == ANY_HOST:
        return AllowedHost("", is_wildcard=True)
    star, name = name.startswith("*."), name.removeprefix("*.")
    try:
        found = parse_host(name.encode("idna").decode("ascii"))
    except UnicodeError:
        found = None
    if found is None or not (parse_ip_address(found[0]) or all(map(_LABEL.fullmatch, found[0].split(".")))):
        raise LoraError(
            f"{option} {text!r} is not a host name{_did_you_mean_host(name)}: "
            "give the name alone, as in lora.example.org, lora.example.org:8443 or *.trycloudflare.com"
        )
    return AllowedHost(*found, is_wildcard=star)


def _did_you_mean_host(text: str) -> str:
    """The host name inside a web address, as a question."""
    netloc = text.partition("//")[2].partition("/")[0] if "//" in text else text.partition("/")[0]
    return f" (did you mean {netloc!r}?)" if netloc != text and parse_host(netloc) else ""


def allowed_hosts_from_environment() -> list[AllowedHost]:
    """The hosts of `LORA_EXT_ALLOWED_HOST`, which are separated by commas.

    Returns:
        The hosts; empty where the variable is not set.

    Raises:
        LoraError: One of them is no host name.
    """
    return [
        parse_allowed_host(one, ALLOWED_HOST_VARIABLE)
        for one in os.environ.get(ALLOWED_HOST_VARIABLE, "").split(",")
        if one.strip()
    ]


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, f"{name.split('.')[0]}.local"} if name else set()


class AllowedHosts:
    """The names that this program answers to.

    Args:
        bound: the address that it listens on. "" and the unspecified addresses stand for every address of the machine:
            any IP address is then accepted, and the machine's own name.
        allowed: names that the user allows (`parse_allowed_host`). They may also be told by `Origin` while `Host`
            is another one, as behind a proxy that rewrites it; names with a star may not.
        found_later: names that are only known later, such as a tunnel's; asked at each request that is refused
            otherwise.
    """

    def __init__(
        self,
        bound: str = LOOPBACK,
        allowed: Iterable[AllowedHost] = (),
        found_later: Callable[[], Iterable[AllowedHost]] = tuple,
    ) -> None:
        self.bound, self.allowed, self.found_later = bound.strip("[]").lower(), tuple(allowed), found_later
        self._address = parse_ip_address(self.bound)
        self.is_everywhere = not self.bound or (self._address is not None and self._address.is_unspecified)
        self._names = {"localhost", *(_own_names() if self.is_everywhere else {self.bound})}

    def answers_to(self, host: str) -> bool:
        """Whether a `Host` header names this program."""
        parts = parse_host(host)
        if parts is None:
            return False
        address = parse_ip_address(parts[0])
        if address is not None and (address.is_loopback or self.is_everywhere or address == self._address):
            return True
        return parts[0] in self._names or self._listed(parts, stars=True)

    def is_same_site(self, origin: str, host: str) -> bool:
        """Whether the page that `Origin` names was served by this program, which `Host` names."""
        page, here = parse_origin(origin), parse_host(host)
        if page is None or here is None:
            return False
        usual = page[1] == "" and here[1] in _USUAL_PORTS.values()  # told by a proxy, left out by the browser
        return page == here or (usual and page[0] == here[0]) or self._listed(page, stars=False)

    def _listed(self, parts: tuple[str, str], *, stars: bool) -> bool:
        name, port = parts
        return any(
            one.port in ("", port)
            and ((stars and (not one.name or name.endswith(f".{one.name}"))) if one.is_wildcard else one.name == name)
            for one in (*self.allowed, *self.found_later())
        )
