"""Where the service may send to: hosts of the public internet, unless a setting allows the rest.

A name is resolved once; every address it has is checked, and the connection is made to one of those, so that a second
answer of a name server (DNS rebinding) is never asked for.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import idna

from phasewatch.errors import AddressRefused

MAX_URL = 2_000
PORTS = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        # IANA's registries of special addresses, and what clouds answer at.
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 "
        "192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 "
        "198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
        "::/96 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 64:ff9b:1::/48 fc00::/7 fe80::/10 "
        "fec0::/10 ff00::/8"
    ).split()
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")


@dataclass(frozen=True)
class Target:
    """A webhook's address, taken apart: `host` in ASCII, `path` with its query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def shown(self) -> str:
        """As people may see it: what follows the host is often a secret."""
        return f"{self.scheme}://{_bracketed(self.host)}{_port(self)}/…"

    @property
    def authority(self) -> str:
        """The Host header's value."""
        return f"{_bracketed(self.host)}{_port(self)}"


def parse_target(url: str) -> Target:
    """A webhook's address. Raises AddressRefused for another scheme, and for what is written to deceive a reader."""
    if len(url) > MAX_URL:
        raise AddressRefused(f"the address has {len(url)} characters; give at most {MAX_URL}")
    if any(ord(character) <= 32 or ord(character) == 127 or character == "\\" for character in url):
        raise AddressRefused("the address holds a space, a control character or a backslash; leave it out")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise AddressRefused(f"the address cannot be read: {error}") from error
    if parts.scheme not in PORTS:
        raise AddressRefused(f"the address has scheme {parts.scheme[:20]!r}; give https:// or http://")
    if "@" in parts.netloc:
        raise AddressRefused("the address holds a user name; leave it out, the signature says who sends")
    if port == 0:
        raise AddressRefused("the address has port 0; give one from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii():
        raise AddressRefused("the address's path holds characters beyond ASCII; write them as %XX")
    return Target(parts.scheme, checked_host(host), port or PORTS[parts.scheme], path)


def checked_host(host: str) -> str:
    """The host in lower-case ASCII. Raises AddressRefused unless it is a domain name or a plainly written address."""
    if ":" in host:
        try:
            address = IPv6Address(host)
        except ValueError as error:
            raise AddressRefused(f"host {host[:60]!r} is no IPv6 address") from error
        if address.scope_id is not None:
            raise AddressRefused(f"host {host[:60]!r} names an interface of this machine")
        return str(address)
    name = _in_ascii(host)
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # every notation of an IPv4 address ends in a number, and no domain does
        try:
            return str(IPv4Address(name))
        except ValueError as error:
            raise AddressRefused(f"host {host[:60]!r} is no IPv4 address of four decimal numbers") from error
    if not all(_LABEL.fullmatch(label) for label in labels) or len(name) > 253:
        raise AddressRefused(f"host {host[:60]!r} is no domain name; give one such as hooks.example.com")
    return name


def _in_ascii(host: str) -> str:
    if not host:
        raise AddressRefused("the address names no host")
    if host.isascii():
        return host.lower()
    try:
        return idna.encode(host, strict=True).decode()  # no full-width digit or dot becomes a plain one
    except idna.IDNAError as error:
        raise AddressRefused(f"host {host[:60]!r} is no domain name: {error}") from error


def is_public(text: str) -> bool:
    """True for an address of the public internet, whatever other address it may stand for."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address in _NAT64:
            return is_public(str(IPv4Address(int(address) & 0xFFFFFFFF)))
        if address not in _GLOBAL_IPV6 or address.scope_id is not None:
            return False
    return not any(address in network for network in _REFUSED if network.version == address.version)


def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a host, as the system's resolver gives them. Raises OSError where there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def checked_addresses(host: str, port: int, *, allow_private: bool, resolver: Resolve = resolve) -> Sequence[str]:
    """The addresses of a host, asked for once.

    Raises AddressRefused where one of them is not public and private ones are not allowed, OSError where there is none.
    """
    found = resolver(host, port)
    if not found:
        raise OSError(f"{host} has no address")
    private = [] if allow_private else [address for address in found if not is_public(address)]
    if private:
        raise AddressRefused(
            f"{host} is {private[0]}, which is not an address of the public internet; "
            "set PHASEWATCH_ALLOW_PRIVATE_WEBHOOKS to send there"
        )
    return found


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(target: Target) -> str:
    return "" if target.port == PORTS[target.scheme] else f":{target.port}"
