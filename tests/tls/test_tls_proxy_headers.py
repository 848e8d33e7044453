"""The PROXY protocol's bytes: every form of both versions, all at once and byte by byte, and every way to be wrong."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest

from fairlead.wire.proxy_protocol import MAX_V1, MAX_V2, V2_SIGNATURE, BadProxyHeader, ProxyHeader, parse

TCP4, TCP6, UDP4, UNIX, UNSPEC = 0x11, 0x21, 0x12, 0x31, 0x00


def v2(family: int, addresses: bytes, tlvs: bytes = b"", command: int = 0x21, length: int | None = None) -> bytes:
    block = addresses + tlvs
    size = len(block) if length is None else length
    return V2_SIGNATURE + struct.pack("!BBH", command, family, size) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


PORTS = struct.pack("!HH", 4711, 443)
IP4 = ipaddress.IPv4Address("192.0.2.7").packed + ipaddress.IPv4Address("10.0.0.1").packed + PORTS
IP6 = ipaddress.IPv6Address("2001:db8::7").packed + ipaddress.IPv6Address("::1").packed + PORTS
LONGEST = b"ffff:" * 7 + b"ffff"


GOOD = [
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", "192.0.2.7"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "0.0.0.0"),
    (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 2001:0DB8:0:0:0:0:0:7 ::1 4711 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 " + 2 * (LONGEST + b" ") + b"65535 65535\r\n", LONGEST.decode()),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ::2 65535 1 and whatever\r\n", None),
    (b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16) + b"\r\n", None),
    (v2(TCP4, IP4), "192.0.2.7"),
    (v2(TCP6, IP6), "2001:db8::7"),
    (v2(TCP4, IP4, tlv(0x01, b"h2") + tlv(0x02, b"one.test") + tlv(0x04, b"")), "192.0.2.7"),
    (v2(TCP4, IP4, tlv(0xE0, bytes(4093))), "192.0.2.7"),
    (v2(UNIX, bytes(216)), None),
    (v2(UNSPEC, b""), None),
    (v2(UNSPEC, b"", tlv(0x04, bytes(9))), None),
    (v2(UNSPEC, b"", command=0x20), None),
    (v2(TCP4, IP4, command=0x20), None),
    (v2(0xFF, b"whatever", command=0x20), None),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"\r\n\r\n\x00\r\nQUIX",
    b"PROXX",
    b"PROXY\tTCP4 ",
    b"PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 \xb2\r\n",
    b"PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 nonsense 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY tcp4 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n" + b" " * MAX_V1,
    b"PROXY UNKNOWN " + b"x" * MAX_V1,
    b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15) + b"\r\n",
    V2_SIGNATURE + b"\x11",  # version 1 in the form of version 2
    V2_SIGNATURE + b"\x31",
    V2_SIGNATURE + b"\x22",  # neither LOCAL nor PROXY
    v2(UDP4, IP4),
    v2(0x10, IP4),
    v2(0x41, IP4),
    v2(TCP4, IP4[:-1]),
    v2(TCP6, IP4),
    v2(UNIX, bytes(215)),
    v2(TCP4, IP4, b"\x01"),
    v2(TCP4, IP4, b"\x01\x00"),
    v2(TCP4, IP4, b"\x01\x00\x05h2"),
    v2(TCP4, IP4, length=12 + 4097),
    v2(UNSPEC, b"", length=4097),
    v2(UNSPEC, b"", command=0x20, length=4097),
    v2(TCP6, b"", length=65_535),
]


@pytest.mark.parametrize(("header", "client"), GOOD, ids=range(len(GOOD)))
@pytest.mark.parametrize("behind", [b"", b"\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
def test_a_header_is_read_and_ends_where_it_ends(header: bytes, client: str | None, behind: bytes) -> None:
    assert parse(header + behind) == ProxyHeader(client, len(header))


@pytest.mark.parametrize(("header", "client"), GOOD, ids=range(len(GOOD)))
def test_a_header_that_comes_byte_by_byte_is_unfinished_until_its_last_byte(header: bytes, client: str | None) -> None:
    for end in range(len(header)):
        assert parse(header[:end]) is None
    assert parse(header) == ProxyHeader(client, len(header))


@pytest.mark.parametrize("header", BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_refused_at_once_and_byte_by_byte_too(header: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        parse(header)
    refused_at = None
    for end in range(len(header) + 1):
        try:
            if parse(header[:end]) is not None:
                break
        except BadProxyHeader:
            refused_at = end
            break
    assert refused_at is not None


def test_an_unfinished_header_is_bounded() -> None:
    """Whatever comes: with as many bytes as the longest header has, it is either read or refused."""
    rng = random.Random(94)
    begins = [b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN ", V2_SIGNATURE, V2_SIGNATURE + b"\x21\x11", b""]
    for _ in range(3_000):
        data = rng.choice(begins) + bytes(rng.choice(b"\r\n 019.:aPTC\x00\xff") for _ in range(MAX_V2))
        try:
            found = parse(data)
        except BadProxyHeader:
            continue
        assert found is not None
        assert found.size <= MAX_V2
