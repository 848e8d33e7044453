"""The PROXY protocol, versions 1 and 2: who is the client of a connection that another proxy hands us?

Pure and strict: what the specification does not allow is `BadProxyHeader`, and no input makes us keep more than
`MAX_V2` bytes. The header stands before everything else, TLS too, and is read once per connection.
Rule 1: while `parse` wants more, all that it was given belongs to the header, so a reader can take just the header.
Rule 2: where the header names no client (LOCAL, UNKNOWN, UNSPEC, a Unix socket somewhere else), the peer of the
        socket stays the client.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V1_PREFIX: Final = b"PROXY "
MAX_V1: Final = 107  # bytes of a line with its CRLF, as the specification says
V2_FIXED: Final = 16  # signature, version and command, family, length
MAX_TLVS: Final = 4096  # bytes behind the addresses
LOCAL, PROXY = range(2)  # commands of version 2
UNSPEC, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31  # family and transport of version 2
ADDRESS_BYTES: Final = {UNSPEC: 0, TCP4: 12, TCP6: 36, UNIX: 216}
MAX_V2: Final = V2_FIXED + max(ADDRESS_BYTES.values()) + MAX_TLVS

_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")


class BadProxyHeader(Exception):
    """The connection does not begin as it has to; the message says why, without the bytes."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a header says."""

    client: str | None  # an IP address; None: the peer of the socket is the client
    size: int  # bytes that the header takes


def parse(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`; None: more bytes are needed. BadProxyHeader when it cannot be one."""
    if data[:1] == V1_PREFIX[:1]:
        return _parse_v1(data)
    if V2_SIGNATURE.startswith(data[:12]):
        return _parse_v2(data)
    raise BadProxyHeader("the connection does not begin with a PROXY protocol header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    if not data.startswith(V1_PREFIX[: len(data)]):
        raise BadProxyHeader("the connection does not begin with a PROXY protocol header")
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise BadProxyHeader(f"the header's line is longer than {MAX_V1} bytes")
        return None
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(None, end + 2)  # whatever else stands there is to be ignored
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise BadProxyHeader("the header's line does not name TCP4 or TCP6, two addresses and two ports")
    for port in words[4:]:
        if not _PORT.fullmatch(port) or int(port) > 65_535:
            raise BadProxyHeader("the header's line has a port that is none")
    kind = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    client, _ = (_address(kind, word) for word in words[2:4])
    return ProxyHeader(client, end + 2)


def _address(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], word: bytes) -> str:
    try:
        if b"%" in word:  # a zone means something on another machine only
            raise ValueError
        return str(kind(word.decode("ascii")))
    except ValueError:
        raise BadProxyHeader("the header's line has an address that is none of its family") from None


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise BadProxyHeader("the header is not of version 2, or of a command that is unknown")
    if len(data) < V2_FIXED:
        return None
    command, family = data[12] & 0x0F, data[13]
    length = int.from_bytes(data[14:16])
    # With LOCAL the family means nothing, and may be anything (section 2.2 of the specification).
    addresses = ADDRESS_BYTES.get(family, 0)
    if command == PROXY and family not in ADDRESS_BYTES:
        raise BadProxyHeader("the header names a family or transport that is not a stream's")
    if command == PROXY and length < addresses:
        raise BadProxyHeader("the header is too short for its addresses")
    if length > (addresses if command == PROXY else 0) + MAX_TLVS:
        raise BadProxyHeader(f"the header carries more than {MAX_TLVS} bytes besides the addresses")
    size = V2_FIXED + length
    if len(data) < size:
        return None
    if command == LOCAL:
        return ProxyHeader(None, size)
    _check_tlvs(data[V2_FIXED + addresses : size])
    if family == TCP4:
        return ProxyHeader(str(ipaddress.IPv4Address(data[16:20])), size)
    if family == TCP6:
        return ProxyHeader(str(ipaddress.IPv6Address(data[16:32])), size)
    return ProxyHeader(None, size)


def _check_tlvs(data: bytes) -> None:
    """Type, two bytes of length, value: they have to fill what is left exactly."""
    at = 0
    while at < len(data):
        if at + 3 > len(data):
            raise BadProxyHeader("the header ends within a TLV")
        at += 3 + int.from_bytes(data[at + 1 : at + 3])
    if at != len(data):
        raise BadProxyHeader("the header ends within a TLV")
