"""Whatever an nginx.conf says, what is imported loads, and the written file says the same as the data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nginx_checking import config_of, imported, read_back

from fairlead.nginx.convert import import_nginx
from fairlead.nginx.tree import NginxError

WORDS = st.sampled_from([
    "0", "1", "5s", "999999999", "1k", "10g", "on", "off", "x", "$x", "$host", "${http_a}", "a=b", "''", "'a b'",
    "unix:/a", "10.0.0.0/8", "weight=5000", "max_conns=9999999", "max_fails=99999", "fail_timeout=1w", "backup",
    "down", "ssl", "proxy_protocol", "http2", "error", "http_503", "http_404", "optional", "TLSv1", "TLSv1.3", "two",
    "cookie", "/c/a.pem", "\"q\\\"uote\"", "$1", "a\\tb",
])  # fmt: skip
IN_UPSTREAM = ["least_conn", "ip_hash", "hash", "random", "sticky", "keepalive", "keepalive_timeout", "zone", "foo"]
HOSTS = st.sampled_from(
    ["a", "a:1", "b:80", "[::1]:5", "[::1", "10.0.0.999:1", "unix:/s", "$v", "a:99999", "B_c:1", "a:b:c"]
)
IN_SERVER = [
    "proxy_read_timeout", "proxy_connect_timeout", "client_max_body_size", "large_client_header_buffers",
    "send_timeout",
    "proxy_next_upstream", "proxy_next_upstream_tries", "proxy_next_upstream_timeout", "proxy_set_header", "access_log",
    "proxy_ssl_verify", "proxy_ssl_certificate", "proxy_ssl_certificate_key", "proxy_ssl_name", "set_real_ip_from",
    "ssl_certificate", "ssl_certificate_key", "ssl_protocols", "ssl_verify_client", "ssl_client_certificate",
    "proxy_buffering", "keepalive_timeout", "http2_max_concurrent_streams", "worker_shutdown_timeout", "set", "gzip",
]  # fmt: skip
PATHS = st.sampled_from(
    ["/", "/v1/", "/v1", "= /x", "^~ /y/", "~ ^/z/", "~ a|b", "@n", "/a?b", "'/a b'", "/ä", "/v1/v1/"]
)
TARGETS = st.sampled_from([
    "http://u", "http://u/", "http://u/v1/", "https://u", "https://h:80", "http://h:80", "http://unix:/s:/x/", "http://$v",
    "u", "http://h/a b", "http://[::1]:7/x", "http://h$request_uri",
])  # fmt: skip
LISTENS = st.sampled_from(["80", "*:80", "127.0.0.1:80", "[::]:80", "[::]:80 ipv6only=off", "443 ssl", "9900",
                           "unix:/l", "80 proxy_protocol", "443 quic", "x:y", "70000", "[::1"])  # fmt: skip


def lines(names: list[str]) -> st.SearchStrategy[str]:
    line = st.tuples(st.sampled_from(names), st.lists(WORDS, min_size=1, max_size=3))
    return st.lists(line, max_size=5).map(lambda made: "".join(f"{name} {' '.join(args)};\n" for name, args in made))


SERVERS = st.tuples(HOSTS, st.lists(WORDS, max_size=3)).map(lambda made: f"server {made[0]} {' '.join(made[1])};\n")
UPSTREAMS = st.tuples(st.lists(SERVERS, min_size=1, max_size=4), lines(IN_UPSTREAM)).map(
    lambda made: f"upstream u {{\n{''.join(made[0])}{made[1]}}}\n"
)
LOCATIONS = st.tuples(PATHS, TARGETS, lines(IN_SERVER)).map(
    lambda made: f"location {made[0]} {{\nproxy_pass '{made[1]}';\n{made[2]}}}\n"
)
BLOCKS = st.tuples(st.lists(LISTENS, max_size=3), lines(IN_SERVER), st.lists(LOCATIONS, min_size=1, max_size=3)).map(
    lambda made: f"server {{\n{''.join(f'listen {each};' for each in made[0])}\n{made[1]}{''.join(made[2])}}}\n"
)


@given(UPSTREAMS, st.lists(BLOCKS, min_size=1, max_size=3), lines(IN_SERVER), st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_what_is_imported_loads_and_reads_back(
    tmp_path_factory: pytest.TempPathFactory, upstream: str, blocks: list[str], around: str, keep: bool
) -> None:
    text = f"log_format x '$remote_addr $1 ${{status}}b\t$ $host';\n{around}{upstream}{''.join(blocks)}"
    try:
        made: Any = imported(text, tmp_path_factory.getbasetemp(), keep_policy=keep)
    except NginxError:
        return  # said with its line; test_nginx_notes.py looks at the words
    config_of(made)
    assert read_back(made) == made.data


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_bytes_give_a_configuration_or_an_error_that_says_so(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.conf"
    file.write_bytes(b"upstream u { server a:1; " + data + b" }")
    try:
        made = import_nginx(str(file))
    except NginxError:
        return
    config_of(made)
