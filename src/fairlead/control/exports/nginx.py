"""An nginx configuration that comes as near to a Fairlead configuration as nginx can.

Rule 1: the output passes `nginx -t` (1.22 or later) when the certificates that it names are there.
Rule 2: what nginx cannot do is said in a comment where it would stand; nothing is dropped in silence.
Rule 3: what `fairlead import nginx` understands is written so that it finds the same value again.
Rule 4: no header value: a word to replace stands in its place, as nginx reads no environment there.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from fairlead.config.schema import Backend, BackendTls, Config, Listen, Policy
from fairlead.control.exports.nginx_words import duration, log_format, quoted, size, weights
from fairlead.control.exports.secrecy import PLACEHOLDER, Variables, header_name
from fairlead.wire.x509 import BadCertificate, read_certificate

UPSTREAM: Final = "llm"
CA_FILE: Final = "/etc/ssl/certs/ca-certificates.crt"
_HEAD: Final = """\
# nginx configuration for the same backends, written by `fairlead export nginx`.
# Check it with:  nginx -t -c /path/to/this/file    (it has to be able to look up the names of the backends)
#
# nginx cannot do these, and they are left out: routing by model and by what engines hold in their caches, probes of
# backends that have no traffic, retries within a budget, one list of models for all backends, error answers in the
# API's own form, metrics in tokens and time to first token.
"""
_METHODS: Final = {
    "round_robin": ("", ""),
    "random": ("random", ""),
    "power_of_two": ("random two least_conn", ""),
    "least_connections": ("least_conn", ""),
}
_NEAREST: Final = "nginx has nothing like the policy {}; fewest connections is the nearest"
_STATUSES: Final = ("429", "500", "502", "503", "504")


def render(config: Config | None) -> str:
    """The file's text; without a configuration for one backend at 127.0.0.1:8000."""
    known = config or Config(backends=(Backend(url="http://127.0.0.1:8000"),))
    return _Export(known).text()


class _Export:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.variables = Variables()
        self.names: dict[tuple[str, ...], str] = {}  # names of backends -> their upstream

    def text(self) -> str:
        config = self.config
        routes = list(self._locations())
        lines = ["worker_processes auto;"]
        if config.headers.set or any(backend.headers for backend in config.backends):
            lines.insert(0, f"# Put header values, which may be keys, in the places of {PLACEHOLDER}-...")
        if config.drain:
            lines.append(f"worker_shutdown_timeout {duration(config.drain)};")
        lines += [
            "",
            "events {",
            "    # for each process, and a request needs two; limits.connections counts clients over all",
            f"    worker_connections {2 * config.limits.connections};",
            "}",
            "",
            "http {",
            *_indented(self._http()),
            *(line for block in self._upstreams() for line in ("", *_indented(block))),
            *(line for block in self._servers(routes) for line in ("", *_indented(block))),
            "}",
        ]
        return f"{_HEAD}\n" + "\n".join(lines) + "\n"

    def _http(self) -> Iterator[str]:
        config, times = self.config, self.config.timeouts
        yield "default_type application/octet-stream;"
        yield "server_tokens off;"
        if not config.access_log.enabled:
            yield "access_log off;"
        else:
            yield from log_format(config.access_log)
        yield ""
        yield f"client_max_body_size {size(config.limits.body)};"
        yield f"large_client_header_buffers 4 {size(-(-config.limits.head // 4))};"
        yield f"http2_max_concurrent_streams {config.limits.streams};"
        yield f"client_header_timeout {duration(times.client_header)};"
        yield f"client_body_timeout {duration(times.client_body)};"
        yield f"keepalive_timeout {duration(times.client_idle)};"
        yield f"send_timeout {duration(times.client_write)};"
        yield ""
        yield "# Tokens go out as they come."
        yield "proxy_buffering off;"
        yield "proxy_http_version 1.1;"
        yield f"proxy_connect_timeout {duration(times.connect)};"
        if times.first_byte != times.idle:
            yield (
                f"# nginx has one time for both: first byte {duration(times.first_byte)}, "
                f"between two pieces {duration(times.idle)}"
            )
        yield f"proxy_read_timeout {duration(max(times.first_byte, times.idle))};"
        yield f"proxy_send_timeout {duration(times.send)};"
        yield from self._retries()
        yield ""
        yield from self._headers(())
        yield from self._trusted()
        yield from _backend_tls(config.backend_tls, config.backends)

    def _retries(self) -> Iterator[str]:
        rules = self.config.retries
        words = [word for reason, word in (("connect", "error"), ("timeout", "timeout")) if reason in rules.on]
        words += [f"http_{status}" for status in _STATUSES if status in rules.on]
        if not rules.attempts or not words:
            yield "proxy_next_upstream off;"
            return
        # non_idempotent: POST is what all these requests are, and generating twice changes nothing
        yield f"proxy_next_upstream {' '.join(words)} non_idempotent;"
        yield f"proxy_next_upstream_tries {rules.attempts + 1};"
        yield f"proxy_next_upstream_timeout {duration(rules.window)};"

    def _headers(self, more: tuple[str, ...], whose: str = "") -> Iterator[str]:
        """All of them: one line in a location hides those around it."""
        yield 'proxy_set_header Connection "";'
        yield "proxy_set_header Host $proxy_host;  # the upstream's name: nginx cannot send each server's own"
        yield "proxy_set_header X-Request-Id $request_id;"
        if self.config.forwarded:
            yield "proxy_set_header X-Forwarded-For $remote_addr;"
            yield "proxy_set_header X-Forwarded-Proto $scheme;"
            yield "proxy_set_header X-Forwarded-Host $http_host;"
        own = {header.partition(":")[0].lower() for header in more}
        for header in (*(each for each in self.config.headers.set if each.partition(":")[0].lower() not in own), *more):
            name = header_name(header)
            if "$" in name:
                yield f"# {name}: nginx cannot name a $"
            else:
                word = self.variables.of(whose if header in more else "headers", name)
                yield f'proxy_set_header {quoted(name)} "{PLACEHOLDER}-{word}";'
        for name in self.config.headers.remove:
            yield f"# {name}: nginx cannot name a $" if "$" in name else f'proxy_set_header {quoted(name)} "";'

    def _trusted(self) -> Iterator[str]:
        if not self.config.trusted_proxies:
            return
        yield ""
        for network in self.config.trusted_proxies:
            yield f"set_real_ip_from {'unix:' if network == 'unix' else network};"
        has_proxy_protocol = any(listen.proxy_protocol for listen in self.config.listen)
        yield f"real_ip_header {'proxy_protocol' if has_proxy_protocol else 'X-Forwarded-For'};"
        yield "real_ip_recursive on;"

    # --- upstreams and locations ---------------------------------------------------------------------------

    def _locations(self) -> Iterator[list[str]]:
        """One for each route, or one for everything; names upstreams on the way."""
        by_name = {backend.name: backend for backend in self.config.backends}
        routes = self.config.routes
        if not routes:
            yield self._location("/", list(self.config.backends), False)
            return
        for route in routes:
            group = [by_name[name] for name in route.backends if name in by_name]
            yield self._location(route.path, group, route.strip)
        if not any(route.path == "/" for route in routes):
            yield ["location / {", "    return 404;", "}"]

    def _location(self, path: str, group: list[Backend], strip: bool) -> list[str]:
        scheme, base, taken = _alike(group)
        name = self.names.setdefault(
            tuple(backend.name for backend in taken), f"{UPSTREAM}_{len(self.names) + 1}" if self.names else UPSTREAM
        )
        # nginx puts the path of proxy_pass in place of the location's
        target = f"{base}/" if strip or base else ""
        if base and not strip and path != "/":
            target = f"{base}{path}"
        target = target.replace("$", "%24")  # which would begin a variable
        lines = [f"    proxy_pass {quoted(f'{scheme}://{name}{target}')};"]
        own = {backend.headers for backend in taken}
        if len(own) == 1 and (headers := own.pop()):
            lines += [f"    {line}" for line in self._headers(headers, taken[0].name)]
        elif len(own) > 1:
            lines.append("    # headers of single backends: nginx sends all servers of an upstream the same")
        note = []
        if strip and not path.endswith("/"):
            note = [f"# {path} without a / at its end: what follows gets a second one in nginx"]
        return [*note, f"location {quoted(path)} {{", *lines, "}"]

    def _upstreams(self) -> Iterator[list[str]]:
        by_name = {backend.name: backend for backend in self.config.backends}
        groups = {group: [by_name[name] for name in group] for group in self.names}
        used = {name for group in groups for name in group}
        for names, upstream in self.names.items():
            yield self._upstream(upstream, groups[names])
        left = [backend for backend in self.config.backends if backend.name not in used]
        if left:
            yield [
                f"# {backend.url} is left out: the servers of an upstream share their scheme and base path, "
                "and each location has one upstream"
                for backend in left
            ]

    def _upstream(self, name: str, backends: list[Backend]) -> list[str]:
        config = self.config
        has_backup = any(each.backup for each in backends) and not all(each.backup for each in backends)
        lines = list(_method(config.policy, has_backup))
        shares = weights([each.weight for each in backends])
        if any(each.max_connections for each in backends):
            lines.append("zone " + name + " 256k;  # max_conns counts over all processes")
        for backend, share in zip(backends, shares, strict=True):
            words = [f"server {_place(backend)}"]
            words += [f"weight={share}"] if share is not None else []
            words += [f"max_conns={backend.max_connections}"] if backend.max_connections else []
            words.append(f"max_fails={config.health.max_fails} fail_timeout={duration(config.health.fail_timeout)}")
            words += ["backup"] if backend.backup and has_backup else []
            words += ["down"] if backend.down else []
            lines.append(" ".join(words) + ";")
        if config.keepalive.connections:
            lines.append(f"keepalive {config.keepalive.connections};  # for each process")
            lines.append(f"keepalive_requests {config.keepalive.requests};")
            lines.append(f"keepalive_timeout {duration(config.keepalive.timeout)};")
        return [f"upstream {name} {{", *_indented(lines), "}"]

    # --- servers -------------------------------------------------------------------------------------------

    def _servers(self, locations: list[list[str]]) -> Iterator[list[str]]:
        """One for each set of listeners with the same certificates, and one more for each further certificate."""
        groups: dict[object, list[Listen]] = {}
        for listen in self.config.listen:
            groups.setdefault(listen.tls, []).append(listen)
        inside = [line for location in locations for line in ("", *location)]
        for listens in groups.values():
            tls = listens[0].tls
            yield [
                "server {",
                *_indented([*_listen(listens, "default_server"), *_certificates(listens[0]), *inside]),
                "}",
            ]
            for more in tls.more if tls is not None else ():
                lines = [f"ssl_certificate {quoted(more.cert)};", f"ssl_certificate_key {quoted(more.key)};"]
                names = _names_in(more.cert)
                server_name = f"server_name {' '.join(names)};" if names else (
                    "server_name more.invalid;  # write the names that stand in the certificate"
                )  # fmt: skip
                yield [
                    "server {",
                    *_indented([*_listen(listens, ""), server_name, *lines, *_common(listens[0]), *inside]),
                    "}",
                ]


def _listen(listens: Iterable[Listen], more: str) -> Iterator[str]:
    for listen in listens:
        address = listen.address
        words = [f"listen {address}" if address.port or address.path else f"listen {address.host}:8080"]
        if listen.tls is not None:
            # Without TLS, nginx before 1.25 would speak HTTP/2 alone there.
            words += ["ssl", *(["http2"] if listen.http2 else [])]
        words += ["proxy_protocol"] if listen.proxy_protocol else []
        words += [more] if more else []
        yield " ".join(words) + ";"


def _certificates(listen: Listen) -> Iterator[str]:
    if listen.tls is not None:
        yield f"ssl_certificate {quoted(listen.tls.cert)};"
        yield f"ssl_certificate_key {quoted(listen.tls.key)};"
        yield from _common(listen)


def _common(listen: Listen) -> Iterator[str]:
    if listen.tls is None:
        return
    yield f"ssl_protocols {'TLSv1.3' if listen.tls.min_version == '1.3' else 'TLSv1.2 TLSv1.3'};"
    if listen.tls.client_ca is not None and listen.tls.client_certs != "none":
        yield f"ssl_client_certificate {quoted(listen.tls.client_ca)};"
        yield f"ssl_verify_client {'on' if listen.tls.client_certs == 'required' else 'optional'};"


def _names_in(cert: str) -> tuple[str, ...]:
    """The host names of a certificate file; none when it cannot be read."""
    try:
        with open(cert, encoding="ascii") as file:
            text = file.read()
        end = text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        return read_certificate(ssl.PEM_cert_to_DER_cert(text[text.index(ssl.PEM_HEADER) : end])).names
    except (OSError, ValueError, BadCertificate):
        return ()


def _backend_tls(tls: BackendTls, backends: Iterable[Backend]) -> Iterator[str]:
    known = [each for each in backends if each.url.startswith("https:")]
    if not known:
        return
    own = {each.tls for each in known}
    if len(own) == 1 and (single := own.pop()) is not None:
        tls = single
    elif any(each.tls for each in known):
        yield "# backends[].tls: nginx has one for all servers of an upstream; what follows is backend_tls"
    yield ""
    yield "proxy_ssl_server_name on;"
    yield f"proxy_ssl_name {tls.server_name or _host(known[0])};"
    if tls.server_name is None and len({_host(each) for each in known}) > 1:
        yield "# nginx looks for one name in all certificates; fairlead for each backend's own"
    yield f"proxy_ssl_verify {'on' if tls.verify else 'off'};"
    if tls.verify:
        if tls.ca is None:
            yield "# the CA certificates of this machine, which lie elsewhere on other systems"
        yield f"proxy_ssl_trusted_certificate {quoted(tls.ca or CA_FILE)};"
    if tls.cert is not None and tls.key is not None:
        yield f"proxy_ssl_certificate {quoted(tls.cert)};"
        yield f"proxy_ssl_certificate_key {quoted(tls.key)};"


def _method(policy: Policy, has_backup: bool) -> Iterator[str]:
    """The balancing directive, which stands before keepalive."""
    if policy.name == "session" and not has_backup and (key := _session_key(policy)):
        yield "# requests without the key all go to one server"
        yield f"hash {key} consistent;"
        return
    method, note = _METHODS.get(policy.name, ("least_conn", _NEAREST.format(policy.name)))
    if has_backup and method.startswith("random"):
        method, note = "least_conn", "nginx allows no backup servers beside random"
    elif has_backup and policy.name == "session":
        note = "nginx allows no backup servers beside hash"
    if note:
        yield f"# {note}"
    if method:
        yield f"{method};"


def _session_key(policy: Policy) -> str:
    """The first place that nginx can look at; it cannot look into bodies."""
    header = f"$http_{policy.header.lower().replace('-', '_')}" if policy.header else ""
    cookie = f"$cookie_{policy.cookie}" if policy.cookie else ""
    return next((key for key in (header, cookie) if key and key.replace("_", "").replace("$", "").isalnum()), "")


def _alike(backends: list[Backend]) -> tuple[str, str, list[Backend]]:
    """(scheme, base path, the backends that have them): those of most of the backends."""
    kinds: dict[tuple[str, str], list[Backend]] = {}
    for backend in backends:
        parts = urlsplit("http:" if backend.url.startswith("unix:") else backend.url)
        kinds.setdefault((parts.scheme, parts.path), []).append(backend)
    scheme, base = max(kinds, key=lambda kind: len(kinds[kind]))
    return scheme, base, kinds[scheme, base]


def _place(backend: Backend) -> str:
    if backend.url.startswith("unix:"):
        return backend.url
    parts = urlsplit(backend.url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _host(backend: Backend) -> str:
    return urlsplit(backend.url).hostname or ""


def _indented(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"    {line}" if line else ""
