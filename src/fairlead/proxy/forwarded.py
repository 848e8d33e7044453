"""Who is the client behind this connection, and what are backends told of it?

Backends learn the client by X-Forwarded-For, -Proto and -Host, as behind any proxy. What a client itself says in such
fields is believed only from the addresses that the configuration names (`trusted_proxies`): from anybody else they
are taken away, or a client could give itself any address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.pool import Pool
    from fairlead.wire.http1 import RequestHead

MAX_MEMO: Final = 4_096  # peers remembered; then the memo starts anew
MAX_HOPS: Final = 32  # addresses read of one X-Forwarded-For
UNIX: Final = "unix"  # the peer of a Unix socket

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Forwarding:
    """Writes these fields. One per service."""

    __slots__ = ("_lines", "_networks", "_trusted", "_unix", "enabled")

    def __init__(self, trusted: Sequence[str] = (), *, enabled: bool = True) -> None:
        """`trusted` are networks in CIDR form, or "unix". ValueError for anything else."""
        self._networks: list[Network] = [ipaddress.ip_network(text) for text in trusted if text != UNIX]
        self._unix = UNIX in trusted
        self.enabled = enabled
        self._trusted: dict[str, bool] = {}
        self._lines: dict[tuple[str, bool], bytes] = {}

    def trusts(self, peer: str) -> bool:
        """Is what this address says of others believed?"""
        known = self._trusted.get(peer)
        if known is None:
            if len(self._trusted) >= MAX_MEMO:
                self._trusted.clear()
            known = self._trusted[peer] = self._unix if peer == UNIX else self._inside(peer)
        return known

    def _inside(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)

    def lines(self, peer: str, secure: bool, head: RequestHead) -> bytes:
        """Header lines to send with a request, each after a CRLF; `secure`: it came over TLS."""
        if head.forwarded and self.trusts(peer):
            return self._passed_on(peer, secure, head)
        if not self.enabled:
            return b""
        start = self._lines.get((peer, secure))
        if start is None:
            if len(self._lines) >= MAX_MEMO:
                self._lines.clear()
            start = self._lines[peer, secure] = (
                b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: "
                % (peer.partition("%")[0].encode(), b"https" if secure else b"http")
            )
        return start + head.host

    def client(self, peer: str, head: RequestHead) -> str:
        """The client's own address: the last one of X-Forwarded-For that is none of the trusted proxies'."""
        if not head.forwarded or not self.trusts(peer):
            return peer
        hops = _hops(head)
        for hop in reversed(hops):
            peer = hop
            if not self.trusts(hop):
                break
        return peer

    def _passed_on(self, peer: str, secure: bool, head: RequestHead) -> bytes:
        """What a trusted proxy said, with itself added."""
        if not self.enabled:
            return b"".join([b"\r\n" + line for line in head.forwarded])
        found = {b"x-forwarded-proto": b"https" if secure else b"http", b"x-forwarded-host": head.host}
        others = []
        for line in head.forwarded:
            name, _, value = line.partition(b":")
            key = name.lower()
            if key in found:
                found[key] = value.strip(b" \t")
            elif key != b"x-forwarded-for":
                others.append(b"\r\n" + line)
        hops = [*_hops(head), peer.partition("%")[0]]
        return b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b%b" % (
            ", ".join(hops).encode("latin-1"),
            found[b"x-forwarded-proto"],
            found[b"x-forwarded-host"],
            b"".join(others),
        )


def request_head(exchange: Exchange, pool: Pool, length: int) -> bytes:
    """The head of a request as this backend is asked, with a body of `length` bytes."""
    client, head, trace = exchange.client, exchange.head, exchange.trace
    forward = head.forward if trace is None else trace.forward
    if pool.drop:
        forward = pool.without_dropped(forward)
    if trace is not None:
        forward += trace.lines(pool.id)
    forward += exchange.service.forwarding.lines(client.peer, client.secure, head)
    has_body = length or head.content_length is not None or head.chunked
    framing = b"Content-Length: %d\r\n" % length if has_body else b""
    return b"%b %b%b%b%b%b%bX-Request-Id: %b\r\n\r\n" % (
        head.method, pool.base_path, exchange.target, pool.host_line, forward, pool.via_line, framing,
        exchange.request_id,
    )  # fmt: skip


def _hops(head: RequestHead) -> list[str]:
    """Addresses of all its X-Forwarded-For, the client's first, without the ports that some proxies add.

    What is no address ends the chain: nobody knows who vouches for what stands before it.
    """
    found: list[str] = []
    for line in head.forwarded:
        name, _, value = line.partition(b":")
        if name.lower() == b"x-forwarded-for":
            for part in value.decode("latin-1").split(",")[-MAX_HOPS:]:
                text = part.strip()
                if text[:1] == "[":
                    text = text[1:].partition("]")[0]
                elif text.count(":") == 1:
                    text = text.partition(":")[0]
                try:
                    found.append(str(ipaddress.ip_address(text)))
                except ValueError:
                    found.clear()
    return found[-MAX_HOPS:]
