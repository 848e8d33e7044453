"""Options that do not fit together: what is an error, what is a warning, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fairlead.config.load import parse
from fairlead.config.schema import TEMPLATE_NAMES, Address

HINT_NAMES = ", ".join(f"${name}" for name in TEMPLATE_NAMES)
AB = "backends: [{url: 'a:1', name: a}, {url: 'b:1', name: b}]"
TLS = "cert: c.pem, key: k.pem"


def said(text: str) -> list[str]:
    """What is said about a config in YAML; a backend is added where the text has none."""
    obj: dict[str, Any] = yaml.safe_load(text)
    config, problems = parse({"backends": ["a:1"]} | obj, "f")
    assert (config is None) == any(problem.severity == "error" for problem in problems)
    return [str(problem).removeprefix("f: ") for problem in problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # addresses
        ("listen: [unix:/run/x, unix:/run/x]", "listen[1]: unix:/run/x is already listen[0] (choose another path)"),
        # listeners
        (f"listen: {{address: 'a:1', tls: {{{TLS}, client_certs: required}}}}", "listen.tls.client_certs: 'required' "
         "needs CA certificates to check clients' certificates by (set listen.tls.client_ca)"),
        (f"listen: [{{address: 'a:1', tls: {{{TLS}, client_certs: optional}}}}]", "listen[0].tls.client_certs: "
         "'optional' needs CA certificates to check clients' certificates by (set listen[0].tls.client_ca)"),
        (f"listen: {{address: 'a:1', tls: {{{TLS}, client_ca: ca.pem}}}}", "warning: listen.tls.client_ca: means "
         "nothing while no client is asked for a certificate (set client_certs: required or optional)"),
        ("listen: {address: 'a:1', proxy_protocol: true}", "listen.proxy_protocol: needs to know who may say for whom "
         "a connection is made (set trusted_proxies, such as [10.0.0.0/8])"),
        ("{listen: {address: 'a:1', proxy_protocol: true}, trusted_proxies: unix}", "listen.proxy_protocol: needs to "
         "know who may say for whom a connection is made (set trusted_proxies, such as [10.0.0.0/8])"),
        ("{listen: {address: 'unix:/x', proxy_protocol: true}, trusted_proxies: 10.0.0.0/8}", "listen.proxy_protocol: "
         "needs to know who may say for whom a connection is made (add unix to trusted_proxies)"),
        # hedging
        ("{hedging: auto, retries: {attempts: 0}}", "warning: hedging: a hedge counts as a try, and retries.attempts "
         "is 0: no request is ever hedged (set retries.attempts to 1 or more)"),
        ("{hedging: 10s, retries: {window: 10s}}", "warning: hedging.delay: 10s is not below retries.window, after "
         "which no new try begins: no request is ever hedged (raise retries.window above it)"),
        # TLS to backends
        ("backend_tls: {cert: c.pem}", "backend_tls.cert: is of no use without 'key' (set backend_tls.key)"),
        ("backend_tls: {key: k.pem}", "backend_tls.key: is of no use without 'cert' (set backend_tls.cert)"),
        ("backends: [{url: 'https://a', tls: {cert: c.pem}}]", "backends[0].tls.cert: is of no use without 'key' "
         "(set backends[0].tls.key)"),
        ("backends: [{url: 'http://a:1', tls: {verify: false}}]", "warning: backends[0].tls: means nothing for "
         "'http://a:1', which is spoken to without TLS (write https://a:1, or leave it away)"),
        ("backends: [{url: 'unix:/run/a', tls: {verify: false}}]", "warning: backends[0].tls: means nothing for "
         "'unix:/run/a', which is spoken to without TLS (leave it away)"),
        # which backends serve
        ("backends: [{url: 'a:1', down: true}, {url: 'b:1', down: true}]", "warning: backends: all of them are 'down', "
         "so no request can be served (take down: true away from those that shall serve)"),
        ("backends: {url: 'a:1', backup: true}", "warning: backends: all of them are 'backup', so there is none that "
         "they could stand in for (take backup: true away from those that shall serve)"),
        # routes
        (f"{{{AB}, routes: [{{path: /, backends: [a, b, cc]}}]}}", "routes[0].backends[2]: no backend has the name "
         "'cc' (known here: a, b)"),
        ("routes: {path: /, backends: ['a:1', 'a:11']}", "routes.backends[1]: no backend has the name 'a:11' "
         "(did you mean 'a:1'?)"),
        ("{backends: [{url: 'a:1', name: gpu-big}], routes: {path: /, backends: [gpu-big, gpu_bgi]}}",
         "routes.backends[1]: no backend has the name 'gpu_bgi' (did you mean 'gpu-big'?)"),
        ("{backends: [" + ", ".join(f"'n{n}:1'" for n in range(10)) + "], routes: {path: /, backends: [other, "
         + ", ".join(f"'n{n}:1'" for n in range(10)) + "]}}", "routes.backends[0]: no backend has the name 'other' "
         "(known here: n0:1, n1:1, n2:1, n3:1, n4:1, n5:1, n6:1, n7:1 and 2 more)"),
        (f"{{{AB}, routes: [{{path: /v1/, backends: a}}, {{path: /v1/, backends: b}}]}}", "routes[1].path: '/v1/' is "
         "already the path of routes[0] (name all backends in one of them)"),
        (f"{{{AB}, routes: [{{path: '/v1/?x', backends: [a, b]}}]}}", "routes[0].path: a route is found by the path "
         "alone, which ends before the ? (leave everything from the ? on away)"),
        (f"{{{AB}, routes: [{{path: /v1/, backends: a}}]}}", "warning: backends[1]: no route leads to 'b' "
         "(name it in a route, or it gets no requests)"),
        # headers
        ("headers: {set: ['x-a: 1', 'X-A: 2']}", "headers.set[1]: 'X-A' is set twice (keep one of them)"),
        ("backends: {url: 'a:1', headers: ['X-A: 1', 'X-B: 1', 'x-a: 2']}", "backends.headers[2]: 'x-a' is set twice "
         "(keep one of them)"),
        ("headers: {set: 'X-A: 1', remove: [x-b, X-A]}", "warning: headers.remove[1]: 'x-a' is replaced by what "
         "headers.set says (leave it away)"),
        # the access log
        ("access_log: {format: template}", "access_log.format: 'template' needs the line to write "
         "(set access_log.template, such as '$remote_addr $request_path $status')"),
        ("access_log: {template: $status}", "warning: access_log.template: means nothing with format: text "
         "(set format: template, or leave it away)"),
        ("access_log: {format: template, template: $status $requst_time}", "access_log.template: '$requst_time' "
         "is not known (did you mean '$request_time'?)"),
        ("access_log: {format: template, template: $status_ms}", "access_log.template: '$status_ms' is not known "
         "(did you mean '$status'?)"),
        ("access_log: {format: template, template: $q $q}", "access_log.template: '$q' is not known "
         f"(known here: {HINT_NAMES})"),
        ("access_log: {format: template, template: '${status}'}", "access_log.template: a $ begins a name, and here "
         "none follows (write a name such as $status, or leave the $ away)"),
        ("access_log: {format: template, template: 'costs 5$'}", "access_log.template: a $ begins a name, and here "
         "none follows (write a name such as $status, or leave the $ away)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_place_and_the_next_step(text: str, expected: str) -> None:
    assert said(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "listen: [unix:/run/x, unix:/run/y, 'a:1', 'a:0', 'a:0']",
        f"listen: {{address: 'a:1', tls: {{{TLS}, client_ca: ca.pem, client_certs: optional}}}}",
        f"listen: {{address: 'a:1', tls: {{{TLS}, min_version: 1.3, more: {{cert: d.pem, key: l.pem}}}}, http2: no}}",
        "{listen: {address: 'a:1', proxy_protocol: true}, trusted_proxies: [unix, '::1']}",
        "{listen: {address: 'unix:/x', proxy_protocol: true}, trusted_proxies: [unix, '::1']}",
        "backend_tls: {ca: ca.pem, cert: c.pem, key: k.pem, server_name: engine.internal}",
        "backends: [{url: 'https://a', tls: {verify: false}}, unix:/run/v1]",
        "backends: [{url: 'a:1', down: true}, {url: 'b:1', backup: true}]",
        f"{{{AB}, routes: [{{path: /, backends: [a, b]}}, {{path: /v1/, backends: a, strip: true}}]}}",
        "{backends: unix:/run/a, routes: {path: /, backends: unix:/run/a}}",
        "{headers: {set: ['X-A: 1'], remove: X-B}, backends: {url: 'a:1', headers: ['x-a: 2']}}",
        "access_log: {format: template, template: '" + " ".join(f"${name}" for name in TEMPLATE_NAMES) + "'}",
        "access_log: {format: combined}",
        "forwarded: off",
    ],
)
def test_what_fits_gets_no_problem(text: str) -> None:
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        # the backend that was refused may be the one that the route names, or the one that is up
        ("{backends: [{url: 'ftp://a', name: a}, {url: 'b:1', down: true}], routes: {path: /, backends: a}}",
         ["backends[0].url"]),
        ("{backends: [{url: 'a:1', name: 5}], routes: {path: /, backends: five}}", ["backends[0].name"]),
        # the route that was refused may be the one that leads to b
        (f"{{{AB}, routes: [{{path: v1, backends: b}}, {{path: /, backends: a}}]}}", ["routes[0].path"]),
        (f"{{{AB}, routes: [{{path: /, backends: [a, 5]}}]}}", ["routes[0].backends[1]"]),
        # what stands there is wrong, but something stands there
        ("backend_tls: {cert: c.pem, key: 5}", ["backend_tls.key"]),
        (f"listen: {{address: 'a:1', tls: {{{TLS}, client_ca: 5, client_certs: required}}}}", ["listen.tls.client_ca"]),
        (f"listen: {{address: 'a:1', tls: {{{TLS}, client_ca: c, client_certs: need}}}}", ["listen.tls.client_certs"]),
        ("{listen: {address: 'a:1', proxy_protocol: true}, trusted_proxies: [x]}", ["trusted_proxies[0]"]),
        ("access_log: {format: templat, template: $status}", ["access_log.format"]),
        ("access_log: {format: template, template: 5}", ["access_log.template"]),
        ("headers: {set: [5, 'X-A: 1', 6]}", ["headers.set[0]", "headers.set[2]"]),
    ],
)  # fmt: skip
def test_one_mistake_is_reported_once(text: str, paths: list[str]) -> None:
    _, problems = parse({"backends": ["a:1"]} | yaml.safe_load(text), "f")
    assert [problem.path for problem in problems] == paths


def test_the_value_of_a_header_is_never_shown() -> None:
    bad: list[object] = ["Authorization Bearer sk-1", "Host: sk-1", "X-A: sk-1\nX", "A B: sk-1", {"a": "sk-1"}]
    for header in [*bad, ["X-A: sk-1", "X-A: sk-1"], ["X-A: sk-1", "x-a: 2"]]:
        _, problems = parse({"backends": {"url": "a:1", "headers": header}, "headers": {"set": header}}, "f")
        assert len(problems) == 2
        assert "sk-1" not in f"{[problem.as_dict() for problem in problems]} {[str(problem) for problem in problems]}"


def test_values_of_the_newer_kinds_are_brought_into_one_spelling() -> None:
    config, problems = parse(
        {
            "listen": "unix:/run/fairlead.sock",
            "backends": [{"url": "unix:/run/engine.sock", "headers": "X-Key:  a b "}],
            "headers": {"set": ["X-Empty:", "X-Colon:a:b"], "remove": ["X-Api-Key", "cookie"]},
            "trusted_proxies": ["10.0.0.1", "10.0.0.0/255.0.0.0", "2001:DB8::/32", "unix"],
        },
        "f",
    )
    assert config is not None and problems == []
    assert config.listen[0].address == Address("", 0, "/run/fairlead.sock")
    assert str(config.listen[0].address) == "unix:/run/fairlead.sock"
    (backend,) = config.backends
    assert (backend.url, backend.name) == ("unix:/run/engine.sock", "unix:/run/engine.sock")
    assert backend.headers == ("X-Key: a b",)
    assert config.headers.set == ("X-Empty: ", "X-Colon: a:b")
    assert config.headers.remove == ("x-api-key", "cookie")
    assert config.trusted_proxies == ("10.0.0.1/32", "10.0.0.0/8", "2001:db8::/32", "unix")


def test_a_socket_is_no_url_that_ends_in_v1() -> None:
    assert said("backends: unix:/run/v1") == []
    assert said("backends: [unix:/run/v1, unix:/run/v1]") == [
        "backends[1].url: 'unix:/run/v1' is already backends[0] "
        "(remove one of them; to give it more work, raise its weight)"
    ]
