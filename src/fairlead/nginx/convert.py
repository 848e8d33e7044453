"""An nginx configuration -> the options of one Fairlead that stands in its place.

The parts are read elsewhere (places, listeners, upstreams, headers, logs, policy); here they are put together.
Rule 1: what nginx.conf does not say stays at Fairlead's default, whatever nginx's default is.
Rule 2: what one Fairlead cannot say (settings that differ by host name or upstream) is said in a note, never guessed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from fairlead.config.scalars import read_url
from fairlead.config.schema import Option, derived_name
from fairlead.config.units import UnitError
from fairlead.nginx import values
from fairlead.nginx.claims import PLAIN, Claims
from fairlead.nginx.headers import read_headers, settle
from fairlead.nginx.listeners import Listeners, trusted, with_private
from fairlead.nginx.logs import read_log
from fairlead.nginx.notes import Note, Notes
from fairlead.nginx.places import Place, Scope, places
from fairlead.nginx.policy import policy_of, retries_of
from fairlead.nginx.reasons import remark
from fairlead.nginx.tree import Directive, NginxError, read_nginx
from fairlead.nginx.upstreams import Server, Upstream, read_upstream, single

READ: Final = frozenset(PLAIN) | {
    "upstream", "server", "location", "log_format", "listen", "server_name", "proxy_pass", "access_log",
    "ssl", "http2", "ssl_certificate", "ssl_certificate_key", "ssl_protocols", "ssl_client_certificate",
    "ssl_verify_client", "large_client_header_buffers", "proxy_next_upstream", "proxy_next_upstream_tries",
    "proxy_next_upstream_timeout", "proxy_buffering", "proxy_request_buffering", "proxy_set_header",
    "proxy_ssl_verify", "proxy_ssl_trusted_certificate", "proxy_ssl_name", "proxy_ssl_certificate",
    "proxy_ssl_certificate_key", "set_real_ip_from", "real_ip_header",
}  # fmt: skip
"""Directives of http, server and location that are read, or remarked on, by a part of their own."""
_ADMIN: Final = 9900


@dataclass(frozen=True, slots=True)
class Imported:
    """The options as plain data, comments by their path, and what is to be said about the rest."""

    data: dict[str, Any]
    comments: dict[str, str]
    notes: list[Note]


def import_nginx(path: str, *, keep_policy: bool = False, server: str | None = None) -> Imported:
    """Read the file at `path`, with its includes; of its servers those named `server`. Raises `NginxError`."""
    tree, missing = read_nginx(path)
    made = _Import(path, tree, keep_policy, server)
    for include in missing:
        made.notes.left_out(include, "could not be opened")
    return made.whole()


class _Import:
    def __init__(self, path: str, tree: tuple[Directive, ...], keep_policy: bool, only: str | None) -> None:
        self.path, self.keep_policy, self.only = path, keep_policy, only
        self.notes = Notes()
        self.claims = Claims(self.notes)
        folder = os.path.dirname(os.path.abspath(path))
        self.listeners = Listeners(folder, self.notes)
        https = [each.block or () for each in tree if each.name == "http"]
        # A file of conf.d or sites-enabled by itself has no http block around it.
        self.http: tuple[Directive, ...] = sum(https, ()) if https else tree
        self.outside = [each for each in tree if each.name != "http"] if https else []
        self.blocks = {each.args[0]: each for each in self.http if each.name == "upstream" and each.args}
        self.formats = {each.args[0]: each for each in self.http if each.name == "log_format" and each.args}
        self.upstreams: dict[str, Upstream] = {}
        self.backends: dict[str, dict[str, Any]] = {}  # by URL
        self.names: dict[str, str] = {}  # derived names -> the URL that has it
        self.tls: dict[str, dict[str, Any]] = {}  # of https backends, by URL
        self.comments: dict[str, str] = {}

    def whole(self) -> Imported:
        found: list[Place] = []
        trusted_proxies: dict[str, None] = {}
        for directive in self.outside:
            if directive.name in PLAIN:
                self.claims.plain(directive)
            else:
                remark(directive, self.notes)
        servers = [each for each in self.http if each.name == "server" and each.block is not None]
        if self.only is not None and not any(self.only in _names(server) for server in servers):
            known = ", ".join(dict.fromkeys(name for server in servers for name in _names(server)))
            raise NginxError(
                self.path, None, f"no server block has the name {self.only} (there are: {known or 'none'})"
            )
        for server in servers:
            if server.block is not None:
                found += self._server(server, server.block, trusted_proxies)
        self._remark_block(self.http, Scope(()))
        routes = self._routes(found)
        if not self.backends:
            self._all_upstreams()
        for name, block in self.blocks.items():
            if name not in self.upstreams:
                self.notes.left_out(block, "no location that is imported leads to it")
        if not self.backends:
            raise NginxError(
                self.path, None, "leads to no backend: there is no upstream with servers and no proxy_pass"
            )
        return Imported(self._data(found, routes, trusted_proxies), self.comments, self.notes.in_order())

    def _server(self, server: Directive, block: tuple[Directive, ...], trusted_proxies: dict[str, None]) -> list[Place]:
        names = _names(server)
        label = " ".join(names) or "without a name"
        if self.only is not None and self.only not in names:
            self.notes.left_out(server, f"({label}) is not {self.only}")
            return []
        scope = Scope((self.http, block))
        quiet = Notes()
        if not list(places(block, scope, quiet)):
            why = "sends clients elsewhere" if any(server.inside("return", "rewrite")) else "leads to no backend"
            for note in quiet.in_order():
                if note.important or "_pass" in note.directive or "regular" in note.reason:
                    self.notes.add(note)
            self.notes.left_out(server, f"({label}) {why}, and Fairlead gives no answers of its own")
            return []
        found = list(places(block, scope, self.notes))
        self.listeners.server(block, scope, server)
        for line in server.inside("server_name"):
            if any(name not in ("_", "", "localhost") for name in line.args):
                self.notes.built_in(line, "every host name is served")
        self._remark_block(block, scope)
        for place in found:
            trusted_proxies |= trusted(place.scope, self.notes)
            for level in place.scope.blocks[2:]:
                self._remark_block(level, place.scope)
        return found

    def _remark_block(self, block: tuple[Directive, ...], scope: Scope) -> None:
        constants = scope.constants()
        for directive in block:
            if directive.name == "set" and directive.args and directive.args[0].removeprefix("$") in constants:
                continue
            if directive.name == "map" and directive.args[:1] == ("$http_upgrade",):
                self.notes.built_in(directive, "connections to backends are kept open")
            elif directive.name == "proxy_buffering":
                if directive.args == ("on",):
                    self.notes.changed(directive, "answers are never held back")
                else:
                    self.notes.built_in(directive, "answers are never held back")
            elif directive.name == "proxy_request_buffering":
                if directive.args == ("off",):
                    self.notes.changed(
                        directive, "a request is read whole before a backend is chosen: the prompt decides"
                    )
                else:
                    self.notes.built_in(directive, "a request is read whole before a backend is chosen")
            elif directive.name not in READ:
                remark(directive, self.notes)

    def _routes(self, found: list[Place]) -> list[dict[str, Any]]:
        """One for each path; the first counts where two servers have the same path."""
        routes: dict[str, dict[str, Any]] = {}
        for place in found:
            urls = self._backends(place)
            names = [self._name(url) for url in urls]
            if not names:
                self.notes.left_out(place.location, "leads to no backend that could be read")
                continue
            route: dict[str, Any] = {"path": place.path, "backends": names}
            if place.strip:
                route["strip"] = True
            if routes.setdefault(place.path, route) != route:
                self.notes.left_out(
                    place.location,
                    f"leads elsewhere than another location for {place.path}, and routes know no host names: "
                    "run one Fairlead for each (import with --server NAME)",
                    important=True,
                )
        return sorted(routes.values(), key=lambda route: len(route["path"]), reverse=True)

    def _backends(self, place: Place) -> list[str]:
        """URLs of what the place leads to; what is new becomes a backend."""
        upstream = self._upstream(place.host, place.proxy_pass, place.scheme)
        has_weights = any(server.weight is not None for server in upstream.servers)
        urls = []
        for server in upstream.servers:
            url = self._url(server, place)
            if url is None:
                continue
            made: dict[str, Any] = {"url": url}
            if self._name(url) != derived_name(url):
                made["name"] = self._name(url)
            if has_weights:
                made["weight"] = server.weight or 1
            if server.max_connections is not None:
                made["max_connections"] = server.max_connections
            made |= {name: True for name in ("backup", "down") if getattr(server, name)}
            if self.backends.setdefault(url, made) != made:
                self.notes.changed(
                    server.directive, f"is one backend with {url}, which stands elsewhere with other settings"
                )
            elif url in urls:
                self.notes.changed(server.directive, "is listed twice: a backend is one; raise its weight")
            if url not in urls:
                urls.append(url)
            if place.scheme == "https":
                self._backend_tls(url, place)
        return urls

    def _name(self, url: str) -> str:
        """Its host:port, as everywhere; http and https on one port need different names."""
        name = derived_name(url)
        return name if self.names.setdefault(name, url) == url else url

    def _upstream(self, host: str, directive: Directive, scheme: str) -> Upstream:
        if host not in self.upstreams:
            block = self.blocks.get(host)
            self.upstreams[host] = (
                read_upstream(block, self.claims, self.notes) if block is not None else single(host, directive, scheme)
            )
        return self.upstreams[host]

    def _url(self, server: Server, place: Place) -> str | None:
        is_unix = server.place.startswith("unix:")
        if is_unix and (place.base or place.scheme == "https"):
            self.notes.left_out(server.directive, "is a Unix socket, which has no base path and no TLS here")
            return None
        try:
            return read_url(
                server.place if is_unix else f"{place.scheme}://{server.place}{place.base}", Option("url", "")
            )
        except UnitError as error:
            self.notes.left_out(server.directive, f"is no backend's address: expected {error}")
            return None

    def _backend_tls(self, url: str, place: Place) -> None:
        scope, made = place.scope, self.tls.setdefault(url, {})
        if made:
            return
        verify = scope.word("proxy_ssl_verify")
        if verify == "off":
            made["verify"] = False
        elif verify == "":
            self.notes.changed(
                place.proxy_pass, "does not verify the backends' certificates (nginx's default); Fairlead does, "
                "unless backend_tls.verify is false", important=True,
            )  # fmt: skip
        for name, key in (
            ("proxy_ssl_trusted_certificate", "ca"), ("proxy_ssl_name", "server_name"),
            ("proxy_ssl_certificate", "cert"), ("proxy_ssl_certificate_key", "key"),
        ):  # fmt: skip
            line, word = scope.one(name), scope.word(name)
            if line is None or word == "$proxy_host":
                continue
            is_usable = _is_token(word) if key == "server_name" else values.is_file(word)
            if not is_usable:
                self.notes.left_out(line, "is not a plain value")
                continue
            made[key] = word if key == "server_name" else self.listeners.file(word)
        if ("cert" in made) != ("key" in made):
            line = scope.one("proxy_ssl_certificate") or scope.one("proxy_ssl_certificate_key") or place.proxy_pass
            self.notes.left_out(line, "is of no use without its key, or the key without it")
            made.pop("cert", None)
            made.pop("key", None)

    def _all_upstreams(self) -> None:
        """No location can be said as a route: its upstreams are still what the user came for."""
        for name, block in self.blocks.items():
            scope = Scope((self.http,))
            self._backends(Place("/", False, "http", name, "", block, block, scope))
            self.notes.changed(block, "gets requests of all paths: no location that leads to it could be taken")

    def _data(
        self, found: list[Place], routes: list[dict[str, Any]], trusted_proxies: dict[str, None]
    ) -> dict[str, Any]:
        data: dict[str, Any] = {}
        listen = self.listeners.plain()
        with_private(self.listeners.found, trusted_proxies, self.notes)
        if listen:
            data["listen"] = listen if len(listen) > 1 or not isinstance(listen[0], str) else listen[0]
        if any(address.endswith(f":{_ADMIN}") for address in self.listeners.found):
            data["admin"] = f"127.0.0.1:{_ADMIN + 1}"
            self.comments["admin"] = "9900, the default, is the port of a listener"
        self._policy(data)
        headers = self._headers(found)
        backends = [
            self.backends[url] | ({"headers": headers.of[url]} if url in headers.of else {}) for url in self.backends
        ]
        shared = list(self.tls.values())
        if shared and all(each == shared[0] for each in shared):
            tls = shared[0]
        else:
            tls = {}
            backends = [
                each | ({"tls": self.tls[each["url"]]} if self.tls.get(each["url"]) else {}) for each in backends
            ]
        data["backends"] = [each["url"] if len(each) == 1 else each for each in backends]
        self.comments["backends"] = (
            "weights as in nginx; without them each backend's speed is learned"
            if any("weight" in each for each in backends)
            else "engine, models and speed of each are found out; write `weight` to share the work by hand"
        )
        everything = {"path": "/", "backends": [self._name(url) for url in self.backends]}
        if routes and routes != [everything]:
            data["routes"] = routes
            self.comments["routes"] = "the longest path that a request's path begins with counts; other paths get 404"
        self._settings(data, found)
        if tls:
            data["backend_tls"] = tls
        if headers.set or headers.remove:
            data["headers"] = {key: getattr(headers, key) for key in ("set", "remove") if getattr(headers, key)}
        if trusted_proxies:
            data["trusted_proxies"] = list(trusted_proxies)
        return data

    def _headers(self, found: list[Place]) -> Any:
        rules = []
        for place in found:
            urls = frozenset(filter(None, (self._url(each, place) for each in self.upstreams[place.host].servers)))
            rules.append((read_headers(place.scope.all("proxy_set_header"), self.notes), urls))
        return settle(rules, self.notes)

    def _policy(self, data: dict[str, Any]) -> None:
        """The first upstream with a balancing directive counts; a single server needs no choice."""
        choosing = [each for each in self.upstreams.values() if len(each.servers) > 1] or list(self.upstreams.values())
        by_key = [
            each
            for each in choosing
            if each.balancer is not None and each.balancer.name in ("ip_hash", "hash", "sticky")
        ]
        first = (by_key or choosing)[0]
        policy, comment = policy_of(first.balancer, self.keep_policy, self.notes)
        mine = first.balancer.name if first.balancer is not None else "round robin"
        for other in choosing:
            name = other.balancer.name if other.balancer is not None else "round robin"
            if name != mine:
                self.notes.changed(
                    other.balancer or other.directive, f"({name}) is balanced like upstream {first.name} ({mine}): "
                    "one policy holds for all backends",
                )  # fmt: skip
        data["policy"] = policy or "expected_completion"
        self.comments["policy"] = comment

    def _settings(self, data: dict[str, Any], found: list[Place]) -> None:
        retries: dict[str, Any] | None = None
        log: Any = None
        scopes = [place.scope for place in found] or [Scope((self.http,))]
        for scope in scopes:
            for name in PLAIN:
                line = scope.one(name)
                if line is not None and line.args:
                    self.claims.plain(line)
            head = scope.one("large_client_header_buffers")
            if head is not None:
                self.claims.head(head)
            mine = retries_of(scope, self.notes)
            if retries is None:
                retries = mine
            elif mine != retries and (
                line := scope.one("proxy_next_upstream") or scope.one("proxy_next_upstream_tries")
            ):
                self.notes.left_out(line, "differs between locations; the first one's retries hold for all")
        log = read_log(scopes[0], self.formats, self.notes)
        settled = self.claims.settled()
        for group in ("timeouts", "retries", "health", "keepalive", "limits"):
            options = {path.partition(".")[2]: value for path, value in settled.items() if path.startswith(f"{group}.")}
            options |= retries or {} if group == "retries" else {}
            if options:
                data[group] = options
        if log is not None:
            data["access_log"] = log
        if "drain" in settled:
            data["drain"] = settled["drain"]


def _names(server: Directive) -> list[str]:
    return [name for line in server.inside("server_name") for name in line.args]


def _is_token(word: str) -> bool:
    try:
        values.fitting("backend_tls.server_name", word)
    except UnitError:
        return False
    return values.is_constant(word)
