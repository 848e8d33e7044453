"""TLS on both sides: which certificate is shown to whom, whom do we believe, and what when the files change?

Rule 1: AEAD ciphers with forward secrecy and TLS 1.2 or newer; backends are verified unless somebody asked us not to.
Rule 2: changed files are taken up whole or not at all. A pair that cannot be used leaves the old one in force, is told
        once, and is tried again when the files change again. New handshakes use the new context, open connections
        keep theirs. Tickets belong to a context, so no session of the old one is resumed under the new.
Rule 3: an error is a sentence that names the file (`TlsProblem`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from fairlead.wire.x509 import BadCertificate, CertificateFacts, read_certificate

log = logging.getLogger("fairlead")

LOOK_SECONDS: Final = 5.0  # between two looks at the files
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # for 1.2; those of 1.3 are all good
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
CLIENT_CERTS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
REASONS: Final = {  # what OpenSSL says -> what people can act on
    "KEY_VALUES_MISMATCH": "does not belong to that certificate",
    "EE_KEY_TOO_SMALL": "is too short a key (RSA needs 2048 bits)",
    "CA_MD_TOO_WEAK": "is signed with a hash that is too weak",
}

Stamp = tuple[int, int, int]  # of a file: changed when, inode, size
GONE: Final[Stamp] = (0, 0, 0)


class TlsProblem(Exception):
    """Files that cannot be used; the message is a sentence for people."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, both PEM files."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Of one listener; see config/schema.py. The first pair serves clients that ask for no name we have."""

    pairs: tuple[Pair, ...]
    min_version: str = "1.2"
    client_ca: str | None = None
    client_certs: str = "none"
    http2: bool = False

    def files(self) -> tuple[str, ...]:
        own = [name for pair in self.pairs for name in (pair.cert, pair.key)]
        return (*own, self.client_ca) if self.client_ca else tuple(own)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Of one backend; see config/schema.py."""

    verify: bool = True
    ca: str | None = None
    server_name: str | None = None  # None: the host that we connect to
    cert: str | None = None
    key: str | None = None

    def files(self) -> tuple[str, ...]:
        return tuple(name for name in (self.ca, self.cert, self.key) if name)


@dataclass(frozen=True, slots=True)
class Made:
    """A context that is ready for handshakes."""

    context: ssl.SSLContext
    expires: float | None  # unix time at which the first of our own certificates ends


def make_server(settings: ServerTls) -> Made:
    """A listener's context with all its certificates; TlsProblem."""
    contexts: list[ssl.SSLContext] = []
    expires: list[float] = []
    exact: dict[str, ssl.SSLContext] = {}
    wild: dict[str, ssl.SSLContext] = {}  # by what stands behind the star
    for number, pair in enumerate(settings.pairs):
        context = _server_context(settings, pair)
        facts = _facts(pair.cert)
        if number and not facts.names:
            raise TlsProblem(f"{pair.cert}: names no host (subjectAltName), so that no client could ask for it")
        for name in facts.names:
            # The first pair that has a name keeps it.
            (wild if name.startswith("*.") else exact).setdefault(name.removeprefix("*"), context)
        contexts.append(context)
        expires.append(facts.expires)
    default = contexts[0]

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        asked = (name or "").lower().rstrip(".")
        dot = asked.find(".")
        # A wildcard stands for exactly one label (RFC 9525 section 6.3).
        found = exact.get(asked) or (wild.get(asked[dot:]) if dot > 0 else None)
        if found is not None and found is not default:
            connection.context = found

    if len(contexts) > 1:
        default.sni_callback = choose
    return Made(default, min(expires))


def make_client(settings: ClientTls) -> Made:
    """The context for connections to a backend; TlsProblem."""
    if settings.ca is not None:
        _readable(settings.ca)
    try:
        # Without a CA of its own: those of this machine.
        context = ssl.create_default_context(cafile=settings.ca)
    except (ssl.SSLError, OSError) as problem:
        raise TlsProblem(f"{settings.ca}: holds no CA certificates in PEM form{_why(problem)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    expires = None
    if settings.cert is not None:
        _load(context, Pair(settings.cert, settings.key or settings.cert))
        expires = _facts(settings.cert).expires
    return Made(context, expires)


def _server_context(settings: ServerTls, pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[settings.min_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION  # it would let a client make us compute for nothing
    context.set_alpn_protocols(["h2", "http/1.1"] if settings.http2 else ["http/1.1"])
    context.verify_mode = CLIENT_CERTS[settings.client_certs]
    if settings.client_certs != "none":
        if settings.client_ca is None:
            raise TlsProblem(f"client_certs: {settings.client_certs} needs client_ca, the CA that signs them")
        _readable(settings.client_ca)
        try:
            context.load_verify_locations(settings.client_ca)
        except (ssl.SSLError, OSError) as problem:
            raise TlsProblem(f"{settings.client_ca}: holds no CA certificates in PEM form{_why(problem)}") from None
    _load(context, pair)
    return context


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    def ask() -> str:  # else OpenSSL would ask on the terminal
        raise TlsProblem(f"{pair.key}: this key has a passphrase: write it without one")

    for name in (pair.cert, pair.key):
        _readable(name)
    try:
        context.load_cert_chain(pair.cert, pair.key, password=ask)
    except (ssl.SSLError, OSError) as problem:
        reason = getattr(problem, "reason", None) or ""
        if reason == "KEY_VALUES_MISMATCH":
            raise TlsProblem(f"{pair.key}: {REASONS[reason]} ({pair.cert})") from None
        if reason in REASONS:
            raise TlsProblem(f"{pair.cert}: {REASONS[reason]}") from None
        _facts(pair.cert)
        raise TlsProblem(f"{pair.key}: this is no private key in PEM form{_why(problem)}") from None


def _readable(name: str) -> None:
    try:
        with open(name, "rb") as file:
            file.read(1)
    except OSError as problem:
        raise TlsProblem(f"{name}: {(problem.strerror or str(problem)).lower()}") from None


def _facts(name: str) -> CertificateFacts:
    """Of the first certificate in the file, which is the server's own."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    try:
        with open(name, encoding="latin-1") as file:
            text = file.read()
        first = text[text.index(begin) : text.index(end) + len(end)]
        return read_certificate(ssl.PEM_cert_to_DER_cert(first))
    except OSError as problem:
        raise TlsProblem(f"{name}: {(problem.strerror or str(problem)).lower()}") from None
    except (ValueError, BadCertificate):
        raise TlsProblem(f"{name}: this is no certificate in PEM form") from None


def _why(problem: Exception) -> str:
    reason = getattr(problem, "reason", None)
    return f" ({reason.lower().replace('_', ' ')})" if reason else ""


class Rotation:
    """A context that follows its files. `context` is the one for new handshakes."""

    def __init__(self, what: str, files: tuple[str, ...], make: Callable[[], Made]) -> None:
        """`what` names its owner in messages. TlsProblem when the files cannot be used."""
        self.what = what
        self.files = files
        self._make = make
        self._stamps = self._look()  # before they are read: what changes meanwhile is seen at the next look
        self._made = make()
        self.problem = ""  # why the files of now are not in force
        self.loads = 1  # times that files were taken up
        self.failures = 0  # times that changed files could not be

    @property
    def context(self) -> ssl.SSLContext:
        return self._made.context

    def current(self) -> ssl.SSLContext:
        """`context` for those who ask each time."""
        return self._made.context

    @property
    def expires(self) -> float | None:
        """Unix time at which the first of its certificates ends; None: it has none of its own."""
        return self._made.expires

    def look(self) -> bool:
        """Take up files that have changed; True when new ones are in force. May run in any one thread at a time."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            self._made = self._make()
        except TlsProblem as problem:
            self.problem = str(problem)
            self.failures += 1
            log.warning("%s: changed files are not taken up, the old ones stay in force: %s", self.what, problem)
            return False
        self.problem = ""
        self.loads += 1
        log.info("%s: changed certificate files are in force", self.what)
        return True

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(_stamp(name) for name in self.files)


def _stamp(name: str) -> Stamp:
    with contextlib.suppress(OSError):
        found = os.stat(name)
        return found.st_mtime_ns, found.st_ino, found.st_size
    return GONE


class Rotations:
    """All contexts of a service, and the task that looks at their files."""

    def __init__(self) -> None:
        self.all: list[Rotation] = []
        self._clients: dict[ClientTls, Rotation] = {}
        self._task: asyncio.Task[None] | None = None
        self._looking = threading.Lock()

    def server(self, what: str, settings: ServerTls) -> Rotation:
        """For a listener; TlsProblem."""
        return self._add(Rotation(what, settings.files(), lambda: make_server(settings)))

    def client(self, what: str, settings: ClientTls) -> Rotation:
        """For a backend. Equal settings share a context: what is trusted takes megabytes. TlsProblem."""
        known = self._clients.get(settings)
        if known is None:
            known = self._clients[settings] = self._add(Rotation(what, settings.files(), lambda: make_client(settings)))
        return known

    def _add(self, made: Rotation) -> Rotation:
        self.all.append(made)
        return made

    def keep(self, used: Collection[Rotation | None]) -> None:
        """Let go of all others: nobody uses them any more."""
        self.all = [rotation for rotation in self.all if rotation in used]
        self._clients = {settings: rotation for settings, rotation in self._clients.items() if rotation in used}

    def start(self) -> None:
        """Follow the files, where there are any; again when there are more."""
        if self._task is None and any(rotation.files for rotation in self.all):
            self._task = asyncio.get_running_loop().create_task(self._follow())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        """Look at the files for ever, in a thread: they may lie on a network."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Look at all files once."""
        with self._looking:
            for rotation in self.all:
                try:
                    rotation.look()
                except Exception:
                    log.exception("%s: files could not be looked at; this is a fault in Fairlead", rotation.what)
