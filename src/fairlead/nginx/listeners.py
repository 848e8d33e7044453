"""`listen` and the certificates of servers -> Fairlead's listeners.

nginx has a server block for each name, and several may share an address: they become one listener, and their
certificates are told apart by the names in them (SNI).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fairlead.config.units import UnitError
from fairlead.nginx import values
from fairlead.nginx.notes import Notes
from fairlead.nginx.places import Scope
from fairlead.nginx.tree import Directive

_SILENT: Final = frozenset({"default_server", "default", "reuseport", "deferred", "bind", "ssl", "http2",
                            "proxy_protocol", "ipv6only=on", "spdy"})  # fmt: skip
_VERIFY: Final = {"on": "required", "optional": "optional", "off": "none"}
_EVERYWHERE: Final = {"0.0.0.0": "IPv4", "[::]": "IPv6"}
PRIVATE: Final = ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")


@dataclass(slots=True)
class Listener:
    """One address."""

    address: str
    directive: Directive
    is_tls: bool = False
    proxy_protocol: bool = False
    http2: bool = True
    certificates: list[tuple[str, str]] = field(default_factory=list)
    tls: dict[str, Any] = field(default_factory=dict)  # min_version, client_ca, client_certs

    def plain(self) -> Any:
        made: dict[str, Any] = {"address": self.address}
        if self.is_tls and self.certificates:
            (cert, key), *more = self.certificates
            made["tls"] = {"cert": cert, "key": key} | self.tls
            if more:
                made["tls"]["more"] = [{"cert": cert, "key": key} for cert, key in more]
        if not self.http2:
            made["http2"] = False
        if self.proxy_protocol:
            made["proxy_protocol"] = True
        return made if len(made) > 1 else self.address


class Listeners:
    """All of them, by their address."""

    def __init__(self, folder: str, notes: Notes) -> None:
        self.folder, self.notes = folder, notes
        self.found: dict[str, Listener] = {}

    def server(self, block: tuple[Directive, ...], scope: Scope, server: Directive) -> None:
        """The listen lines of one server block, with its certificates."""
        lines = [each for each in block if each.name == "listen" and each.args]
        if not lines:
            lines = [Directive("listen", ("80",), server.file, server.line)]
        for line in lines:
            for address in self._addresses(line):
                listener = self.found.setdefault(address, Listener(address, line))
                listener.is_tls |= "ssl" in line.args or scope.word("ssl") == "on"
                listener.proxy_protocol |= "proxy_protocol" in line.args
                listener.http2 &= scope.word("http2") != "off"
                if listener.is_tls:
                    self._certificates(listener, scope, is_first="default_server" in line.args)

    def _addresses(self, line: Directive) -> list[str]:
        text, *parameters = line.args
        if "quic" in parameters:
            self.notes.left_out(line, "HTTP/3 is not served")
            return []
        for each in parameters:
            if each not in _SILENT and each != "ipv6only=off":
                self.notes.left_out(line, f"({each}): sockets are opened in Fairlead's own way")
        if re.fullmatch(r"[0-9]+", text):
            text = f"0.0.0.0:{text}"
        elif text.startswith("*"):
            text = f"0.0.0.0{text[1:]}"
        if not text.startswith("unix:") and not re.search(r"[^:\[]:[0-9]+$", text):
            text += ":80"
        try:
            address = str(values.fitting("listen.address", text))
        except UnitError as error:
            self.notes.left_out(line, f"is no address to listen on: expected {error}")
            return []
        if address.startswith("[::]:") and "ipv6only=off" in parameters:
            self.notes.changed(line, "is two listeners here, one for IPv4 and one for IPv6")
            return [address.replace("[::]", "0.0.0.0"), address]
        return [address]

    def _certificates(self, listener: Listener, scope: Scope, *, is_first: bool) -> None:
        keys = scope.all("ssl_certificate_key")
        pairs = []
        for cert, key in zip(scope.all("ssl_certificate"), keys, strict=False):
            if not all(each.args and values.is_file(each.args[0]) for each in (cert, key)):
                self.notes.left_out(cert, "is not a plain file: name each certificate under tls.more")
                continue
            pairs.append((self.file(cert.args[0]), self.file(key.args[0])))
        fresh = [pair for pair in pairs if pair not in listener.certificates]
        listener.certificates = [*fresh, *listener.certificates] if is_first else [*listener.certificates, *fresh]
        for name, value in self._settings(scope).items():
            if listener.tls.setdefault(name, value) != value:
                self.notes.changed(
                    listener.directive, f"has servers with different settings for tls.{name}; the first counts",
                    important=name != "min_version",
                )  # fmt: skip

    def _settings(self, scope: Scope) -> dict[str, Any]:
        made: dict[str, Any] = {}
        protocols = scope.one("ssl_protocols")
        if protocols is not None:
            old = [each for each in protocols.args if each not in ("TLSv1.2", "TLSv1.3")]
            if old:
                self.notes.changed(protocols, f"{', '.join(old)} is not spoken: TLS 1.2 is the oldest")
            if set(protocols.args) == {"TLSv1.2"}:
                self.notes.changed(protocols, "TLS 1.3 is spoken too")
            made["min_version"] = "1.3" if set(protocols.args) == {"TLSv1.3"} else "1.2"
        verify, authority = scope.one("ssl_verify_client"), scope.one("ssl_client_certificate")
        word = _VERIFY.get(verify.args[0]) if verify is not None and verify.args else "none"
        if word is None and verify is not None:
            self.notes.left_out(verify, "clients' certificates are checked or not asked for", important=True)
        elif word != "none" and verify is not None and (authority is None or not values.is_file(authority.args[0])):
            self.notes.left_out(verify, "names no ssl_client_certificate to check them by", important=True)
        elif word != "none" and authority is not None:
            made |= {"client_ca": self.file(authority.args[0]), "client_certs": word}
        return made

    def file(self, name: str) -> str:
        """nginx looks for relative names from the folder of its main file."""
        return os.path.normpath(os.path.join(self.folder, name))

    def plain(self) -> list[Any]:
        """As the file writes them: without those that another one covers or that lack a certificate."""
        made = []
        for address, listener in self.found.items():
            host, _, port = address.rpartition(":")
            wide = "[::]" if host.startswith("[") else "0.0.0.0"
            if not address.startswith("unix:") and host != wide and f"{wide}:{port}" in self.found:
                self.notes.changed(
                    listener.directive, f"is covered by the listener on all {_EVERYWHERE[wide]} addresses"
                )
                continue
            if listener.is_tls and not listener.certificates:
                self.notes.left_out(listener.directive, "has no certificate that can be used", important=True)
                continue
            made.append(listener.plain())
        return made


def trusted(scope: Scope, notes: Notes) -> dict[str, None]:
    """set_real_ip_from, in order; as a dict, which keeps each once."""
    header = scope.one("real_ip_header")
    name = header.args[0].lower() if header is not None and header.args else "x-real-ip"
    found: dict[str, None] = {}
    if header is not None and name not in ("proxy_protocol", "x-forwarded-for"):
        notes.changed(header, "is X-Forwarded-For here: the only header that names a client")
    for line in scope.all("set_real_ip_from"):
        text = line.args[0] if line.args else ""
        try:
            found[values.fitting("trusted_proxies", "unix" if text == "unix:" else text)] = None
        except UnitError as error:
            notes.left_out(line, f"is no address or network: expected {error}")
    return found


def with_private(listen: Mapping[str, Listener], known: dict[str, None], notes: Notes) -> None:
    """A PROXY protocol header is taken from `trusted_proxies` alone; nginx takes it from anyone."""
    for listener in listen.values():
        if not listener.proxy_protocol:
            continue
        wanted = ("unix",) if listener.address.startswith("unix:") else PRIVATE
        if any((each == "unix") == (wanted == ("unix",)) for each in known):
            continue
        notes.changed(
            listener.directive,
            "(proxy_protocol) is taken from trusted_proxies alone; no set_real_ip_from names them, so "
            "private addresses are assumed: write those of your proxies",
            important=True,
        )
        known.update(dict.fromkeys(wanted))
