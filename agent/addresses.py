"""Where devices are: one address, a range of IPv4 addresses, or a range of ports.

`10.1.0.10`, `rack-3.example`, `10.1.0.10:4029`, `10.1.0.10-10.1.0.250`, `10.1.0.10-10.1.0.250:4029`,
`127.0.0.1:20001-20500`. A port left out is the driver's own.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Final, NamedTuple

RANGE_MAX: Final = 65_536
HOST_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"
_IPV4: Final = re.compile(r"^\d{1,3}(\.\d{1,3}){3}$")


class Address(NamedTuple):
    """One device's address."""

    host: str
    port: int | None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def parse_addresses(text: str) -> list[Address]:
    """All addresses that a text names, in order. Raises `ValueError` saying what is wrong and what to write."""
    hosts_text, colon, ports_text = text.strip().partition(":")
    hosts = _hosts(hosts_text)
    if not colon:
        return [Address(host, None) for host in hosts]
    ports = _ports(ports_text)
    if len(hosts) > 1 and len(ports) > 1:
        raise ValueError(f"{text!r} is a range of hosts and of ports; fix: write one range a line")
    return [Address(host, port) for host in hosts for port in ports]


def _hosts(text: str) -> list[str]:
    first_text, dash, last_text = text.partition("-")
    if dash and _IPV4.match(first_text) and _IPV4.match(last_text):
        first, last = _ipv4(first_text), _ipv4(last_text)
        count = int(last) - int(first) + 1
        if count < 1:
            raise ValueError(f"the range {text!r} ends before it begins; fix: put the lower address first")
        if count > RANGE_MAX:
            raise ValueError(f"the range {text!r} has {count} addresses; fix: at most {RANGE_MAX}")
        return [str(IPv4Address(int(first) + offset)) for offset in range(count)]
    if _IPV4.match(text):
        return [str(_ipv4(text))]
    if not re.match(HOST_PATTERN, text):
        raise ValueError(f"{text!r} is no host; fix: write an IPv4 address, a host name, or FIRST-LAST")
    return [text]


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is no IPv4 address; fix: four numbers from 0 to 255") from None


def _ports(text: str) -> range:
    first_text, dash, last_text = text.partition("-")
    if not first_text.isascii() or not first_text.isdigit() or (dash and not last_text.isdigit()):
        raise ValueError(f"{text!r} is no port; fix: write a number from 1 to 65535, or FIRST-LAST")
    first, last = int(first_text), int(last_text if dash else first_text)
    if not 1 <= first <= last <= 65_535:
        raise ValueError(f"{text!r} is no range of ports; fix: 1 to 65535, the lower first")
    return range(first, last + 1)
