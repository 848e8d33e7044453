"""Where may engines be, and what is there? What the user named -> hosts and ports to ask, and not one more.

Rule 1: pure, and names are not resolved here.
Rule 2: a network is taken only when it is small; nobody scans a data centre by a slip of the finger.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fairlead.doctor.facts import Model

MOST_HOSTS: Final = 256  # in one network: a /24, or a /120 of IPv6
MOST_PLACES: Final = 8192  # hosts times ports
LOCAL: Final = "127.0.0.1"

USUAL_PORTS: Final[tuple[int, ...]] = (
    *range(8000, 8011),  # vLLM, TensorRT-LLM, Triton, and further instances beside the first
    8080,  # llama.cpp
    9931,  # llama.cpp, newer
    30000,  # SGLang
    30001,
    3000,  # TGI
    23333,  # LMDeploy
    11434,  # Ollama
)
"""Where engines listen when nobody tells them otherwise."""


ENGINE: Final = "engine"
LOCKED: Final = "locked"  # asks for a key, and may be an engine
FAIRLEAD: Final = "fairlead"
OTHER: Final = "other"  # answers, and is no engine
CLOSED: Final = "closed"


class BadPlace(ValueError):
    """A place that cannot be asked; the message says what to write."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One host and one port."""

    host: str
    port: int
    is_tls: bool = False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a place."""

    place: Place
    what: str = CLOSED
    engine: str = ""  # dialect
    title: str = ""
    version: str | None = None
    models: tuple[Model, ...] = ()


def places(named: Iterable[str], ports: tuple[int, ...] = USUAL_PORTS) -> list[Place]:
    """Every place to ask, each once, in the order named. BadPlace."""
    found: dict[Place, None] = {}
    for text in list(named) or [LOCAL]:
        found.update(dict.fromkeys(_places(text.strip(), ports)))
        if len(found) > MOST_PLACES:
            raise BadPlace(f"more than {MOST_PLACES} places to ask; name fewer hosts, or fewer ports with --ports")
    return list(found)


def parse_ports(text: str) -> tuple[int, ...]:
    """`8000-8010,30000` -> ports. BadPlace."""
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isascii() or not first.isdigit() or (dash and not (last.isascii() and last.isdigit())):
            raise BadPlace(f"expected ports such as 8000-8010,30000, got {text!r}")
        low, high = int(first[:6]), int((last or first)[:6])
        if not 1 <= low <= high <= 65_535:
            raise BadPlace(f"ports go from 1 to 65535, lower one first; got {part.strip()!r}")
        found.update(dict.fromkeys(range(low, high + 1)))
    return tuple(found)


def _places(text: str, ports: tuple[int, ...]) -> list[Place]:
    if text.startswith(("http://", "https://")):
        return _from_url(text, ports)
    if "/" in text:
        return [Place(host, port) for host in _hosts_of(text) for port in ports]
    host, port = _host_and_port(text)
    return [Place(host, one) for one in ((port,) if port is not None else ports)]


def _from_url(text: str, ports: tuple[int, ...]) -> list[Place]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadPlace(f"{text!r} is no URL; write http://HOST:PORT") from None
    if not host or parts.path.strip("/") or parts.query or parts.username:
        raise BadPlace(
            "expected http://HOST:PORT and nothing behind it; an engine under a path goes into the file by hand"
        )
    is_tls = parts.scheme == "https"
    if port is None and is_tls:
        port = 443
    return [Place(host, one, is_tls) for one in ((port,) if port is not None else ports)]


def _hosts_of(text: str) -> list[str]:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadPlace(f"expected HOST, HOST:PORT or a small network such as 10.0.0.0/28, got {text!r}") from None
    if network.num_addresses > MOST_HOSTS:
        limit = 24 if network.version == 4 else 120
        raise BadPlace(
            f"{text} has more than {MOST_HOSTS} addresses; name a /{limit} or smaller, or the hosts themselves"
        )
    return [str(address) for address in network.hosts()]


def _host_and_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        host, port_text = inside, rest.removeprefix(":")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadPlace(f"expected [IPV6]:PORT, got {text!r}")
    elif text.count(":") > 1:  # an IPv6 address without brackets has no port
        host, port_text = text, ""
    else:
        host, _, port_text = text.partition(":")
    _check_host(host, text)
    if not port_text:
        if text.endswith(":"):
            raise BadPlace(f"expected a port after the colon in {text!r}")
        return host, None
    (port,) = parse_ports(port_text) if "-" not in port_text and "," not in port_text else (0,)
    if not port:
        raise BadPlace(f"one port stands after the colon; give several with --ports, got {text!r}")
    return host, port


def _check_host(host: str, text: str) -> None:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise BadPlace(f"expected an IPv6 address, got {host!r}") from None
    elif not host or len(host) > 253 or not all(char.isalnum() or char in "-._" for char in host):
        raise BadPlace(f"expected HOST, HOST:PORT or a small network such as 10.0.0.0/28, got {text!r}")
