"""One snippet of nginx at a time -> exactly these options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nginx_checking import config_of, imported, read_back

UPSTREAM = "upstream u { server 10.0.0.1:8000; server 10.0.0.2:8000; %s }"
SERVER = "server { %s location / { proxy_pass http://u; %s } }"
PLAIN_BACKENDS = ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]


def whole(upstream: str = "", server: str = "", location: str = "", http: str = "") -> str:
    return f"{http}\n{UPSTREAM % upstream}\n{SERVER % (server, location)}\n"


def data_of(text: str, folder: Path, **options: object) -> dict[str, Any]:
    made = imported(text, folder, **options)
    config_of(made)  # it loads
    assert read_back(made) == made.data  # and what is written says the same
    return made.data


def test_the_least_there_can_be(tmp_path: Path) -> None:
    assert data_of(whole(), tmp_path) == {
        "listen": "0.0.0.0:80",
        "policy": "expected_completion",
        "backends": PLAIN_BACKENDS,
    }


@pytest.mark.parametrize(
    ("servers", "backends"),
    [
        ("server gpu1;", ["http://gpu1"]),
        ("server gpu1:8000;", ["http://gpu1:8000"]),
        ("server [::1]:8000;", ["http://[::1]:8000"]),
        ("server [::1];", ["http://[::1]"]),
        ("server unix:/run/a.sock;", ["unix:/run/a.sock"]),
        ("server a:1 weight=2; server b:1;", [{"url": "http://a:1", "weight": 2}, {"url": "http://b:1", "weight": 1}]),
        ("server a:1 max_conns=10;", [{"url": "http://a:1", "max_connections": 10}]),
        ("server a:1 max_conns=0;", ["http://a:1"]),
        ("server a:1; server b:1 backup;", ["http://a:1", {"url": "http://b:1", "backup": True}]),
        ("server a:1; server b:1 down;", ["http://a:1", {"url": "http://b:1", "down": True}]),
        ("server a:1 resolve slow_start=30s;", ["http://a:1"]),
        ("server a:1; server a:1;", ["http://a:1"]),
    ],
)
def test_servers_become_backends(tmp_path: Path, servers: str, backends: list[Any]) -> None:
    text = f"upstream u {{ {servers} }} server {{ location / {{ proxy_pass http://u; }} }}"
    assert data_of(text, tmp_path)["backends"] == backends


@pytest.mark.parametrize(
    ("upstream", "group", "options"),
    [
        ("server c:1 max_fails=3 fail_timeout=30s;", "health", {"max_fails": 3, "fail_timeout": "30s"}),
        ("server c:1 max_fails=0;", "health", {"max_fails": 0}),
        ("server c:1 max_fails=2; server d:1 max_fails=5;", "health", {"max_fails": 5}),
        ("keepalive 32;", "keepalive", {"connections": 32}),
        ("keepalive 8; keepalive_requests 50; keepalive_timeout 3s;", "keepalive",
         {"connections": 8, "requests": 50, "timeout": "3s"}),
    ],
)  # fmt: skip
def test_what_an_upstream_says_of_all_its_servers(
    tmp_path: Path, upstream: str, group: str, options: dict[str, Any]
) -> None:
    assert data_of(whole(upstream), tmp_path)[group] == options


@pytest.mark.parametrize(
    ("upstream", "policy", "kept"),
    [
        ("", "expected_completion", "round_robin"),
        ("least_conn;", "expected_completion", "least_connections"),
        ("random;", "expected_completion", "random"),
        ("random two least_conn;", "expected_completion", "power_of_two"),
        ("ip_hash;", "prefix_hash", "prefix_hash"),
        ("hash $request_uri consistent;", "prefix_hash", "prefix_hash"),
        ("hash $http_x_session_id;", {"name": "session", "header": "x-session-id"}, None),
        ("hash ${http_x_session_id} consistent;", {"name": "session", "header": "x-session-id"}, None),
        ("hash $cookie_chat;", {"name": "session", "header": None, "cookie": "chat"}, None),
        ("sticky cookie route expires=1h;", {"name": "session", "header": None, "cookie": "route"}, None),
    ],
)
def test_the_balancing_method_becomes_a_policy(tmp_path: Path, upstream: str, policy: Any, kept: Any) -> None:
    assert data_of(whole(upstream), tmp_path)["policy"] == policy
    assert data_of(whole(upstream), tmp_path, keep_policy=True)["policy"] == (kept or policy)


@pytest.mark.parametrize(
    ("server", "listen"),
    [
        ("", "0.0.0.0:80"),
        ("listen 8080;", "0.0.0.0:8080"),
        ("listen *:8080;", "0.0.0.0:8080"),
        ("listen 127.0.0.1;", "127.0.0.1:80"),
        ("listen localhost:8080;", "localhost:8080"),
        ("listen [::1];", "[::1]:80"),
        ("listen 80; listen [::]:80;", ["0.0.0.0:80", "[::]:80"]),
        ("listen [::]:80 ipv6only=off;", ["0.0.0.0:80", "[::]:80"]),
        ("listen unix:/run/f.sock;", "unix:/run/f.sock"),
        ("listen 80 default_server reuseport; listen 127.0.0.1:80;", "0.0.0.0:80"),
        ("listen 80 proxy_protocol; set_real_ip_from 10.0.0.0/8;", [{"address": "0.0.0.0:80", "proxy_protocol": True}]),
        ("listen 9900;", "0.0.0.0:9900"),
    ],
)
def test_listen_becomes_listeners(tmp_path: Path, server: str, listen: Any) -> None:
    assert data_of(whole(server=server), tmp_path)["listen"] == listen


@pytest.mark.parametrize(
    ("location", "group", "options"),
    [
        ("proxy_connect_timeout 10;", "timeouts", {"connect": "10s"}),
        ("proxy_read_timeout 1h;", "timeouts", {"first_byte": "1h", "idle": "1h"}),
        ("proxy_read_timeout '1h 30m';", "timeouts", {"first_byte": "90m", "idle": "90m"}),
        ("proxy_read_timeout 7d;", "timeouts", {"first_byte": "1d", "idle": "1d"}),
        ("proxy_send_timeout 500ms;", "timeouts", {"send": "500ms"}),
        ("send_timeout 30s;", "timeouts", {"client_write": "30s"}),
        ("client_body_timeout 20s;", "timeouts", {"client_body": "20s"}),
        ("keepalive_timeout 65 60;", "timeouts", {"client_idle": "65s"}),
        ("client_max_body_size 1m;", "limits", {"body": "1MiB"}),
        ("client_max_body_size 10G;", "limits", {"body": "1GiB"}),
        ("client_max_body_size 100000;", "limits", {"body": "100KB"}),
        ("proxy_next_upstream error timeout http_500 http_429;", "retries",
         {"on": ["connect", "timeout", 500, 429]}),
        ("proxy_next_upstream off;", "retries", {"attempts": 0}),
        ("proxy_next_upstream_tries 1;", "retries", {"attempts": 0}),
        ("proxy_next_upstream_tries 3; proxy_next_upstream_timeout 20s;", "retries", {"attempts": 2, "window": "20s"}),
        ("proxy_next_upstream_tries 20;", "retries", {"attempts": 5}),
        ("proxy_set_header X-Team ml;", "headers", {"set": ["X-Team: ml"]}),
        ("proxy_set_header X-Debug '';", "headers", {"remove": ["x-debug"]}),
        ('proxy_set_header X-Quote "a \\"b\\"";', "headers", {"set": ['X-Quote: a "b"']}),
    ],
)  # fmt: skip
def test_what_a_location_says(tmp_path: Path, location: str, group: str, options: dict[str, Any]) -> None:
    data = data_of(whole(location=location), tmp_path)
    assert data.pop(group) == options
    assert set(data) == {"listen", "policy", "backends"}  # and nothing else came of it


@pytest.mark.parametrize(
    ("http", "group", "options"),
    [
        ("client_header_timeout 15s;", "timeouts", {"client_header": "15s"}),
        ("large_client_header_buffers 4 32k;", "limits", {"head": "128KiB"}),
        ("http2_max_concurrent_streams 50;", "limits", {"streams": 50}),
        ("access_log off;", "access_log", False),
        ("access_log /var/log/a.log;", "access_log", {"format": "combined", "path": "/var/log/a.log"}),
        ("access_log /dev/stdout combined;", "access_log", {"format": "combined", "path": "-"}),
        ("log_format j escape=json '{\"s\": $status}'; access_log /a j;", "access_log",
         {"format": "json", "path": "/a"}),
        ("log_format t '$remote_addr ' '[$time_local] $status'; access_log /a t buffer=8k;", "access_log",
         {"format": "template", "template": "$remote_addr [$time_local] $status", "path": "/a"}),
        ("log_format t '${status}x $host \"$request\"'; access_log /a t;", "access_log",
         {"format": "template", "template": '$status x - "$request_method $request_path HTTP/1.1"', "path": "/a"}),
    ],
)  # fmt: skip
def test_what_stands_around_the_servers(tmp_path: Path, http: str, group: str, options: Any) -> None:
    assert data_of(whole(http=http), tmp_path)[group] == options


@pytest.mark.parametrize(
    ("locations", "routes", "backends"),
    [
        ("location /v1/ { proxy_pass http://u; }", [("/v1/", False)], PLAIN_BACKENDS),
        ("location ^~ /v1/ { proxy_pass http://u; }", [("/v1/", False)], PLAIN_BACKENDS),
        ("location = /v1/models { proxy_pass http://u; }", [("/v1/models", False)], PLAIN_BACKENDS),
        ("location ~ ^/v1/ { proxy_pass http://u; }", [("/v1/", False)], PLAIN_BACKENDS),
        ("location ~* ^/v1/(.*)$ { proxy_pass http://u; }", [("/v1/", False)], PLAIN_BACKENDS),
        ("location /v1/ { proxy_pass http://u/v1/; }", [("/v1/", False)], PLAIN_BACKENDS),
        ("location /llm/ { proxy_pass http://u/; }", [("/llm/", True)], PLAIN_BACKENDS),
        ("location /llm { proxy_pass http://u/; }", [("/llm", True)], PLAIN_BACKENDS),
        ("location /llm/v1/ { proxy_pass http://u/v1/; }", [("/llm/", True)], PLAIN_BACKENDS),
        ("location /a/ { proxy_pass http://u/b/; }", [("/a/", True)],
         ["http://10.0.0.1:8000/b", "http://10.0.0.2:8000/b"]),
        ("location / { proxy_pass http://u/b/; }", [], ["http://10.0.0.1:8000/b", "http://10.0.0.2:8000/b"]),
        ("location / { proxy_pass http://u/; }", [], PLAIN_BACKENDS),
        ("location / { proxy_pass http://u$request_uri; }", [], PLAIN_BACKENDS),
        ("set $t http://u; location / { proxy_pass $t; }", [], PLAIN_BACKENDS),
        ("location / { location /v1/ { proxy_pass http://u; } }", [("/v1/", False)], PLAIN_BACKENDS),
        ("location / { proxy_pass http://h:8000; }", [], ["http://h:8000"]),
        ("location / { proxy_pass https://h; proxy_ssl_verify on; }", [], ["https://h"]),
        ("location / { proxy_pass http://unix:/run/a.sock; }", [], ["unix:/run/a.sock"]),
        ("location ~ ^/(a|b)/ { proxy_pass http://u; }", [], PLAIN_BACKENDS),  # with a note
    ],
)  # fmt: skip
def test_locations_become_routes(
    tmp_path: Path, locations: str, routes: list[tuple[str, bool]], backends: list[str]
) -> None:
    data = data_of(UPSTREAM % "" + f"server {{ {locations} }}", tmp_path)
    assert [(each["path"], each.get("strip", False)) for each in data.get("routes", [])] == routes
    assert data["backends"] == backends


def test_two_locations_lead_to_their_own_backends(tmp_path: Path) -> None:
    text = "upstream a { server a:1; } upstream b { server b:1; } server { "
    text += "location / { proxy_pass http://a; } location /b/ { proxy_pass http://b; } }"
    assert data_of(text, tmp_path)["routes"] == [
        {"path": "/b/", "backends": ["b:1"]},
        {"path": "/", "backends": ["a:1"]},
    ]


def test_a_key_for_some_backends_never_goes_to_the_others(tmp_path: Path) -> None:
    both = "proxy_set_header X-All 1; "
    text = "server { location /a/ { proxy_pass http://a:1; %s proxy_set_header Authorization 'Bearer k'; } "
    text += "location /b/ { proxy_pass http://b:1; %s } }"
    data = data_of(text % (both, both), tmp_path)
    assert data["headers"] == {"set": ["X-All: 1"]}
    assert data["backends"] == [{"url": "http://a:1", "headers": ["Authorization: Bearer k"]}, "http://b:1"]
    shared = text.replace("b:1", "a:1") % ("", "")
    made = imported(shared, tmp_path)
    assert "headers" not in made.data and made.data["backends"] == ["http://a:1"]
    assert any("proxy_set_header Authorization ..." in str(note) for note in made.notes)
    assert not any("Bearer" in str(note) for note in made.notes)


TLS = "listen 443 ssl; ssl_certificate /c/%s.pem; ssl_certificate_key /c/%s.key;"


@pytest.mark.parametrize(
    ("server", "tls"),
    [
        ("", {}),
        ("ssl_protocols TLSv1.3;", {"min_version": "1.3"}),
        ("ssl_protocols TLSv1.1 TLSv1.2 TLSv1.3;", {"min_version": "1.2"}),
        ("ssl_client_certificate /c/ca.pem; ssl_verify_client on;",
         {"client_ca": "/c/ca.pem", "client_certs": "required"}),
        ("ssl_client_certificate /c/ca.pem; ssl_verify_client optional;",
         {"client_ca": "/c/ca.pem", "client_certs": "optional"}),
        ("ssl_client_certificate /c/ca.pem;", {}),
        ("ssl_certificate /c/b.pem; ssl_certificate_key /c/b.key;",
         {"more": [{"cert": "/c/b.pem", "key": "/c/b.key"}]}),
    ],
)  # fmt: skip
def test_tls_in_front(tmp_path: Path, server: str, tls: dict[str, Any]) -> None:
    data = data_of(whole(server=TLS % ("a", "a") + server), tmp_path)
    (listen,) = data["listen"]
    assert listen == {"address": "0.0.0.0:443", "tls": {"cert": "/c/a.pem", "key": "/c/a.key"} | tls}


def test_the_certificates_of_servers_on_one_address_are_told_apart_by_name(tmp_path: Path) -> None:
    text = UPSTREAM % "" + SERVER % (TLS % ("a", "a"), "")
    text += SERVER % ((TLS % ("b", "b")).replace("443 ssl", "443 ssl default_server"), "")
    (listen,) = data_of(text, tmp_path)["listen"]
    assert listen["tls"] == {"cert": "/c/b.pem", "key": "/c/b.key", "more": [{"cert": "/c/a.pem", "key": "/c/a.key"}]}


def test_relative_certificates_lie_beside_the_main_file(tmp_path: Path) -> None:
    server = "listen 443 ssl; ssl_certificate certs/a.pem; ssl_certificate_key certs/a.key;"
    (listen,) = data_of(whole(server=server), tmp_path)["listen"]
    assert listen["tls"]["cert"] == str(tmp_path / "certs" / "a.pem")


@pytest.mark.parametrize(
    ("location", "tls"),
    [
        ("proxy_ssl_verify off;", {"verify": False}),
        ("proxy_ssl_verify on; proxy_ssl_trusted_certificate /c/ca.pem;", {"ca": "/c/ca.pem"}),
        ("proxy_ssl_verify on; proxy_ssl_name engines.internal;", {"server_name": "engines.internal"}),
        ("proxy_ssl_verify on; proxy_ssl_certificate /c/a.pem; proxy_ssl_certificate_key /c/a.key;",
         {"cert": "/c/a.pem", "key": "/c/a.key"}),
        ("", None),
    ],
)  # fmt: skip
def test_tls_to_backends(tmp_path: Path, location: str, tls: dict[str, Any] | None) -> None:
    made = imported(f"server {{ location / {{ proxy_pass https://h:8443; {location} }} }}", tmp_path)
    config_of(made)
    assert made.data.get("backend_tls") == tls
    is_warned = any(note.important and "does not verify" in note.reason for note in made.notes)
    assert is_warned == (tls is None)


def test_two_fleets_with_different_tls_keep_their_own(tmp_path: Path) -> None:
    text = "server { location /a/ { proxy_pass https://a; proxy_ssl_verify off; } "
    text += "location /b/ { proxy_pass https://b; proxy_ssl_verify on; } }"
    data = data_of(text, tmp_path)
    assert data["backends"] == [{"url": "https://a", "tls": {"verify": False}}, "https://b"]
    assert "backend_tls" not in data


@pytest.mark.parametrize(
    ("http", "networks"),
    [
        ("set_real_ip_from 10.0.0.0/8; set_real_ip_from 10.1.2.3; real_ip_header X-Forwarded-For;",
         ["10.0.0.0/8", "10.1.2.3/32"]),
        ("set_real_ip_from unix:; real_ip_header proxy_protocol;", ["unix"]),
        ("set_real_ip_from fd00::/8;", ["fd00::/8"]),
        ("set_real_ip_from lb.example.com;", None),
    ],
)  # fmt: skip
def test_trusted_proxies(tmp_path: Path, http: str, networks: list[str] | None) -> None:
    assert data_of(whole(http=http), tmp_path).get("trusted_proxies") == networks


def test_a_proxy_protocol_listener_that_names_nobody_trusts_private_addresses_and_says_so(tmp_path: Path) -> None:
    made = imported(whole(server="listen 80 proxy_protocol;"), tmp_path)
    config_of(made)
    assert "10.0.0.0/8" in made.data["trusted_proxies"] and "unix" not in made.data["trusted_proxies"]
    assert any(note.important and "trusted_proxies" in note.reason for note in made.notes)
