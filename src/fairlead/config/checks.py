"""What no single option can tell: do the options fit together?

Works on a configuration that may still have holes (None) where something was refused before.
Rule 1: reads no file and asks no network; `load.py` looks at files.
Rule 2: an error is what cannot work; what will probably hurt is a warning.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from fairlead.config.problems import WARNING, Problems
from fairlead.config.requests import check_headers, check_routes, check_template
from fairlead.config.schema import Address, Backend, BackendTls, Config, Listen, Policy
from fairlead.config.units import format_duration

ENGINES_CLOSE_AFTER = 5.0
"""Seconds after which uvicorn, which most engines use, closes an idle connection."""


def check_config(config: Config, where: Mapping[int, str], problems: Problems) -> None:
    """Report everything that is wrong between options."""
    _check_addresses(config, where, problems)
    for index, listen in enumerate(config.listen):
        if listen is not None:  # a hole left by the walker, which the type of Config does not admit
            _check_listener(listen, config.trusted_proxies, where.get(id(listen), f"listen[{index}]"), problems)
    check_backends(config.backends, where, problems)
    _check_some_backend_serves(config.backends, problems)
    _check_own_certificate(config.backend_tls, "backend_tls", problems)
    check_routes(config.routes, config.backends, where, problems)
    check_headers(config, where, problems)
    check_template(config.access_log, problems)
    if config.keepalive.timeout >= ENGINES_CLOSE_AFTER:
        problems.add(
            "keepalive.timeout",
            f"{format_duration(config.keepalive.timeout)} is not below the 5s after which most engines close "
            "an idle connection, so some requests will meet a closed one and be retried",
            hint="write 4s, or raise the engines' own keep-alive above it",
            severity=WARNING,
        )
    _check_hedging(config, problems)
    policy, shadow = config.policy, config.shadow
    check_policies(policy, shadow, where.get(id(policy), "policy"), where.get(id(shadow), "shadow"), problems)


def _check_hedging(config: Config, problems: Problems) -> None:
    """A hedge is a try like any other."""
    hedging, retries = config.hedging, config.retries
    if hedging is None:
        return
    if not retries.attempts:
        problems.add(
            "hedging", "a hedge counts as a try, and retries.attempts is 0: no request is ever hedged",
            hint="set retries.attempts to 1 or more", severity=WARNING,
        )  # fmt: skip
    if not isinstance(hedging.delay, str) and hedging.delay >= retries.window:
        problems.add(
            "hedging.delay", f"{format_duration(hedging.delay)} is not below retries.window, after which no new try "
            "begins: no request is ever hedged", hint="raise retries.window above it", severity=WARNING,
        )  # fmt: skip


def check_policies(policy: Policy, shadow: Policy | None, path: str, shadow_path: str, problems: Problems) -> None:
    """Report what the two cannot work with; the paths say where they stand."""
    for each, place in ((policy, path), (shadow, shadow_path)):
        if each is not None and each.name == "session" and not any(session_source(each)):
            problems.add(
                place,
                "the session policy needs something that names the session",
                hint="set header, cookie or body_field",
            )
    if shadow is None or not policy.name == shadow.name == "session":
        return
    if session_source(policy) != session_source(shadow):
        problems.add(
            shadow_path,
            "a session policy and its session shadow must find the session's name in the same place",
            hint="give both the same header, cookie and body_field",
        )


def session_source(policy: Policy) -> tuple[str | None, str | None, str | None]:
    """Where a session policy finds the session's name: header, cookie, body field."""
    return policy.header, policy.cookie, policy.body_field


def check_backends(backends: tuple[Backend, ...], where: Mapping[int, str], problems: Problems) -> None:
    """Two backends must not share a URL or a name: each would be counted with half its load."""
    urls: dict[str, str] = {}
    names: dict[str, str] = {}
    for index, backend in enumerate(backends):
        if backend is None:  # a hole, see above
            continue  # type: ignore[unreachable]
        path = where.get(id(backend), f"backends[{index}]")
        if backend.url in urls:
            problems.add(
                f"{path}.url", f"'{backend.url}' is already {urls[backend.url]}", value=backend.url,
                hint="remove one of them; to give it more work, raise its weight",
            )  # fmt: skip
        elif backend.name in names:
            problems.add(
                f"{path}.name", f"the name '{backend.name}' is already that of {names[backend.name]}",
                value=backend.name, hint="give each backend its own name",
            )  # fmt: skip
        urls.setdefault(backend.url, path)
        names.setdefault(backend.name, path)
        _check_backend_tls(backend, path, problems)
        if backend.url.endswith("/v1") and not backend.url.startswith("unix:"):
            problems.add(
                f"{path}.url", "ends in /v1, and clients send /v1 in each request's path already",
                value=backend.url, hint=f"write {backend.url[:-3]}", severity=WARNING,
            )  # fmt: skip


def _check_some_backend_serves(backends: tuple[Backend, ...], problems: Problems) -> None:
    if not backends or None in backends:  # a hole may be the one that serves
        return
    for option, all_of_them, so in (
        ("down", all(backend.down for backend in backends), "no request can be served"),
        ("backup", all(backend.backup for backend in backends), "there is none that they could stand in for"),
    ):
        if all_of_them:
            problems.add(
                "backends", f"all of them are '{option}', so {so}",
                hint=f"take {option}: true away from those that shall serve", severity=WARNING,
            )  # fmt: skip


def _check_backend_tls(backend: Backend, path: str, problems: Problems) -> None:
    if backend.tls is None:
        return
    _check_own_certificate(backend.tls, f"{path}.tls", problems)
    if not backend.url.startswith("https:"):
        secure = "" if backend.url.startswith("unix:") else f"write https{backend.url.removeprefix('http')}, or "
        problems.add(
            f"{path}.tls", f"means nothing for '{backend.url}', which is spoken to without TLS", value=backend.url,
            hint=f"{secure}leave it away", severity=WARNING,
        )  # fmt: skip


def _check_own_certificate(tls: BackendTls, path: str, problems: Problems) -> None:
    """The one that we show comes with its key, or not at all."""
    for name, file, other, other_file in (("cert", tls.cert, "key", tls.key), ("key", tls.key, "cert", tls.cert)):
        if file is not None and other_file is None and not problems.about(f"{path}.{other}"):
            problems.add(f"{path}.{name}", f"is of no use without '{other}'", value=file, hint=f"set {path}.{other}")


def _check_listener(listen: Listen, trusted: tuple[str, ...], path: str, problems: Problems) -> None:
    if listen.proxy_protocol:
        is_unix = bool(listen.address.path)
        if not any(network is None or is_unix == (network == "unix") for network in trusted):  # None: may be the one
            problems.add(
                f"{path}.proxy_protocol", "needs to know who may say for whom a connection is made",
                hint="add unix to trusted_proxies" if is_unix else "set trusted_proxies, such as [10.0.0.0/8]",
            )  # fmt: skip
    tls = listen.tls
    if tls is None or problems.about(f"{path}.tls.client_ca") or problems.about(f"{path}.tls.client_certs"):
        return
    if tls.client_certs != "none" and tls.client_ca is None:
        problems.add(
            f"{path}.tls.client_certs", f"'{tls.client_certs}' needs CA certificates to check clients' certificates by",
            value=tls.client_certs, hint=f"set {path}.tls.client_ca",
        )  # fmt: skip
    elif tls.client_certs == "none" and tls.client_ca is not None:
        problems.add(
            f"{path}.tls.client_ca", "means nothing while no client is asked for a certificate", value=tls.client_ca,
            hint="set client_certs: required or optional", severity=WARNING,
        )  # fmt: skip


def _check_addresses(config: Config, where: Mapping[int, str], problems: Problems) -> None:
    taken: list[tuple[Address, str]] = []
    for index, listen in enumerate(config.listen):
        if listen is None:  # a hole, see above
            continue  # type: ignore[unreachable]
        path = where.get(id(listen), f"listen[{index}]")
        _refuse_overlap(listen.address, path, taken, problems)
        taken.append((listen.address, path))
    if config.admin.path:
        problems.add(
            "admin", f"expected HOST:PORT, got '{config.admin}'", value=str(config.admin),
            hint="the admin API is for browsers and Prometheus, which know no Unix sockets; write 127.0.0.1:9900",
        )  # fmt: skip
        return
    _refuse_overlap(config.admin, "admin", taken, problems)
    if not is_loopback(config.admin.host) and config.admin_token_file is None:
        problems.add(
            "admin",
            f"{config.admin} can be reached from other machines, and whoever reaches it can see what the fleet does",
            value=str(config.admin),
            hint="write 127.0.0.1, or set admin_token_file, or close the port to everyone else",
            severity=WARNING,
        )


def _refuse_overlap(address: Address, path: str, taken: list[tuple[Address, str]], problems: Problems) -> None:
    for other, other_path in taken:
        if _overlap(address, other):
            same = "is already" if address == other else f"overlaps with {other} of"
            hint = "choose another path" if address.path else "choose another port"
            problems.add(path, f"{address} {same} {other_path}", value=str(address), hint=hint)
            return


def _overlap(one: Address, other: Address) -> bool:
    """Whether the second of the two could not be bound. Port 0 is any free port, so never."""
    if one.path or other.path:
        return one.path == other.path
    if one.port != other.port or one.port == 0:
        return False
    if one.host == other.host:
        return True
    if "0.0.0.0" in (one.host, other.host):  # takes every IPv4 address; asyncio keeps IPv6 apart from it
        return ":" not in one.host + other.host
    return "::" in (one.host, other.host) and ":" in one.host and ":" in other.host


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
